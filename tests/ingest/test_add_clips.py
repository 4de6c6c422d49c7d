"""Clips that are added to a store: rows of one store, files that stay, loops that go on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import Clip, write_archive
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets import StoreBuilder, TrajectoryStore, add_clips, build_store, repair_store, verify_store
from iltools_datasets.errors import (
    ArgumentError,
    DuplicateTrajectoryError,
    SchemaError,
    SourceError,
    StoreBusyError,
    StoreNotFoundError,
)

OBS_KEYS = ["qpos", "qvel"]


def walks(names: list[str], seed: int = 0, width: int = 3) -> dict[str, Clip]:
    rng = np.random.default_rng(seed)
    return {
        name: {key: rng.standard_normal((4 + number, width)) for key in OBS_KEYS} for number, name in enumerate(names)
    }


def assert_holds(store: TrajectoryStore, clips: dict[str, Clip]) -> None:
    assert sorted(store.trajectory_paths) == sorted(clips)
    for position, path in enumerate(store.trajectory_paths):
        arrays = store.trajectory(position, ["qpos", "observation"])
        qpos = np.asarray(clips[path]["qpos"], dtype=np.float32)
        np.testing.assert_array_equal(arrays["qpos"], qpos)
        np.testing.assert_array_equal(arrays["observation"][:, :3], qpos)


def marks(store: Path) -> dict[Path, tuple[int, int, int, bytes]]:
    """What would show that somebody touched a file of the data."""
    files = [file for file in store.rglob("data-*/**/*") if file.is_file()]
    return {
        file: (file.stat().st_ino, file.stat().st_size, file.stat().st_mtime_ns, file.read_bytes()) for file in files
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    first = walks(["lab/walk/a1", "lab/walk/a10", "lab/run/x"], 1)
    return build_store(write_archive(tmp_path / "first.zarr", first), tmp_path / "store", OBS_KEYS)[0]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_any_clips_in_any_steps_are_one_store(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    place = tmp_path_factory.mktemp("steps")
    steps = [
        walks(
            [f"s{number % 2}/m{number % 3}/c{step}{number}" for number in range(int(rng.integers(1, 6)))], seed + step
        )
        for step in range(int(rng.integers(2, 5)))
    ]
    archives = [write_archive(place / f"{step}.zarr", clips) for step, clips in enumerate(steps)]
    path, _ = build_store(archives[0], place / "store", OBS_KEYS)
    uuid, clips = TrajectoryStore.open(path).uuid, dict(steps[0])
    for archive, more in zip(archives[1:], steps[1:], strict=True):
        before = TrajectoryStore.open(path)
        clips |= more
        _, report = add_clips(archive, path)
        longer = before.refresh()
        assert (report.num_trajectories, report.num_in_store) == (len(more), len(clips))
        assert longer.uuid == uuid
        assert longer.trajectory_paths[: len(before.trajectory_paths)] == before.trajectory_paths
        assert [*longer.segments][: before.num_trajectories] == [*before.segments]
    for backend in ("mmap", "pread", "ram"):
        assert_holds(TrajectoryStore.open(path, backend), clips)
    assert verify_store(path) == []
    numbers: dict[int, list[int]] = {}
    for segment in longer.segments:
        numbers.setdefault(segment.task_id, []).append(segment.traj_id)
    assert all(ids == list(range(len(ids))) for ids in numbers.values())
    assert sorted(longer.task_names) == list(range(len(longer.task_names)))


def test_files_stay_and_a_motion_goes_on_where_it_ended(store: Path, tmp_path: Path) -> None:
    before, reader = marks(store), TrajectoryStore.open(store)
    rows = reader.gather(np.arange(len(reader)))
    archive = write_archive(tmp_path / "more.zarr", walks(["lab/walk/a2", "lab/crawl/c"], 2))
    _, report = add_clips(archive, store)
    after = marks(store)
    assert before.items() <= after.items()
    for key, values in reader.gather(np.arange(len(reader))).items():
        np.testing.assert_array_equal(values, rows[key])
    now = TrajectoryStore.open(store)
    assert now.task_names == {0: "lab/run", 1: "lab/walk", 2: "lab/crawl"}
    assert [(s.task_id, s.traj_id) for s in now.segments] == [(0, 0), (1, 0), (1, 1), (2, 0), (1, 2)]
    assert [entry["num_trajectories"] for entry in now.attributes["added"]] == [2]
    assert "the store has 5 clips by now" in report.remarks()
    assert report.num_transitions == len(now) - len(reader) == 3 + 4
    assert repair_store(store) == []


def test_what_is_there_is_refused_or_left_out(store: Path, tmp_path: Path) -> None:
    before = marks(store)
    both = write_archive(tmp_path / "both.zarr", walks(["lab/walk/a10", "lab/walk/a11"], 3))
    with pytest.raises(DuplicateTrajectoryError, match=r"lab/walk/a10 already.*skip_present=True"):
        add_clips(both, store)
    with pytest.raises(ArgumentError, match="all of its 1 clips"):
        add_clips(both, store, select="*/a10", skip_present=True)
    assert marks(store) == before
    _, report = add_clips(both, store, skip_present=True)
    assert (report.num_trajectories, report.num_present) == (1, 1)


def test_clips_that_do_not_fit_leave_the_store_as_it_was(store: Path, tmp_path: Path) -> None:
    before = marks(store)
    wide = write_archive(tmp_path / "wide.zarr", walks(["lab/walk/w"], 4, width=5))
    with pytest.raises(SchemaError, match=r"lab/walk|walk.*w"):
        add_clips(wide, store)
    bad = walks(["lab/walk/n"], 5)
    bad["lab/walk/n"]["qpos"][2] = np.nan
    with pytest.raises(SourceError, match=r"lab/walk/n.*row 2"):
        add_clips(write_archive(tmp_path / "nan.zarr", bad), store)
    more = write_archive(tmp_path / "more.zarr", walks(["lab/walk/m"], 6))
    with StoreBuilder(store, append=True) as builder:
        with pytest.raises(StoreBusyError, match=str(os.getpid())):
            add_clips(more, store)
        builder.abort()
        with pytest.raises(ValueError, match="is over"):
            builder.publish()
        builder._is_published = True
    with pytest.raises(StoreNotFoundError):
        add_clips(more, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert marks(store) == before
    with StoreBuilder(tmp_path / "other") as builder:
        builder.add(0, 0, {"qpos": np.zeros((3, 2))})
    with pytest.raises(ArgumentError, match=r"append=True"):
        add_clips(more, tmp_path / "other")
    with pytest.raises(ArgumentError, match="append=True"):
        StoreBuilder(store, append=True, overwrite=True)


def with_rate(path: Path, clips: dict[str, Clip], fps: float, joint_names: list[str]) -> Path:
    import zarr

    write_archive(path, clips)
    root = zarr.open_group(path, mode="r+")
    for name in clips:
        root[name].attrs.update({"fps": fps, "joint_names": joint_names})
    return path


def test_rates_go_on_and_other_names_are_refused(tmp_path: Path) -> None:
    names = ["hip", "knee", "foot"]
    first = with_rate(tmp_path / "a.zarr", walks(["l/w/a", "l/w/b"]), 30.0, names)
    path, _ = build_store(first, tmp_path / "store", OBS_KEYS)
    add_clips(with_rate(tmp_path / "b.zarr", walks(["l/w/c"]), 50.0, names), path)
    motion = TrajectoryStore.open(path).attributes["motion"]
    assert (motion["fps"], motion["joint_names"]) == ([30.0, 30.0, 50.0], names)
    with pytest.raises(SchemaError, match="joint_names are in another order"):
        add_clips(with_rate(tmp_path / "c.zarr", walks(["l/w/d"]), 50.0, names[::-1]), path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and SIGKILL")
def test_a_killed_add_leaves_the_old_store_or_the_new_one(store: Path, tmp_path: Path) -> None:
    before = marks(store)
    old = TrajectoryStore.open(store).trajectory_paths
    archive = write_archive(tmp_path / "more.zarr", walks(["lab/walk/k1", "lab/walk/k2"], 7))
    for at in ("append", "publish"):
        child = os.fork()
        if child == 0:
            real = getattr(StoreBuilder, {"append": "add", "publish": "publish"}[at])

            def killed(self: Any, *arguments: Any, _real: Any = real, **named: Any) -> Any:
                _real(self, *arguments, **named)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(StoreBuilder, {"append": "add", "publish": "publish"}[at], killed)
            add_clips(archive, store)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        now = TrajectoryStore.open(store)
        assert now.trajectory_paths == old + (["lab/walk/k1", "lab/walk/k2"] if at == "publish" else [])
        assert verify_store(store) == []
        assert bool(repair_store(store)) == (at == "append")
        assert before.items() <= marks(store).items()


def test_a_loop_over_the_store_goes_on_and_takes_in_what_is_new(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    from iltools_datasets.replay.manager import ExpertReplayManager

    manager = ExpertReplayManager.load(store, sample_batch_size=4, seed=3, prefetch=2)
    twin = ExpertReplayManager.load(store, sample_batch_size=4, seed=3)
    count = len(manager.store)
    first = [manager.buffer.sample()["index"].tolist()]
    add_clips(write_archive(tmp_path / "more.zarr", walks(["lab/walk/b1", "lab/walk/b2"], 8)), store)
    first += [manager.buffer.sample()["index"].tolist() for _ in range(3)]
    assert first == [twin.buffer.sample()["index"].tolist() for _ in range(4)]
    assert manager.refresh() == 5
    drawn = [number for batch in first for number in batch]
    while len(drawn) < count * 3 + len(manager.store):
        batch = manager.buffer.sample()
        rows = manager.store.gather(batch["index"].numpy(), ["observation"])["observation"]
        np.testing.assert_array_equal(batch["observation"], rows)
        drawn += batch["index"].tolist()
    assert max(drawn) == len(manager.store) - 1
