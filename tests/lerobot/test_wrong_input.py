"""What can be wrong with a set, a row of the contract each: an error that names it, and nothing built."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.lerobot import LeRobotReader
from sets import HEIGHT, VERSIONS, WIDTH, LeRobotSet, arrow_column, counter_picture, encode, make_set

LENGTHS = {0: 5, 1: 3, 2: 7, 5: 4}
TOP = "observation.images.top"


@pytest.fixture(params=VERSIONS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> LeRobotSet:
    return make_set(tmp_path / "set", request.param, LENGTHS, fps=30)


def refuses(made: LeRobotSet, message: str, kind: type[Exception] = SourceError) -> None:
    """Opening is an error with this message, and leaves nothing in the cache."""
    with pytest.raises(kind, match=message):
        LeRobotReader(made.root)
    import os

    left = [path for path in Path(os.environ["ILTOOLS_CACHE"]).rglob("*") if path.is_file()]
    assert left == []


# -- info.json ---------------------------------------------------------------------------------------------------------


def test_no_info(made: LeRobotSet) -> None:
    (made.root / "meta/info.json").unlink()
    refuses(made, r"set: no LeRobot data set: there is no meta/info.json", SourceNotFoundError)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("v1.6", "v1.6 is not read, v2.0 to v3.0 are; convert it"),
        ("v4.0", "v4.0 is newer than v3.0.*update iltools-datasets"),
        ("three", "codebase_version: expected one like 'v2.1', found 'three'"),
        (None, "codebase_version: expected one like 'v2.1', found None"),
        (2.1, "codebase_version: expected one like 'v2.1', found 2.1"),
    ],
)
def test_other_versions(made: LeRobotSet, version: object, message: str) -> None:
    made.edit_info(lambda info: info.update(codebase_version=version))
    refuses(made, message)


def test_files_of_another_version_than_it_says(made: LeRobotSet) -> None:
    other = "v2.1" if made.version == "v3.0" else "v3.0"
    made.edit_info(lambda info: info.update(codebase_version=other))
    if other == "v3.0":
        made.edit_info(lambda info: info.update(data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"))
        made.edit_info(lambda info: info.update(video_path=None))
        refuses(made, r"info.json says v3.0, but meta/episodes.jsonl is of v2.1.*set codebase_version to v2.1")
    else:
        made.edit_info(lambda info: info.update(data_path="data/{episode_chunk}/{episode_index}.parquet"))
        made.edit_info(lambda info: info.update(video_path=None))
        refuses(made, r"info.json says v2.1, but meta/episodes/.*parquet is of v3.0.*set codebase_version to v3.0")


def test_a_newer_minor_version_is_read_with_a_note(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v3.0", LENGTHS)
    made.edit_info(lambda info: info.update(codebase_version="v3.2"))
    assert LeRobotReader(made.root).notes == ["codebase_version v3.2 is read as v3.0"]


def of_feature(**change: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda info: info["features"]["action"].update(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(fps=0), "fps: expected a positive number, found 0"),
        (lambda info: info.update(fps=-30), "fps: expected a positive number, found -30"),
        (lambda info: info.update(fps=float("nan")), "fps: expected a positive number, found nan"),
        (lambda info: info.update(fps=float("inf")), "fps: expected a positive number, found inf"),
        (lambda info: info.update(fps="30"), "fps: expected a positive number, found '30'"),
        (lambda info: info.pop("fps"), "fps: expected a positive number, found None"),
        (lambda info: info.update(chunks_size=0), "chunks_size: expected an integer of at least 1, found 0"),
        (of_feature(shape=[-4]), "features: 'action': shape: expected an integer of at least 0, found -4"),
        (of_feature(shape="4"), "features: 'action': shape: expected a list of integers"),
        (of_feature(shape=[1 << 20, 1 << 20]), "more elements than a row may have"),
        (of_feature(dtype=None), "'action': expected an object with dtype and shape"),
        (lambda info: info.update(features=[]), "features: expected an object of features"),
        (lambda info: info.update(data_path=None), "data_path: expected a path pattern"),
        (
            lambda info: info["features"].update(timestamp={"dtype": "string", "shape": [1]}),
            "'timestamp': expected one number",
        ),
        (
            lambda info: info["features"].update(cam={"dtype": "video", "shape": [3], "names": None}),
            r"'cam': shape: expected \[H, W, C\]",
        ),
    ],
)
def test_impossible_fields(made: LeRobotSet, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    made.edit_info(change)
    refuses(made, f"info.json: .*{message}")


def test_two_features_of_one_name(made: LeRobotSet) -> None:
    path = made.root / "meta/info.json"
    text = path.read_text()
    path.write_text(text.replace('"next.reward":', '"action":'))
    refuses(made, "info.json: 'action' is there twice")


# -- data files --------------------------------------------------------------------------------------------------------


def spoil_footer(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    "spoil", [spoil_footer, lambda path: path.write_text("no parquet"), lambda path: path.write_bytes(b"")]
)
def test_no_parquet_or_cut(made: LeRobotSet, spoil: Callable[[Path], Any]) -> None:
    spoil(made.data_file(2))
    held = "episodes 2 to 5, 2 in all" if made.version == "v3.0" else "episode 2"
    refuses(made, rf"{made.data_file(2).name} \({held}\): no parquet file, or cut: it has no footer")


def test_damaged_pages(made: LeRobotSet) -> None:
    path = made.data_file(2)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    refuses(made, rf"{path.name} \(.*\): cannot be read: ")


def test_a_data_file_is_missing(made: LeRobotSet) -> None:
    made.data_file(2).unlink()
    refuses(made, r"episode 2: the episode table lists 7 frames, the data files hold 0 rows")


def test_no_data_file(made: LeRobotSet) -> None:
    shutil.rmtree(made.root / "data")
    refuses(made, "no data file data/chunk-", SourceNotFoundError)


def test_fewer_rows_than_listed(made: LeRobotSet) -> None:
    made.edit_data(5, lambda table: table.slice(0, len(table) - 2))
    refuses(made, r"episode 5: the episode table lists 4 frames, the data files hold 2 rows, frame 2 is not among them")


def test_more_rows_than_listed(made: LeRobotSet) -> None:
    made.edit_episodes(lambda rows: [{**row, "length": row["length"] - (row["episode_index"] == 1)} for row in rows])
    refuses(
        made,
        r"episode 1: a row with frame_index 2, expected 0 to 1; the episode table lists 2 frames, this file has 3 rows",
    )


def test_a_stray_copy_of_a_file(made: LeRobotSet) -> None:
    source = made.data_file(1)
    number = re.sub(r"\d+(?=\.parquet)", lambda match: f"{int(match[0]) + 9:0{len(match[0])}d}", source.name)
    shutil.copy(source, source.with_name(number))
    refuses(made, rf"{number}: episode [01], frame 0 is there twice: .* rows of this file are")


def test_rows_of_an_episode_that_is_not_listed(made: LeRobotSet) -> None:
    made.edit_episodes(lambda rows: [row for row in rows if row["episode_index"] != 2])
    refuses(made, rf"{made.data_file(2).name}: 7 rows of episode 2, which the episode table does not list")


def test_an_episode_listed_twice(made: LeRobotSet) -> None:
    made.edit_episodes(lambda rows: [*rows, rows[1]])
    refuses(made, "episodes.*: episode 1 is listed 2 times")


def test_impossible_lengths(made: LeRobotSet) -> None:
    made.edit_episodes(lambda rows: [{**row, "length": -1} for row in rows])
    refuses(made, "length")


def test_no_episode_has_frames(made: LeRobotSet) -> None:
    made.edit_episodes(lambda rows: [{**row, "length": 0} for row in rows])
    refuses(made, "every episode has length 0")


def replace(table: pa.Table, key: str, column: Any) -> pa.Table:
    return table.set_column(table.column_names.index(key), key, column)


def with_null(table: pa.Table) -> pa.Table:
    rows = table.column("action").to_pylist()
    rows[1] = None
    return replace(table, "action", pa.array(rows, pa.list_(pa.float32())))


def with_null_inside(table: pa.Table) -> pa.Table:
    rows = table.column("action").to_pylist()
    rows[1][2] = None
    return replace(table, "action", pa.array(rows, pa.list_(pa.float32())))


def ragged(table: pa.Table) -> pa.Table:
    rows = table.column("action").to_pylist()
    rows[1] = rows[1][:3]
    return replace(table, "action", pa.array(rows, pa.list_(pa.float32())))


def as_dtype(name: str) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = np.stack(table.column("action").to_pylist())
        return replace(table, "action", arrow_column(values.astype(name)))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["action"]), "column 'action' is missing; there are"),
        (lambda table: table.drop_columns(["frame_index"]), "column 'frame_index' is missing"),
        (with_null, r"episode 2, frame 1: 'action': a null, where a value is expected"),
        (with_null_inside, r"episode 2, frame 1: 'action': a null, where a value is expected"),
        (ragged, r"episode 2, frame 1: 'action': expected 4 elements, found 3"),
        (lambda table: replace(table, "action", arrow_column(np.ones((len(table), 6), np.float32))), "expected 4"),
        (lambda table: replace(table, "action", arrow_column(np.ones((len(table), 2, 2), np.float32))), "expected 4"),
        (lambda table: replace(table, "action", pa.array(np.ones(len(table), np.float32))), r"shape \[4\]"),
        (as_dtype("float64"), "column 'action': expected float32, found (float64|double)"),
        (as_dtype("int32"), "column 'action': expected float32, found int32"),
        (lambda table: replace(table, "action", pa.array(["a"] * len(table))), "expected float32, found string"),
        (
            lambda table: replace(table, "observation.wide", arrow_column(np.full((len(table), 2), 1e300))),
            r"episode 2, frame 0: 'observation.wide': 1e\+300 does not fit float32",
        ),
    ],
)
def test_a_column_of_one_file_is_not_as_declared(
    made: LeRobotSet, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    path = made.data_file(2)
    table = pq.read_table(path)
    only = table.filter(pa.compute.equal(table.column("episode_index"), 2))
    rest = table.filter(pa.compute.not_equal(table.column("episode_index"), 2))
    if made.version == "v3.0" and len(rest):
        # A column is of one type throughout a file, so the other episode goes to a file of its own.
        pq.write_table(rest, path.with_name("file-009.parquet"))
    pq.write_table(change(only), path)
    refuses(made, f"{path.name}.*{message}")


def test_another_width_of_the_same_kind_in_all_files_is_read_with_a_note(made: LeRobotSet) -> None:
    for path in made.root.glob("data/*/*.parquet"):
        pq.write_table(as_dtype("float64")(pq.read_table(path)), path)
    reader = LeRobotReader(made.root)
    assert reader.notes == ["'action' is declared float32, its files hold float64"]
    assert np.array_equal(reader.gather([0, 5], ["action"])["action"], made.all("action")[[0, 5]])


def test_nan_is_named_where_it_is_asked_for(made: LeRobotSet) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        values = np.stack(table.column("action").to_pylist()).astype(np.float32)
        values[np.array(table.column("episode_index")) == 2, 3] = np.nan
        return replace(table, "action", arrow_column(values))

    made.edit_data(2, spoil)
    reader = LeRobotReader(made.root)
    assert np.isnan(reader.gather([8], ["action"])["action"]).any()
    with pytest.raises(SourceError, match=r"episode 2, frame 0: 'action' is NaN, in 7 frames"):
        reader.check_no_nan(["observation.state", "action"])
    reader.check_no_nan(["action"], [0, 1, 5])
    reader.check_no_nan(["observation.state"])


# -- what is believed, and noted --------------------------------------------------------------------------------------


def test_rows_in_any_file_and_order_are_believed(made: LeRobotSet) -> None:
    """All rows, shuffled over files of other numbers than the table names."""
    expected = LeRobotReader(made.root).gather(np.arange(19), ["action", "observation.matrix"])
    files = sorted(made.root.glob("data/*/*.parquet"))
    whole = pa.concat_tables([pq.read_table(path) for path in files])
    order = np.random.default_rng(0).permutation(len(whole))
    for part, path in zip(np.array_split(order, len(files)), files, strict=True):
        pq.write_table(whole.take(pa.array(part)), path, row_group_size=3)
    reader = LeRobotReader(made.root)
    found = reader.gather(np.arange(19), ["action", "observation.matrix"])
    for key, values in expected.items():
        assert np.array_equal(found[key], values)
    if made.version == "v3.0":
        assert any("data/file_index is not the file" in note for note in reader.notes)
    assert not any(path.name.startswith(".sorting") for path in reader.store.path.parent.iterdir())


def test_one_row_group_for_several_episodes(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v3.0", LENGTHS, per_file=4)
    made.edit_data(0, lambda table: table)
    assert np.array_equal(LeRobotReader(made.root).gather(np.arange(19), ["action"])["action"], made.all("action"))


def test_wrong_positions_are_noted_and_not_used(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v3.0", LENGTHS)
    made.edit_episodes(
        lambda rows: [
            {**row, "dataset_from_index": row["dataset_from_index"] + 1, "data/file_index": 7} for row in rows
        ]
    )
    made.edit_data(2, lambda table: replace(table, "index", pa.array(np.arange(len(table)) + 100)))
    reader = LeRobotReader(made.root)
    assert np.array_equal(reader.gather(np.arange(19), ["action"])["action"], made.all("action"))
    notes = "\n".join(reader.notes)
    assert "data/file_index is not the file in which the rows of 4 episodes lie" in notes
    assert "index does not count the frames of the set through 2 episodes, it is not used: 2, 5" in notes
    assert "dataset_from_index is not where the rows of 4 episodes are" in notes
    assert LeRobotReader(made.root).notes == reader.notes


def test_episodes_without_frames_are_left_out(made: LeRobotSet) -> None:
    def add(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*rows, {**rows[0], "episode_index": 3, "length": 0}]

    made.edit_episodes(add)
    reader = LeRobotReader(made.root)
    assert reader.episode_numbers.tolist() == list(LENGTHS)
    assert reader.notes == ["1 episodes have no frames and are left out: 3"]


def test_strings_and_lists_of_free_length_are_listed_and_refused_by_name(made: LeRobotSet) -> None:
    for path in made.root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        table = table.append_column("note", pa.array(["x"] * len(table)))
        table = table.append_column("said", pa.array([[{"role": "user", "text": "go"}]] * len(table)))
        table = table.append_column("hits", pa.array([[1.0] * (n % 3) for n in range(len(table))]))
        pq.write_table(table, path)

    def declare(info: dict[str, Any]) -> None:
        info["features"] |= {
            "note": {"dtype": "string", "shape": [1], "names": None},
            "said": {"dtype": "language", "shape": [1], "names": None},
            "hits": {"dtype": "float32", "shape": [None], "names": None},
            "sound": {"dtype": "audio", "shape": [1], "names": None},
        }
        info["tools"] = [{"name": "anything"}]

    made.edit_info(declare)
    reader = LeRobotReader(made.root)
    assert np.array_equal(reader.gather(np.arange(19), ["action"])["action"], made.all("action"))
    for key, reason in {
        "note": "of dtype 'string', which is no array",
        "said": "of dtype 'language', which is no array",
        "hits": "a list of float32 of free length",
        "sound": "audio, which is not read yet",
    }.items():
        assert key in reader.features
        with pytest.raises(SourceError, match=rf"feature '{key}' is {reason}"):
            reader.gather([0], [key])


def test_a_depth_camera_is_a_later_step(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS, cameras={TOP: "video"})
    made.edit_info(lambda info: info["features"][TOP].update(info={"video.is_depth_map": True}))
    reader = LeRobotReader(made.root)
    assert reader.camera_keys == []
    with pytest.raises(SourceError, match="a depth camera, which is not read yet"):
        reader.camera(TOP)


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=VERSIONS)
def seen(request: pytest.FixtureRequest, tmp_path: Path) -> LeRobotSet:
    return make_set(tmp_path / "set", request.param, LENGTHS, fps=30, cameras={TOP: "video"})


def refuses_pictures(made: LeRobotSet, message: str, kind: type[Exception] = SourceError) -> None:
    reader = LeRobotReader(made.root)
    assert np.array_equal(reader.gather(np.arange(19), ["action"])["action"], made.all("action"))
    with pytest.raises(kind, match=message):
        reader.camera(TOP, episodes=reader.choice())


def in_file(made: LeRobotSet, episode: int) -> list[np.ndarray]:
    """The pictures of the file that holds an episode's."""
    inside = [other for other in LENGTHS if made.video_file(other, TOP) == made.video_file(episode, TOP)]
    return [counter_picture(other, frame) for other in inside for frame in range(LENGTHS[other])]


def test_a_video_is_missing(seen: LeRobotSet) -> None:
    seen.video_file(5, TOP).unlink()
    refuses_pictures(seen, rf"{seen.video_file(5, TOP).name}: there is no such video")
    reader = LeRobotReader(seen.root)
    reader.camera(TOP, episodes=reader.choice([0])).read([0])


def test_a_video_is_cut(seen: LeRobotSet) -> None:
    path = seen.video_file(2, TOP)
    path.write_bytes(path.read_bytes()[:-100])
    refuses_pictures(
        seen, rf"{path.name}: (no video that can be read|cut or damaged|holds no picture that can be found)"
    )


def test_data_behind_the_index_is_cut(seen: LeRobotSet) -> None:
    """With the index in front, the file opens although its last pictures are gone."""
    path = seen.video_file(2, TOP)
    encode(path, in_file(seen, 2), 30, movflags="faststart")
    content = path.read_bytes()
    cut = content.rfind(b"mdat") + 200
    path.write_bytes(content[:cut])
    reader = LeRobotReader(seen.root)
    with pytest.raises(SourceError, match=path.name):
        reader.pictures(reader.choice([2]).rows(np.arange(7)), TOP)


def test_fewer_pictures_than_rows(seen: LeRobotSet) -> None:
    path = seen.video_file(5, TOP)
    encode(path, in_file(seen, 5)[:-2], 30)
    refuses_pictures(seen, rf"{path.name}: episode 5: 4 rows, but [12] of them have no picture: frame [23] .* pictures")


def test_pictures_of_another_size(seen: LeRobotSet) -> None:
    path = seen.video_file(2, TOP)
    encode(path, [picture[:, : WIDTH - 20] for picture in in_file(seen, 2)], 30)
    refuses_pictures(seen, rf"{path.name}: '{TOP}': expected pictures of 48 x 80 \(H x W\), found 48 x 60")


def test_the_first_picture_is_no_keyframe(seen: LeRobotSet) -> None:
    import av

    path = seen.video_file(2, TOP)
    encode(path, [counter_picture(2, frame) for frame in range(40)], 30, gop=12)
    spoilt = path.with_suffix(".new")
    with av.open(str(path)) as source, av.open(str(spoilt), "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number and packet.dts is not None:
                packet.pts, packet.dts = packet.pts - 512, packet.dts - 512
                packet.stream = stream
                target.mux(packet)
    spoilt.replace(path)
    refuses_pictures(seen, rf"{path.name}: its first picture is no keyframe")


def test_a_variable_rate_that_fits_no_clock(seen: LeRobotSet) -> None:
    path = seen.video_file(2, TOP)
    pictures = in_file(seen, 2)
    times = np.cumsum([0, *([100, 1400] * len(pictures))])[: len(pictures)]
    encode(path, pictures, 30, times=[int(time) for time in times])
    refuses_pictures(seen, rf"{path.name}: episode [02]: \d rows, but \d of them have no picture")


@pytest.mark.parametrize("late", [1, 2])
def test_an_episode_that_begins_a_frame_late(late: int, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v3.0", LENGTHS, fps=30, cameras={TOP: "video"})

    def shift(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[0][f"videos/{TOP}/from_timestamp"] += late / 30
        return rows

    made.edit_episodes(shift)
    refuses_pictures(
        made, r"episodes 0 and 1 overlap: episode 0 has 5 rows and takes pictures \d to \d, episode 1 has 3 rows"
    )


def test_the_last_episode_begins_a_frame_late(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v3.0", LENGTHS, fps=30, cameras={TOP: "video"})

    def shift(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[2][f"videos/{TOP}/from_timestamp"] += 1 / 30
        return rows

    made.edit_episodes(shift)
    refuses_pictures(made, r"episode 2: 7 rows, but 1 of them have no picture: frame 6")


def spoil_image(made: LeRobotSet, episode: int, frame: int, content: Any) -> None:
    def change(table: pa.Table) -> pa.Table:
        at = [
            row
            for row, of in enumerate(
                zip(*(table.column(name).to_pylist() for name in ("episode_index", "frame_index")), strict=True)
            )
            if of == (episode, frame)
        ]
        rows = table.column(TOP).to_pylist()
        rows[at[0]] = content
        return replace(table, TOP, pa.array(rows, table.schema.field(TOP).type))

    made.edit_data(episode, change)


def png_of(height: int, width: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no picture, its bytes are null"),
        ({"bytes": None, "path": None}, "there is no picture, its bytes are null"),
        ({"bytes": b"", "path": None}, "there is no picture, its bytes are null"),
        ({"bytes": None, "path": "images/gone.png"}, r"there is no file .*images/gone.png"),
        ({"bytes": b"no picture", "path": None}, "no picture that can be decoded"),
        ({"bytes": png_of(HEIGHT, WIDTH)[:-60], "path": None}, "no picture that can be decoded"),
        ({"bytes": png_of(HEIGHT, WIDTH + 1), "path": None}, r"expected a picture of 48 x 80 \(H x W\), found 48 x 81"),
    ],
)
def test_images_that_are_none(made: LeRobotSet, content: Any, message: str, tmp_path: Path) -> None:
    seen = make_set(tmp_path / "images", made.version, LENGTHS, cameras={TOP: "image"})
    spoil_image(seen, 2, 3, content)
    reader = LeRobotReader(seen.root)
    with pytest.raises(SourceError, match=rf"episode 2, frame 3: '{TOP}': {message}"):
        reader.pictures(reader.choice([2]).rows(np.arange(7)), TOP)


def test_an_image_beside_the_table_is_read_from_its_path(made: LeRobotSet, tmp_path: Path) -> None:
    seen = make_set(tmp_path / "images", made.version, LENGTHS, cameras={TOP: "image"})
    path = seen.root / "images/frame.png"
    path.parent.mkdir()
    path.write_bytes(png_of(HEIGHT, WIDTH))
    spoil_image(seen, 2, 3, {"bytes": None, "path": "images/frame.png"})
    reader = LeRobotReader(seen.root)
    assert not reader.pictures(reader.choice([2]).rows([3]), TOP).any()


def test_metadata_of_tasks_and_lines(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)
    path = made.root / "meta/episodes.jsonl"
    path.write_text(path.read_text() + "{broken\n")
    refuses(made, r"episodes.jsonl, line 5: no JSON")
    path.write_text(json.dumps({"episode_index": "0", "length": 3}) + "\n")
    refuses(made, r"episodes.jsonl, line 1: episode_index: expected an integer of at least 0, found '0'")
