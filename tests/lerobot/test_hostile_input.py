"""Sets made to do harm, a row of the contract each: no attribute, no other file, no unchecked size is read."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from iltools_datasets.errors import MissingExtraError, SourceError
from iltools_datasets.lerobot import LeRobotReader, json_files
from iltools_datasets.lerobot.paths import PathPattern
from sets import HEIGHT, VERSIONS, WIDTH, arrow_column, counter_picture, encode, make_set

LENGTHS = {0: 5, 1: 3}
TOP = "observation.images.top"


@pytest.mark.parametrize(
    "pattern",
    [
        "data/{episode_index.__class__}.parquet",
        "data/{episode_index[0]}.parquet",
        "data/{episode_index!r}.parquet",
        "data/{episode_index:0999999999d}.parquet",
        "data/{episode_index:>10}.parquet",
        "data/{episode_index:{episode_chunk}}.parquet",
        "data/{nonsense}.parquet",
        "data/{0}.parquet",
        "data/{}.parquet",
        "data/{episode_index",
        "/etc/{episode_index}.parquet",
        "../{episode_index}.parquet",
        "data/../../{episode_index}.parquet",
        "data\\..\\{episode_index}.parquet",
        "data/\0{episode_index}.parquet",
        "",
        "x" * 2000,
    ],
)
@pytest.mark.parametrize("field", ["data_path", "video_path"])
def test_path_patterns_are_parsed(pattern: str, field: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)
    made.edit_info(lambda info: info.update({field: pattern}))
    with pytest.raises(SourceError, match=f"info.json: {field}: "):
        LeRobotReader(made.root)


def test_a_pattern_formats_as_str_format_does() -> None:
    text = "a/{chunk_index:03d}/{video_key}/{file_index}-{{x}}.mp4"
    pattern = PathPattern(text, ("chunk_index", "file_index"), ("video_key",), "here")
    values: dict[str, Any] = {"chunk_index": 7, "file_index": 12345, "video_key": "cam.top"}
    assert pattern.format(**values) == text.format(**values)
    with pytest.raises(SourceError, match="within the data set"):
        pattern.format(chunk_index=0, file_index=0, video_key="../../x")


@pytest.mark.parametrize("key", ["../../outside", "a/b", "a\\b", "..", "", "a\0b", "x" * 300])
@pytest.mark.parametrize("version", VERSIONS)
def test_feature_keys_take_part_in_paths(key: str, version: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", version, LENGTHS)
    entry = {"dtype": "video", "shape": [48, 80, 3], "names": None}
    made.edit_info(lambda info: info["features"].update({key: entry}))
    with pytest.raises(SourceError, match="cannot be the name of a feature"):
        LeRobotReader(made.root)


@pytest.mark.parametrize("version", VERSIONS)
def test_keys_that_no_file_can_be_named_after_are_still_features(version: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", version, LENGTHS)
    names = {"action": "Action", "observation.wide": "action", "observation.half": "a b:c", "next.done": "done",
             "observation.level": "next", "observation.bytes": "shape"}  # fmt: skip

    def rename(info: dict[str, Any]) -> None:
        info["features"] = {names.get(key, key): entry for key, entry in info["features"].items()}

    made.edit_info(rename)
    for path in made.root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.rename_columns([names.get(name, name) for name in table.column_names]), path)
    reader = LeRobotReader(made.root)
    for old, new in names.items():
        found = reader.gather(np.arange(8), [new, ("next", new)])
        assert np.array_equal(found[new], made.all(old).astype(found[new].dtype)), new
        assert np.array_equal(found["next", new][0], found[new][1])


def test_links_that_lead_out_of_the_set(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS, cameras={TOP: "video"})
    outside = make_set(tmp_path / "outside", "v2.1", LENGTHS, cameras={TOP: "video"})
    for path in (made.data_file(1), made.root / "meta/episodes.jsonl"):
        content = path.read_bytes()
        path.unlink()
        path.symlink_to(outside.root / path.relative_to(made.root))
        with pytest.raises(SourceError, match=r"leads to .*/outside/.*, outside the data set"):
            LeRobotReader(made.root)
        path.unlink()
        path.write_bytes(content)
    path = made.video_file(1, TOP)
    path.unlink()
    path.symlink_to(outside.video_file(1, TOP))
    reader = LeRobotReader(made.root)
    with pytest.raises(SourceError, match="outside the data set"):
        reader.camera(TOP, episodes=reader.choice())


def test_an_image_path_that_leads_out(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS, cameras={TOP: "image"})
    (tmp_path / "secret.png").write_bytes(b"secret")
    for path in ("../secret.png", str(tmp_path / "secret.png")):

        def change(table: pa.Table, path: str = path) -> pa.Table:
            rows = [{"bytes": None, "path": path}] * len(table)
            at = table.column_names.index(TOP)
            return table.set_column(at, TOP, pa.array(rows, table.schema.field(TOP).type))

        made.edit_data(1, change)
        with pytest.raises(SourceError, match="must be a path within the data set"):
            LeRobotReader(made.root).pictures([6], TOP)


def test_json_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)
    info, episodes = made.root / "meta/info.json", made.root / "meta/episodes.jsonl"
    sound = info.read_text()
    for content, message in [
        ("[" * 100_000, "no JSON"),
        ('{"fps": ' + "9" * 10_000 + "}", "no JSON"),
        ("[1, 2]", "expected a JSON object, found list"),
        ("\xff\xfe", "no JSON"),
    ]:
        info.write_text(content, encoding="latin1")
        with pytest.raises(SourceError, match=f"info.json: {message}"):
            LeRobotReader(made.root)
    info.write_text(sound)
    monkeypatch.setattr(json_files, "LONGEST_LINE", 1000)
    episodes.write_text('{"episode_index": 0, "tasks": ["' + "x" * 2000 + '"], "length": 5}\n')
    with pytest.raises(SourceError, match=r"episodes.jsonl, line 1: longer than the 1,000 bytes"):
        LeRobotReader(made.root)
    monkeypatch.setattr(json_files, "LARGEST_DOCUMENT", 1000)
    with pytest.raises(SourceError, match=r"info.json: larger than the 1,000 bytes"):
        LeRobotReader(made.root)


def test_numbers_beyond_63_bits(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)
    made.edit_lines("episodes.jsonl", lambda lines: [{**lines[0], "length": 2**80}, lines[1]])
    with pytest.raises(SourceError, match="line 1: length: expected an integer"):
        LeRobotReader(made.root)
    made.edit_lines("episodes.jsonl", lambda lines: [{**lines[0], "length": 2**62}, lines[1]])
    with pytest.raises(SourceError, match="add up to more frames than there can be"):
        LeRobotReader(made.root)
    made.edit_lines("episodes.jsonl", lambda lines: [{**lines[0], "length": 2**50}, lines[1]])
    with pytest.raises((SourceError, MemoryError)):
        LeRobotReader(made.root)


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_are_counted_before_anything_is_allocated(version: str, tmp_path: Path) -> None:
    """Equal values take next to no room in a file: 4 million rows of it, and as many elements in a row."""
    made = make_set(tmp_path / "set", version, LENGTHS)
    many = 4_000_000
    table = pq.read_table(made.data_file(1))
    wide = pa.ListArray.from_arrays(
        pa.array([0, *[many] * len(table)], pa.int32()), pa.array(np.zeros(many, np.float32))
    )
    pq.write_table(table.set_column(table.column_names.index("action"), "action", wide), made.data_file(1))
    del wide, table
    before = peak_of(made.root, rf"{made.data_file(1).name}: column 'action': 4,000,00\d values in \d rows")
    rows = pa.table({name: pa.array(np.zeros(many, np.int64)) for name in ("episode_index", "frame_index")})
    for key, values in made.columns[0].items():
        if key not in rows.column_names:
            zeros = np.zeros((many, *values.shape[1:]), values.dtype)
            rows = rows.append_column(key, arrow_column(zeros))
    pq.write_table(rows, made.data_file(1))
    del rows
    after = peak_of(made.root, r"4,000,000 rows, 4,000,00\d in all data files; the episode table lists 8 frames")
    assert max(before, after) < 4e6


def peak_of(root: Path, message: str) -> int:
    """Most bytes that pyarrow held at once while a fresh process opened a set, which must fail with this message."""
    code = f"""
import re, sys
import pyarrow as pa
from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot import LeRobotReader
try:
    LeRobotReader({str(root)!r})
except SourceError as error:
    assert re.search({message!r}, str(error)), error
    print(pa.default_memory_pool().max_memory())
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.stdout, outcome.stderr
    return int(outcome.stdout)


def test_extension_types_are_read_by_their_storage_and_never_registered(tmp_path: Path) -> None:
    """A file may name any type in its schema; which class that is, only whoever registered it decides."""
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)

    def mark(table: pa.Table) -> pa.Table:
        at = table.column_names.index("observation.matrix")
        field = table.schema.field(at)
        metadata = {b"ARROW:extension:name": b"evil.type", b"ARROW:extension:metadata": b"\x80\x04cos\nsystem\n."}
        return table.cast(table.schema.set(at, field.with_metadata(metadata)))

    for episode in LENGTHS:
        made.edit_data(episode, mark)
    reader = LeRobotReader(made.root)
    assert np.array_equal(
        reader.gather(np.arange(8), ["observation.matrix"])["observation.matrix"], made.all("observation.matrix")
    )


def test_registered_extension_types_are_read_too(tmp_path: Path) -> None:
    """As `datasets` registers them, once it is imported."""

    class Array2D(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.list_(pa.list_(pa.float32())), "test.array2d")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Array2D:
            return cls()

    made = make_set(tmp_path / "set", "v3.0", LENGTHS)
    kind = Array2D()
    pa.register_extension_type(kind)
    try:

        def wrap(table: pa.Table) -> pa.Table:
            at = table.column_names.index("observation.matrix")
            storage = table.column(at).combine_chunks().cast(kind.storage_type)
            return table.set_column(at, "observation.matrix", pa.ExtensionArray.from_storage(kind, storage))

        made.edit_data(0, wrap)
        reader = LeRobotReader(made.root)
    finally:
        pa.unregister_extension_type("test.array2d")
    assert np.array_equal(
        reader.gather(np.arange(8), ["observation.matrix"])["observation.matrix"], made.all("observation.matrix")
    )


def test_an_old_pyarrow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)
    monkeypatch.setattr(pa, "__version__", "16.1.0")
    with pytest.raises(MissingExtraError, match=r"pyarrow >= 17, found 16.1.0"):
        LeRobotReader(made.root)


@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile '{secret}'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "[playlist]\nFile1={secret}\n",
        "",
    ],
)
def test_a_script_that_is_called_mp4_opens_nothing(script: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS, cameras={TOP: "video"})
    secret = tmp_path / "secret.mp4"
    encode(secret, [counter_picture(1, frame) for frame in range(3)], 10)
    made.video_file(1, TOP).write_text(script.format(secret=secret))
    reader = LeRobotReader(made.root)
    with pytest.raises(SourceError, match="no video that can be read"):
        reader.camera(TOP, episodes=reader.choice())


def test_a_codec_that_is_not_known(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", {0: 3}, cameras={TOP: "video"})
    import av

    with av.open(str(made.video_file(0, TOP)), "w", format="mp4") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        for frame in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(counter_picture(0, frame), format="rgb24")))
        container.mux(stream.encode(None))
    reader = LeRobotReader(made.root)
    with pytest.raises(SourceError, match="codec mjpeg is not read; h264, hevc, av1, vp9, mpeg4 are"):
        reader.camera(TOP, episodes=reader.choice())


def test_an_image_is_measured_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    made = make_set(tmp_path / "set", "v2.1", {0: 3}, cameras={TOP: "image"})

    def change(table: pa.Table) -> pa.Table:
        rows = [{"bytes": bomb, "path": None}] * len(table)
        return table.set_column(table.column_names.index(TOP), TOP, pa.array(rows, table.schema.field(TOP).type))

    made.edit_data(0, change)
    with pytest.raises(SourceError, match=r"expected a picture of 48 x 80|decompression bomb"):
        LeRobotReader(made.root).pictures([0], TOP)


@pytest.mark.parametrize("content", [b"%!PS-Adobe\n(x) show", b"GIF89a" + bytes(40), b"<svg/>", b"RIFF" + bytes(40)])
def test_an_image_of_another_format_is_not_decoded(content: bytes, tmp_path: Path) -> None:
    from iltools_datasets.lerobot.images import decode_image

    with pytest.raises(SourceError, match="here: no picture that can be decoded"):
        decode_image(content, (48, 80, 3), np.empty((48, 80, 3), np.uint8), "here")


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_set(tmp_path / "set", "v3.0", LENGTHS, cameras={TOP: "video", "observation.images.side": "image"})
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    monkeypatch.setenv("ILTOOLS_CACHE", str(blocked))
    reader = LeRobotReader(made.root)
    assert "cannot be written" in reader.notes[0]
    assert np.array_equal(reader.gather(np.arange(8), ["action"])["action"], made.all("action"))
    for key in reader.camera_keys:
        assert reader.pictures([0, 7], key).any()
    assert not reader.store.path.exists()
    assert not list(Path("/dev/shm").glob("iltools-lerobot-*")) if os.access("/dev/shm", os.W_OK) else True


def test_nested_metadata_is_no_trouble(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)
    path = made.root / "meta/tasks.jsonl"
    path.write_text(json.dumps({"task_index": 0, "task": {"a": 1}}) + "\n")
    with pytest.raises(SourceError, match=r"tasks.jsonl, line 1: task: expected a string"):
        _ = LeRobotReader(made.root).tasks
