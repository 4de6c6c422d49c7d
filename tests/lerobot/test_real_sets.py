"""The real set in its two forms: every row against pyarrow alone, and bit for bit against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from iltools_datasets.lerobot import LeRobotReader
from sets import read_counter

pytestmark = pytest.mark.shared_data

CAMERA = "observation.images.cam_high"
RECORDED = {0: 4, 1: 10, 2: 12}
"""Episodes of the v3.0 form that carry their recorded pictures, and what they are in v2.1; see its README.md."""


@pytest.fixture(scope="module")
def v21(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> LeRobotReader:
    return LeRobotReader(shared_data / "lerobot_g1", cache=tmp_path_factory.mktemp("v21"))


@pytest.fixture(scope="module")
def v30(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> LeRobotReader:
    return LeRobotReader(shared_data / "lerobot_g1_v30", cache=tmp_path_factory.mktemp("v30"))


@pytest.fixture(scope="module")
def original(shared_data: Path) -> dict[int, int]:
    """Episode of v3.0 -> episode of v2.1, from the README beside the data."""
    rows = [line.split("|") for line in (shared_data / "lerobot_g1_v30/README.md").read_text().splitlines()]
    return {int(row[1]): int(row[2]) for row in rows if len(row) > 2 and row[1].strip().isdigit()}


@pytest.fixture(params=["v21", "v30"])
def reader(request: pytest.FixtureRequest) -> LeRobotReader:
    return request.getfixturevalue(request.param)


def oracle(root: Path) -> dict[str, np.ndarray]:
    """Every column, by episode and frame, with pyarrow and numpy alone."""
    tables = [pq.ParquetFile(path).read() for path in sorted(root.glob("data/*/*.parquet"))]
    columns: dict[str, list[np.ndarray]] = {}
    for table in tables:
        for name in table.column_names:
            values = table.column(name).combine_chunks()
            flat = values.flatten() if hasattr(values, "flatten") else values
            columns.setdefault(name, []).append(flat.to_numpy(zero_copy_only=False).reshape(len(table), -1))
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.lexsort((whole["frame_index"][:, 0], whole["episode_index"][:, 0]))
    return {name: values[order] for name, values in whole.items()}


def test_every_row_is_what_pyarrow_reads(reader: LeRobotReader) -> None:
    expected = oracle(reader.root)
    found = reader.gather(np.arange(reader.num_frames), list(expected))
    assert len(expected["index"]) == reader.num_frames == reader.info.total_frames
    for key, values in expected.items():
        assert found[key].dtype == values.dtype
        assert np.array_equal(found[key], values), key
    assert reader.notes == []


def test_windows_and_masks(reader: LeRobotReader) -> None:
    expected = oracle(reader.root)
    action, episode = expected["action"], expected["episode_index"][:, 0]
    first = np.searchsorted(episode, episode)
    last = np.searchsorted(episode, episode, side="right") - 1
    index = np.arange(reader.num_frames)
    for offsets in (range(16), [-3, 0, 2, 2], [-400, 400]):
        at = index[:, None] + np.array(offsets)
        inside = np.clip(at, first[:, None], last[:, None])
        for block in np.array_split(index, 20):
            values, is_pad = reader.windows(block, "action", list(offsets))
            assert np.array_equal(values, action[inside[block]])
            assert np.array_equal(is_pad, (at != inside)[block])


def test_the_twenty_episodes_are_their_originals(
    v21: LeRobotReader, v30: LeRobotReader, original: dict[int, int]
) -> None:
    assert len(original) == v30.num_episodes == 20
    for new, old in original.items():
        here, there = (each.choice([number]) for each, number in ((v30, new), (v21, old)))
        assert len(here) == len(there)
        steps = np.arange(len(here))
        keys = ["observation.state", "action", "timestamp", "frame_index", "task_index"]
        rows = v30.gather(here.rows(steps), keys), v21.gather(there.rows(steps), keys)
        for key in keys:
            assert np.array_equal(rows[0][key], rows[1][key])


def test_recorded_pictures_are_the_same_bit_for_bit(v21: LeRobotReader, v30: LeRobotReader) -> None:
    rng = np.random.default_rng(0)
    for new, old in RECORDED.items():
        here, there = (each.choice([number]) for each, number in ((v30, new), (v21, old)))
        steps = np.unique([0, 1, len(here) - 1, *rng.integers(0, len(here), 9)])
        pictures = v30.pictures(here.rows(steps), CAMERA), v21.pictures(there.rows(steps), CAMERA)
        assert pictures[0].std() > 20
        assert np.array_equal(*pictures)


def test_counter_clips_name_their_episode_and_frame(v30: LeRobotReader) -> None:
    camera = v30.camera(CAMERA, episodes=v30.choice())
    rng = np.random.default_rng(1)
    counted = v30.choice(range(3, 20))
    ends = [v30.choice([number]) for number in range(3, 20)]
    edges = np.concatenate([choice.rows([0, 1, -2, -1]) for choice in ends])
    index = np.concatenate([edges, counted.rows(rng.integers(0, len(counted), 150))])
    for block in np.array_split(index, 8):
        episode, frame = v30.locate(block)
        assert [read_counter(picture) for picture in camera.read(block)] == list(zip(episode, frame, strict=True))


@pytest.mark.long
def test_every_picture_of_the_set(v21: LeRobotReader, v30: LeRobotReader) -> None:
    camera = v30.camera(CAMERA)
    for number in v30.episode_numbers.tolist():
        choice = v30.choice([number])
        for steps in np.array_split(np.arange(len(choice)), 1 + len(choice) // 64):
            index = choice.rows(steps)
            pictures = camera.read(index)
            if number in RECORDED:
                there = v21.choice([RECORDED[number]])
                assert np.array_equal(pictures, v21.pictures(there.rows(steps), CAMERA))
            else:
                assert [read_counter(picture) for picture in pictures] == [(number, step) for step in steps]


def test_statistics_and_tasks(reader: LeRobotReader) -> None:
    rows = reader.gather(np.arange(reader.num_frames), ["action"])["action"].astype(np.float64)
    stats = reader.stats["action"]
    np.testing.assert_allclose(stats["mean"], rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["std"], rows.std(0), rtol=1e-4, atol=1e-6)
    assert reader.statistics().notes == ()
    assert list(reader.tasks.values()) == ["Pick up the yellow bottle on the table."]


def many_pictures(reader: LeRobotReader, count: int, kept: int) -> None:
    """Random pictures of one camera with a cache of `kept` bytes: decoders and cache stay within their bounds."""
    from iltools_datasets.lerobot import MemoryFrames

    frames = MemoryFrames(kept)
    camera = reader.camera(CAMERA, frame_cache=frames)
    pool = reader._cameras.decoders
    rng = np.random.default_rng(2)
    out = np.empty((16, *camera.shape), np.uint8)
    memory = []
    for _ in range(count // 16):
        camera.read(rng.integers(0, reader.num_frames, 16), out)
        assert frames.num_bytes <= kept
        assert pool.num_idle <= 64
        assert pool.idle_bytes <= 512 << 20
        memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    assert memory[-1] - memory[len(memory) // 4] < 48 << 20


def test_decoders_and_cache_stay_within_their_bounds(v30: LeRobotReader) -> None:
    many_pictures(v30, 480, 20 << 20)


@pytest.mark.long
def test_ten_thousand_random_pictures(v30: LeRobotReader) -> None:
    many_pictures(v30, 10_000, 64 << 20)
