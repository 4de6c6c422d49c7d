"""Pictures of sets of all versions: each spells the episode and frame it belongs to."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from iltools_datasets.errors import OutOfRangeError, SourceError, StoreChangedError
from iltools_datasets.lerobot import LeRobotReader
from sets import HEIGHT, VERSIONS, WIDTH, LeRobotSet, encode, make_set, read_counter

LENGTHS = {0: 7, 2: 5, 3: 9, 4: 4, 7: 6}
TOP, SIDE = "observation.images.top", "observation.images.side"


@pytest.fixture(scope="module", params=VERSIONS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LeRobotSet:
    root = tmp_path_factory.mktemp("set") / "set"
    return make_set(root, request.param, LENGTHS, fps=30, cameras={TOP: "video", SIDE: "image"})


def spells(reader: LeRobotReader, index: np.ndarray, pictures: np.ndarray) -> bool:
    episode, frame = reader.locate(index)
    return [read_counter(picture) for picture in pictures] == list(zip(episode.tolist(), frame.tolist(), strict=True))


@pytest.mark.parametrize("key", [TOP, SIDE])
def test_every_picture_is_that_of_its_frame(made: LeRobotSet, key: str) -> None:
    reader = LeRobotReader(made.root)
    assert reader.camera_keys == [TOP, SIDE]
    index = np.arange(reader.num_frames)
    pictures = reader.camera(key, episodes=reader.choice()).read(index)
    assert pictures.shape == (len(index), HEIGHT, WIDTH, 3)
    assert pictures.dtype == np.uint8
    assert spells(reader, index, pictures)
    assert reader.notes == []


@pytest.mark.parametrize("key", [TOP, SIDE])
def test_in_any_order_with_repeats_into_the_callers_array(made: LeRobotSet, key: str) -> None:
    reader = LeRobotReader(made.root)
    index = np.random.default_rng(1).integers(0, reader.num_frames, 64)
    out = np.zeros((64, HEIGHT, WIDTH, 3), np.uint8)
    assert reader.pictures(index, key, out=out) is out
    assert spells(reader, index, out)
    assert spells(reader, index[:5], reader.pictures(index[:5], key))
    assert reader.pictures([], key).shape == (0, HEIGHT, WIDTH, 3)
    with pytest.raises(OutOfRangeError):
        reader.pictures([reader.num_frames], key)
    with pytest.raises(ValueError, match="expected writeable uint8"):
        reader.pictures([0, 1], key, out=out)


@pytest.mark.parametrize("kept", ["memory", "directory"])
@pytest.mark.parametrize("key", [TOP, SIDE])
def test_kept_pictures_are_the_same(made: LeRobotSet, key: str, kept: str, tmp_path: Path) -> None:
    reader = LeRobotReader(made.root)
    plain = reader.pictures(np.arange(reader.num_frames), key)
    where = 10 * HEIGHT * WIDTH * 3 if kept == "memory" else tmp_path / "frames"
    camera = reader.camera(key, frame_cache=where)
    rng = np.random.default_rng(2)
    for _ in range(10):
        index = rng.integers(0, reader.num_frames, 8)
        assert np.array_equal(camera.read(index), plain[index])
    camera.close()
    again = LeRobotReader(made.root).camera(key, frame_cache=where)
    assert np.array_equal(again.read(np.arange(reader.num_frames)), plain)


@pytest.mark.parametrize("key", [TOP, SIDE])
def test_resizing_keeps_the_picture(made: LeRobotSet, key: str) -> None:
    reader = LeRobotReader(made.root)
    index = np.arange(reader.num_frames)
    small = reader.camera(key, size=(24, 40), frame_cache=1 << 20)
    for _ in range(2):
        pictures = small.read(index)
        assert pictures.shape[1:] == small.shape == (24, 40, 3)
        assert spells(reader, index, pictures)


def test_several_threads_read_at_once(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    camera = reader.camera(TOP)
    indices = [np.random.default_rng(seed).integers(0, reader.num_frames, 16) for seed in range(12)]
    with ThreadPoolExecutor(4) as threads:
        batches = list(threads.map(camera.read, indices))
    for index, batch in zip(indices, batches, strict=True):
        assert spells(reader, index, batch)


def test_a_pickled_reader_reads_the_same_pictures(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    first = reader.pictures([3], TOP)
    assert np.array_equal(pickle.loads(pickle.dumps(reader)).pictures([3], TOP), first)


@pytest.mark.parametrize("version", VERSIONS)
def test_pictures_may_come_faster_than_rows(version: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", version, LENGTHS, fps=30, cameras={TOP: "video"}, picture_rate=2)
    reader = LeRobotReader(made.root)
    index = np.arange(reader.num_frames)
    assert spells(reader, index, reader.pictures(index, TOP))


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"b_frames": 2, "gop": 6}),
        ("libx265", {"b_frames": 2, "gop": 6, "x265-params": "log-level=none"}),
        ("libsvtav1", {"gop": 5}),
        ("libvpx-vp9", {"gop": 5}),
        ("mpeg4", {"b_frames": 2, "gop": 6}),
    ],
)
def test_every_codec_in_any_order(codec: str, options: dict[str, object], tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", {0: 40}, fps=30, cameras={TOP: "video"})
    from sets import counter_picture

    # The smallest size that all of these encoders take.
    pictures = [counter_picture(0, frame, 96, 160) for frame in range(40)]
    encode(made.video_file(0, TOP), pictures, 30, codec, **options)
    made.edit_info(lambda info: info["features"][TOP].update(shape=[96, 160, 3]))
    reader = LeRobotReader(made.root)
    rng = np.random.default_rng(3)
    index = np.concatenate([np.arange(40), rng.integers(0, 40, 60)])
    for one in index:
        assert spells(reader, np.array([one]), reader.pictures([one], TOP)), one
    assert spells(reader, index, reader.pictures(index, TOP))


@pytest.mark.parametrize("fps", [29.97, Fraction(24000, 1001), 15])
def test_fractional_rates_and_coarse_time_bases(fps: float | Fraction, tmp_path: Path) -> None:
    rate = float(fps)
    made = make_set(tmp_path / "set", "v3.0", (40, 30, 20, 25), fps=rate, cameras={TOP: "video"})
    reader = LeRobotReader(made.root)
    index = np.arange(reader.num_frames)
    assert spells(reader, index, reader.pictures(index, TOP))


def test_an_hour_of_drifting_floats_is_no_trouble(tmp_path: Path) -> None:
    """What is off by far more than 1e-4 s, and by far less than half a picture, is the right picture."""
    made = make_set(tmp_path / "set", "v3.0", (40, 30, 20), fps=30, cameras={TOP: "video"}, per_file=3)
    made.edit_episodes(
        lambda rows: [
            {**row, f"videos/{TOP}/from_timestamp": row[f"videos/{TOP}/from_timestamp"] + 0.011} for row in rows
        ]
    )
    reader = LeRobotReader(made.root)
    index = np.arange(reader.num_frames)
    assert spells(reader, index, reader.pictures(index, TOP))


@pytest.mark.parametrize("version", VERSIONS)
def test_another_clock_with_as_many_pictures_goes_by_number(version: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", version, {0: 12, 1: 9}, fps=30, cameras={TOP: "video"})
    for episode in (0, 1):
        made.edit_data(episode, lambda table: slower(table, 1.3))
    reader = LeRobotReader(made.root)
    index = np.arange(reader.num_frames)
    assert spells(reader, index, reader.pictures(index, TOP))
    assert any("taken by number" in note for note in reader.notes)


def test_another_clock_with_more_pictures_goes_by_timestamp(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", {0: 12}, fps=30, cameras={TOP: "video"})
    from sets import counter_picture

    encode(made.video_file(0, TOP), [counter_picture(0, n) for n in range(24)], 30)
    made.edit_data(0, lambda table: slower(table, 2))
    reader = LeRobotReader(made.root)
    shown = [read_counter(picture)[1] for picture in reader.pictures(np.arange(12), TOP)]
    assert shown == list(range(0, 24, 2))
    assert any("taken by timestamp" in note for note in reader.notes)


def slower(table, factor):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    times = table.column("timestamp").to_numpy() * np.float32(factor)
    at = table.column_names.index("timestamp")
    return table.set_column(at, "timestamp", pa.array(times))


def test_a_video_that_changes_while_open_is_noticed(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", {0: 12}, fps=30, cameras={TOP: "video"})
    reader = LeRobotReader(made.root)
    camera = reader.camera(TOP, episodes=reader.choice())
    path = made.video_file(0, TOP)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(StoreChangedError, match="changed since"):
        camera.read([0])


def test_numbers_and_text_are_no_cameras(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    with pytest.raises(SourceError, match=r"'action' is no camera; there are \['observation.images.top'"):
        reader.camera("action")
    with pytest.raises(SourceError, match=r"is a camera; pictures\(\) gives its frames"):
        reader.gather([0], [TOP])
