"""VectorizedTrajectoryDataset against plain indexing of arrays in memory."""

from __future__ import annotations

import dataclasses
import os
import pickle
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.archive.rows import RowReader
from iltools_datasets.errors import (
    ArchiveCorruptError,
    MissingKeyError,
    OutOfRangeError,
    SchemaError,
    UnknownSegmentError,
)
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.storage import VectorizedTrajectoryDataset
from iltools_datasets.store.trajectory_store import TrajectoryStore

Clips = dict[str, dict[str, np.ndarray]]


def make_clips(lengths: list[int], seed: int = 0) -> Clips:
    """Clips of two motions, in the order in which they are numbered."""
    rng = np.random.default_rng(seed)
    names = sorted(f"lab/{'run' if number % 2 else 'walk'}/traj{number:03}" for number in range(len(lengths)))
    return {
        name: {
            "qpos": rng.standard_normal((length, 3), dtype=np.float32),
            "qvel": rng.standard_normal((length, 2), dtype=np.float32),
            "action": rng.standard_normal((length - 1, 2), dtype=np.float32),
        }
        for name, length in zip(names, lengths, strict=True)
    }


def write(path: Path, clips: Clips, chunk_rows: int = 7) -> Path:
    """Write the clips with zarr itself, in chunks that fall nowhere near the blocks of the buffers."""
    root = zarr.open_group(path, mode="w")
    for name, arrays in clips.items():
        group = root.require_group(name)
        for key, array in arrays.items():
            group.create_array(key, data=array, chunks=(chunk_rows, *array.shape[1:]))
    return path


def expected_row(clip: dict[str, np.ndarray], key: str, step: int) -> np.ndarray:
    """The oracle: one row by the definition of wrapping."""
    rows = clip[key]
    return rows[min(step % len(clip["qpos"]), len(rows) - 1)]


def expected(clips: Clips, ds: VectorizedTrajectoryDataset, envs: list[int], key: str, window: int) -> np.ndarray:
    ordered = list(clips.values())
    return np.stack(
        [
            np.stack(
                [expected_row(ordered[ds.env_traj_ids[env]], key, int(ds.env_steps[env]) + t) for t in range(window)]
            )
            for env in envs
        ]
    )


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips([40, 23, 61, 5, 2, 100])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, clips: Clips) -> Path:
    return write(tmp_path_factory.mktemp("vectorized") / "trajectories.zarr", clips)


@pytest.fixture
def ds(archive: Path) -> Iterator[VectorizedTrajectoryDataset]:
    with VectorizedTrajectoryDataset(archive, 4, {"window_size": 8, "buffer_size": 16, "allow_wrap": True}) as opened:
        yield opened


# What there is


def test_what_is_there(ds: VectorizedTrajectoryDataset, clips: Clips) -> None:
    assert ds.available_dataset_sources == ["lab"]
    assert ds.available_motions == ds.available_motions_in("lab") == ["run", "walk"]
    assert ds.available_trajectories == [name.split("/")[2] for name in clips]
    assert ds.available_trajectories_in("lab", "walk") == [f"traj{number:03}" for number in (0, 2, 4)]
    assert ds.traj_lengths == [len(clip["qpos"]) for clip in clips.values()]
    assert set(ds.all_keys) == {"qpos", "qvel", "action"}
    assert ds.env_traj_ids.tolist() == ds.env_steps.tolist() == [0, 0, 0, 0]


def test_unknown_names(ds: VectorizedTrajectoryDataset) -> None:
    with pytest.raises(UnknownSegmentError, match="'home'"):
        ds.available_motions_in("home")
    with pytest.raises(UnknownSegmentError, match="'swim'"):
        ds.available_trajectories_in("lab", "swim")


@dataclasses.dataclass
class _Config:
    window_size: int = 8
    buffer_size: int = 16
    allow_wrap: bool = True


@pytest.mark.parametrize(
    "cfg", [{"window_size": 8, "buffer_size": 16, "allow_wrap": True}, _Config(), types.SimpleNamespace(window_size=8)]
)
def test_configurations(archive: Path, cfg: Any) -> None:
    with VectorizedTrajectoryDataset(archive, 2, cfg) as opened:
        assert opened.fetch_window(range(2), "qpos").shape == (2, 8, 3)


def test_omegaconf(archive: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf", reason="needs omegaconf, which is no dependency")
    cfg = omegaconf.OmegaConf.create({"window_size": 8, "buffer_size": 128, "allow_wrap": True})
    with VectorizedTrajectoryDataset(zarr_path=archive, num_envs=2, cfg=cfg) as opened:
        assert opened.fetch_window(range(2), "qpos").shape == (2, 8, 3)


# Rows

sequences = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 3), st.tuples(st.integers(0, 5), st.integers(0, 250)), max_size=4),
        st.lists(st.integers(0, 3), min_size=1, max_size=6),
        st.sampled_from(["qpos", "qvel", "action"]),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("kind", ["archive", "packed", "store"])
@settings(max_examples=60)
@given(steps=sequences, buffer_size=st.integers(1, 50))
def test_any_sequence_of_fetches(
    sources: dict[str, Path], clips: Clips, kind: str, steps: list[Any], buffer_size: int
) -> None:
    with VectorizedTrajectoryDataset(sources[kind], 4, {"buffer_size": buffer_size, "allow_wrap": True}) as opened:
        for changes, envs, key, window in steps:
            opened.update_references(
                env_to_traj={env: traj for env, (traj, _) in changes.items()},
                env_to_step={env: step for env, (_, step) in changes.items()},
            )
            before = opened.env_steps.copy()
            found = opened.fetch_window(envs, key=key, window_size=window)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected(clips, opened, envs, key, window))
            np.testing.assert_array_equal(opened.fetch(envs, key), found[:, 0])
            np.testing.assert_array_equal(opened.env_steps, before)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, archive: Path, clips: Clips) -> dict[str, Path]:
    scratch = tmp_path_factory.mktemp("sources")
    with ArchiveWriter(scratch / "packed.zarr", layout="packed") as writer:
        for name, arrays in clips.items():
            writer.add(*name.split("/"), arrays)
    build_store(archive, scratch / "store", ["qpos", "qvel"], progress=False)
    return {"archive": archive, "packed": scratch / "packed.zarr", "store": scratch / "store"}


def test_marching_through_windows_with_two_keys(ds: VectorizedTrajectoryDataset, clips: Clips) -> None:
    # Each key must come from the env's step, whatever was fetched for another key before.
    ds.update_references({0: 2, 1: 5, 2: 0, 3: 5}, {0: 3, 1: 90, 2: 39, 3: 0})
    for _ in range(30):
        for key in ("qpos", "qvel"):
            np.testing.assert_array_equal(
                ds.fetch_window(range(4), key), expected(clips, ds, [0, 1, 2, 3], key, ds.window_size)
            )
        ds.update_references(env_to_step={env: ds.env_steps[env] + ds.window_size for env in range(4)})


def test_a_window_is_the_callers(ds: VectorizedTrajectoryDataset, clips: Clips) -> None:
    ds.fetch_window(range(4), "qpos")[:] = 0
    np.testing.assert_array_equal(ds.fetch_window(range(4), "qpos"), expected(clips, ds, [0, 1, 2, 3], "qpos", 8))


def test_no_env_gives_no_rows(ds: VectorizedTrajectoryDataset) -> None:
    assert ds.fetch_window([], "qpos").shape == (0, 8, 3)
    assert ds.fetch(np.array([], dtype=np.int64), "qpos").shape == (0, 3)


def test_an_open_store_and_its_rows(sources: dict[str, Path], clips: Clips) -> None:
    with VectorizedTrajectoryDataset(TrajectoryStore.open(sources["store"]), 2, {"allow_wrap": True}) as opened:
        assert opened.traj_lengths == [len(clip["qpos"]) for clip in clips.values()]
        assert opened.available_trajectories_in("lab", "run") == ["traj001", "traj003", "traj005"]
        assert opened.fetch([1], ("next", "qpos")).shape == (1, 3)


# Bounds


@pytest.mark.parametrize("kind", ["archive", "store"])
def test_without_wrap_a_window_past_the_end_raises(sources: dict[str, Path], kind: str) -> None:
    with VectorizedTrajectoryDataset(sources[kind], 2) as opened:
        opened.update_references({0: 5, 1: 0}, {0: 90, 1: 0})
        assert opened.fetch_window([0, 1], "qpos", 10).shape == (2, 10, 3)
        with pytest.raises(OutOfRangeError, match=r"env 0 on trajectory lab/walk/traj004: steps 90 to 100 of 100 rows"):
            opened.fetch_window([0, 1], "qpos", 11)
        with pytest.raises(IndexError):
            opened.fetch_window([0], "action", 10)
        assert opened.fetch_window([0], "action", 9).shape == (1, 9, 2)


@pytest.mark.parametrize(
    ("traj", "step", "error"),
    [
        ({0: 1, 1: 6}, {}, UnknownSegmentError),
        ({0: 1, 1: -1}, {}, UnknownSegmentError),
        ({0: 1, 4: 0}, {}, OutOfRangeError),
        ({0: 1, -1: 0}, {}, OutOfRangeError),
        ({0: 1}, {0: 3, 1: -1}, OutOfRangeError),
        ({0: 1}, {0: 3, 9: 1}, OutOfRangeError),
        ({0: 1}, {0: 1.5}, TypeError),
    ],
)
def test_a_bad_update_changes_nothing(
    ds: VectorizedTrajectoryDataset, traj: dict[int, int], step: dict[int, Any], error: type[Exception]
) -> None:
    ds.update_references({0: 2}, {0: 7})
    with pytest.raises(error):
        ds.update_references(traj, step)
    assert ds.env_traj_ids.tolist() == [2, 0, 0, 0]
    assert ds.env_steps.tolist() == [7, 0, 0, 0]


def test_what_is_not_named_stays(ds: VectorizedTrajectoryDataset) -> None:
    ds.update_references(env_to_step={1: 4})
    ds.update_references(env_to_traj={1: 3})
    assert (ds.env_traj_ids[1], ds.env_steps[1]) == (3, 4)


@pytest.mark.parametrize(("envs", "error"), [([4], OutOfRangeError), ([-1], OutOfRangeError)])
def test_unknown_envs(ds: VectorizedTrajectoryDataset, envs: list[int], error: type[Exception]) -> None:
    with pytest.raises(error):
        ds.fetch(envs, "qpos")


@pytest.mark.parametrize("name", ["num_envs", "window_size", "buffer_size"])
def test_impossible_sizes(archive: Path, name: str) -> None:
    sizes = {"num_envs": 1, "window_size": 1, "buffer_size": 1, name: 0}
    with pytest.raises(ValueError, match=name):
        VectorizedTrajectoryDataset(archive, sizes.pop("num_envs"), sizes)


def test_keys_that_are_not_there(tmp_path: Path, sources: dict[str, Path]) -> None:
    clips = make_clips([5, 6])
    clips["lab/walk/traj000"]["extra"] = np.zeros((6, 1), np.float32)
    clips["lab/walk/traj000"]["qvel"] = np.zeros((6, 9), np.float32)
    with VectorizedTrajectoryDataset(write(tmp_path / "a.zarr", clips), 2) as opened:
        with pytest.raises(MissingKeyError, match="'nothing'"):
            opened.fetch([0], "nothing")
        with pytest.raises(MissingKeyError, match=r"lab/run/traj001: no key 'extra'"):
            opened.fetch([0], "extra")
        opened.update_references({1: 1})
        assert opened.fetch([1], "extra").shape == (1, 1)
        with pytest.raises(SchemaError, match=r"lab/walk/traj000, key 'qvel': expected.*\[2\].*\[9\]"):
            opened.fetch([1], "qvel")
    with VectorizedTrajectoryDataset(sources["store"], 1) as opened, pytest.raises(MissingKeyError):
        opened.fetch([0], "nothing")


# Memory and decoding


def test_memory_is_bounded_on_an_archive_ten_times_larger(tmp_path: Path) -> None:
    clips = make_clips([200] * 16)
    num_envs, buffer_size = 8, 40
    with VectorizedTrajectoryDataset(
        write(tmp_path / "a.zarr", clips), num_envs, {"buffer_size": buffer_size, "allow_wrap": True}
    ) as opened:
        rng = np.random.default_rng(0)
        for _ in range(50):
            opened.update_references(
                dict(enumerate(rng.integers(0, 16, num_envs))), dict(enumerate(rng.integers(0, 200, num_envs)))
            )
            for key in ("qpos", "qvel"):
                np.testing.assert_array_equal(
                    opened.fetch_window(range(num_envs), key, 10),
                    expected(clips, opened, list(range(num_envs)), key, 10),
                )
        bound = num_envs * buffer_size * (3 + 2) * 4
        assert opened.buffered_bytes <= bound
        assert sum(clip[key].nbytes for clip in clips.values() for key in ("qpos", "qvel")) >= 10 * bound


def test_a_chunk_is_decoded_once_for_all_envs(archive: Path, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    decode = RowReader._decode
    monkeypatch.setattr(RowReader, "_decode", lambda self, job: (decoded.append(job.index), decode(self, job))[1])
    with VectorizedTrajectoryDataset(archive, 16, {"buffer_size": 100}) as opened:
        opened.update_references(dict.fromkeys(range(16), 5), {env: 2 * env for env in range(16)})
        for _ in range(6):
            opened.fetch_window(range(16), "qpos", 10)
            opened.update_references(env_to_step={env: opened.env_steps[env] + 10 for env in range(16)})
    assert len(decoded) == len(set(decoded)) <= -(-100 // 7)


def test_the_next_window_is_there_before_it_is_asked_for(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with VectorizedTrajectoryDataset(archive, 2, {"buffer_size": 64}) as opened:
        opened.update_references({0: 5, 1: 2})
        opened.fetch_window(range(2), "qpos", 16)
        opened.close()  # waits for what is under way
        opened.update_references(env_to_step={0: 16, 1: 16})
        monkeypatch.setattr(RowReader, "read", lambda *_: pytest.fail("read although it was read ahead"))
        assert opened.fetch_window(range(2), "qpos", 16).shape == (2, 16, 3)


def test_damage_ahead_is_raised_where_it_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_clips([40]), chunk_rows=10)
    chunk = path / "lab/walk/traj000/qpos/c/1/0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with VectorizedTrajectoryDataset(path, 1, {"buffer_size": 20}) as opened:
        opened.fetch_window([0], "qpos", 5)
        opened.update_references(env_to_step={0: 5})
        assert opened.fetch_window([0], "qpos", 5).shape == (1, 5, 3)
        opened.update_references(env_to_step={0: 10})
        with pytest.raises(ArchiveCorruptError, match="c/1/0"):
            opened.fetch_window([0], "qpos", 5)


def test_it_pickles_without_its_buffers(ds: VectorizedTrajectoryDataset, clips: Clips) -> None:
    ds.update_references({2: 4}, {2: 1})
    ds.fetch_window(range(4), "qpos")
    data = pickle.dumps(ds)
    assert len(data) < 2000
    with pickle.loads(data) as copy:
        np.testing.assert_array_equal(copy.fetch_window(range(4), "qpos"), expected(clips, ds, [0, 1, 2, 3], "qpos", 8))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_fetches_on(ds: VectorizedTrajectoryDataset, clips: Clips) -> None:
    ds.fetch_window(range(4), "qpos")
    child = os.fork()
    if child == 0:
        found = ds.fetch_window(range(4), "qpos")
        os._exit(int(not np.array_equal(found, expected(clips, ds, [0, 1, 2, 3], "qpos", 8))))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
