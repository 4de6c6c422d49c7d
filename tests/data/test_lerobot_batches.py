"""LeRobot sets through the loader: every row of every version, real data against pyarrow, errors in place, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs the jax extra")
from iltools_datasets.data import JaxDataLoader, LeRobotDatasetAdapter, LeRobotDatasetConfig  # noqa: E402
from iltools_datasets.errors import MissingKeyError, SourceError, StateError, StoreChangedError  # noqa: E402
from lerobot_cases import VERSIONS, Oracle, cache_fixture, make_set, read_counter  # noqa: E402, F401

pytestmark = pytest.mark.jax

TOP = "observation.images.top"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_is_every_item_once(tmp_path: Path, version: str, num_workers: int) -> None:
    made = make_set(tmp_path / "set", version, [5, 3, 7, 1])
    episodes = [2, 0]
    steps = [-1, 0, 1, 2]
    config = LeRobotDatasetConfig(
        str(made.root), episodes=episodes, delta_timestamps={"action": [step / 10 for step in steps]}
    )
    oracle = Oracle(made, episodes)
    extra = ["action_is_pad", "episode_index", "frame_index"]
    items = {tuple(int(oracle.value(n, key)[0]) for key in extra[1:]): n for n in range(len(oracle))}
    options: dict[str, Any] = {"drop_last": False, "seed": 0, "extra": extra}
    with JaxDataLoader(LeRobotDatasetAdapter(config), 5, num_workers, **options) as loader:
        for _ in range(2):
            seen = []
            for batch, extras in loader:
                for row in range(len(batch.reward)):
                    item = items[int(extras["episode_index"][row, 0]), int(extras["frame_index"][row, 0])]
                    wanted = oracle.transition(item, offsets={"action": steps})
                    for field in batch._fields:
                        np.testing.assert_array_equal(getattr(batch, field)[row], getattr(wanted, field))
                    np.testing.assert_array_equal(extras["action_is_pad"][row], oracle.is_pad(item, steps))
                    seen.append(item)
            assert sorted(seen) == list(range(12))


def test_pictures_by_threads(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v3.0", [5, 3, 7, 1], cameras={TOP: "video"})
    dataset = LeRobotDatasetAdapter(LeRobotDatasetConfig(str(made.root), obs_keys=[TOP]))
    with JaxDataLoader(dataset, 4, 2, extra=["episode_index", "frame_index"], seed=0) as loader:
        for _ in range(4):
            for batch, extras in loader:
                for row, picture in enumerate(np.asarray(batch.obs)):
                    place = int(extras["episode_index"][row, 0]), int(extras["frame_index"][row, 0])
                    assert read_counter(picture) == place


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_picture_that_cannot_be_decoded_is_an_error_in_its_place(tmp_path: Path, num_workers: int) -> None:
    import pyarrow as pa

    made = make_set(tmp_path / "set", "v2.1", [8, 8], cameras={TOP: "image"})

    def spoil(table: Any) -> Any:
        rows = table.column(TOP).to_pylist()
        rows[3]["bytes"] = rows[3]["bytes"][:40]
        place = table.column_names.index(TOP)
        return table.set_column(place, TOP, pa.array(rows, table.schema.field(TOP).type))

    made.edit_data(1, spoil)
    dataset = LeRobotDatasetAdapter(LeRobotDatasetConfig(str(made.root), obs_keys=[TOP]))
    with JaxDataLoader(dataset, 2, num_workers, shuffle=False) as loader:
        iterator = iter(loader)
        for first in range(0, 16, 2):
            if first == 10:  # frames 2 and 3 of episode 1
                with pytest.raises(SourceError, match="episode 1, frame 3") as caught:
                    next(iterator)
                assert "in the batch at item 10 of epoch 0" in caught.value.__notes__
            else:
                assert read_counter(np.asarray(next(iterator).obs[0])) == (first // 8, first % 8)


def test_a_video_that_changes_while_it_is_open(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", [8, 8], cameras={TOP: "video"})
    dataset = LeRobotDatasetAdapter(LeRobotDatasetConfig(str(made.root), obs_keys=[TOP]))
    loader = JaxDataLoader(dataset, 2, shuffle=False)
    iterator = iter(loader)
    assert read_counter(np.asarray(next(iterator).obs[1])) == (0, 1)
    path = made.video_file(1, TOP)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content + b"\0" * 64)
    for _ in range(3):
        next(iterator)
    with pytest.raises(StoreChangedError, match="episode_000001"):
        next(iterator)


def test_extras_are_checked_when_the_loader_is_made(tmp_path: Path) -> None:
    dataset = LeRobotDatasetAdapter(str(make_set(tmp_path / "set", "v2.1", [8]).root))
    with pytest.raises(MissingKeyError, match="no feature 'task'"):
        JaxDataLoader(dataset, 2, extra=["task"])


def test_resume_on_another_copy_and_not_on_another_set(tmp_path: Path, cache: Path) -> None:
    made, copied = (make_set(tmp_path / name, "v3.0", [9, 7]) for name in ("one", "copy"))
    other = make_set(tmp_path / "other", "v3.0", [9, 7], seed=1)
    loader = JaxDataLoader(LeRobotDatasetAdapter(str(made.root)), 3, seed=4)
    batches = [np.asarray(batch.obs) for batch in loader]
    loader.set_epoch(0)
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    assert len(json.dumps(state)) < 1024
    again = JaxDataLoader(LeRobotDatasetAdapter(str(copied.root), cache=cache / "elsewhere"), 3)
    again.load_state_dict(state)
    np.testing.assert_array_equal([batch.obs for batch in again], batches[2:])
    for wrong in (other, made):
        episodes = [0] if wrong is made else None
        refuses = JaxDataLoader(LeRobotDatasetAdapter(LeRobotDatasetConfig(str(wrong.root), episodes=episodes)), 3)
        with pytest.raises(StateError, match="dataset"):
            refuses.load_state_dict(state)


class TestRealData:
    """A Unitree G1's recordings, and the same in the form of v3.0, against what pyarrow reads."""

    @staticmethod
    def columns(root: Path) -> dict[str, np.ndarray]:
        """All rows, by episode and then frame."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        keys = ["episode_index", "frame_index", "observation.state", "action"]
        tables = [pq.read_table(path, columns=keys) for path in (root / "data").rglob("*.parquet")]
        table = pa.concat_tables(tables).sort_by([("episode_index", "ascending"), ("frame_index", "ascending")])
        return {key: np.stack(table[key].to_numpy()) for key in keys}

    @pytest.mark.shared_data
    @pytest.mark.parametrize("name", ["lerobot_g1", "lerobot_g1_v30"])
    def test_every_row_once_with_a_chunk_of_actions(self, shared_data: Path, name: str) -> None:
        root = shared_data / name
        if not root.is_dir():
            pytest.skip(f"no real data at {root}")
        columns = self.columns(root)
        first = np.flatnonzero(columns["frame_index"] == 0)
        episodes = columns["episode_index"][first]
        lengths = np.diff([*first, len(columns["action"])])
        times = [step / 30 for step in range(-2, 14)]
        dataset = LeRobotDatasetAdapter(LeRobotDatasetConfig(str(root), delta_timestamps={"action": times}))
        assert dataset.metadata["total_frames"] == len(columns["action"]) == len(dataset)
        seen = np.zeros(len(dataset), int)
        extra = ["action_is_pad", "episode_index", "frame_index"]
        with JaxDataLoader(dataset, 256, 1, drop_last=False, extra=extra, seed=0) as loader:
            for batch, extras in loader:
                episode, frame = (np.asarray(extras[key])[:, 0] for key in extra[1:])
                place = np.searchsorted(episodes, episode)
                row, last = first[place] + frame, lengths[place] - 1
                wanted = frame[:, None] + np.arange(-2, 14)
                inside = np.clip(wanted, 0, last[:, None])
                np.testing.assert_array_equal(extras["action_is_pad"], inside != wanted)
                np.testing.assert_array_equal(batch.done, frame == last)
                np.testing.assert_array_equal(batch.obs, columns["observation.state"][row])
                np.testing.assert_array_equal(batch.next_obs, columns["observation.state"][row + (frame < last)])
                np.testing.assert_array_equal(batch.action, columns["action"][first[place][:, None] + inside])
                seen[row] += 1
        assert (seen == 1).all()
