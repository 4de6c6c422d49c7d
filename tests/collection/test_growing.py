"""A store that grows: readers find what is over, always whole; what ends the collector leaves what was returned for."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore, repair_store, verify_store
from iltools_datasets.cli import main
from iltools_datasets.errors import (
    ReadOnlyError,
    SchemaError,
    StoreBusyError,
    StoreChangedError,
    StoreExistsError,
    StoreNotFoundError,
)

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection import place  # noqa: E402
from test_collector import N, Oracle, assert_store, last_of, make, step_of  # noqa: E402


def run(*arguments: str) -> int:
    """Run the command line and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publications are those that are asked for."""
    monkeypatch.setattr(place, "PUBLISH_SECONDS", 3600.0)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each episode is published by itself."""
    monkeypatch.setattr(place, "PUBLISH_SECONDS", 0.0)


def rows_of(store: TrajectoryStore) -> dict[Any, Any]:
    return store.gather(np.arange(len(store)))


@pytest.mark.usefixtures("seldom")
def test_a_reader_attached_through_100_publications_never_sees_a_wrong_or_missing_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    oracle, before = Oracle(), []
    with make(tmp_path / "store", max_trajectories=10**6) as collector:
        collector.add_step(**step_of(0))
        oracle.step(0, [True] * N)
        store = TrajectoryStore.open(tmp_path / "store")
        assert (len(store), store.num_trajectories, store.is_growing) == (0, 0, True)
        rows = rows_of(store)
        for at in range(1, 101):
            mask = (rng.random(N) < 0.9).tolist()
            collector.add_step(**step_of(at), valid_mask=mask)
            oracle.step(at, mask)
            for env in [env for env in range(N) if oracle.running[env] and rng.random() < 0.5]:
                collector.mark_trajectory_end(env_ids=[env], **last_of(at))
                oracle.end(env, at + 500, "fell")
            collector.flush()
            later = store.refresh()
            assert_store(later, oracle, after=store.num_trajectories)
            again, new = rows_of(store), rows_of(later)
            for key, values in rows.items():
                np.testing.assert_array_equal(again[key], values)
                np.testing.assert_array_equal(new[key][: len(store)], values)
            if at % 20 == 0:
                assert not verify_store(later.path)
                before.append((later, new))
            store, rows = later, new
        read = TrajectoryStore.open(tmp_path / "store", "pread")
        np.testing.assert_array_equal(rows_of(read)["observation"], rows["observation"])
        collector.add_step(**step_of(101))
    sealed = store.refresh()
    assert not sealed.is_growing
    assert sealed.num_trajectories > store.num_trajectories
    assert sealed.refresh() is sealed
    for snapshot, rows in before:
        handle = pickle.loads(pickle.dumps(snapshot))
        assert handle.num_trajectories == snapshot.num_trajectories
        for store in (snapshot, handle):
            for key, values in rows_of(store).items():
                np.testing.assert_array_equal(values, rows[key])


@pytest.mark.usefixtures("seldom")
def test_a_copy_of_what_was_uploaded_grows_with_it_and_is_sealed(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec")
    oracle, copies = Oracle(), []

    def copied() -> TrajectoryStore:
        bucket = fsspec.filesystem("memory")
        if bucket.exists("/growing"):
            bucket.rm("/growing", recursive=True)
        bucket.put(str(tmp_path / "store"), "/growing", recursive=True)
        return TrajectoryStore.open("memory://growing", cache=tmp_path / "cache")

    with make(tmp_path / "store", max_trajectories=10**6) as collector:
        for at in range(12):
            collector.add_step(**step_of(at))
            oracle.step(at, [True] * N)
            if at % 4 == 3:
                collector.mark_trajectory_end(env_ids=[at % N], **last_of(at))
                oracle.end(at % N, at + 500, "fell")
                collector.flush()
                copies.append((copied(), len(oracle.over)))
    assert all(copy.is_growing for copy, _ in copies)
    sealed = copied()
    assert not sealed.is_growing
    assert sealed.num_trajectories == TrajectoryStore.open(tmp_path / "store").num_trajectories > copies[-1][1]
    assert not verify_store(sealed.path)
    assert not list(sealed.path.rglob("journal"))
    for copy, episodes in copies:
        assert copy.num_trajectories == episodes
        for key, rows in rows_of(copy).items():
            np.testing.assert_array_equal(rows, rows_of(sealed)[key][: len(copy)])


@pytest.mark.usefixtures("seldom")
def test_counts_go_on_with_a_recording(tmp_path: Path) -> None:
    """Rows left out, rows that are no data, and ends of which only the number is known."""
    counts = ("num_trajectories", "num_steps", "num_dropped", "num_invalid")
    collector = make(tmp_path / "store", max_trajectories=6)
    rows = 0

    def step(at: int, *missing: int) -> None:
        nonlocal rows
        mask = [env not in missing for env in range(N)]
        before = collector.num_steps
        collector.add_step(**step_of(at), valid_mask=mask)
        rows += collector.num_steps - before

    step(0, 1)
    collector.mark_trajectory_end(env_ids=[0], **last_of(0))
    step(1, 2)
    with pytest.warns(UserWarning, match="boundaries stay unknown"):
        collector.mark_trajectory_end(count=2)  # those that run are cut, and two are counted
    collector._recording.core.next_file()
    step(2)
    collector.mark_trajectory_end(env_ids=[0, 1], **last_of(2))
    with pytest.warns(UserWarning, match="6 trajectories are recorded"):
        step(3, 3)
    told = [collector.get_statistics()[name] for name in counts]
    # One row cut at step 1 and one at step 3 are ends, too; envs 0 and 1 are left out, env 2 goes on.
    assert told == [7, rows, 2, 3]
    for turn in range(2):
        del collector._recording  # what a kill leaves
        collector = make(tmp_path / "store", max_trajectories=6, resume=True)
        found = [collector.get_statistics()[name] for name in counts]
        # What ran is cut, the first time.
        assert found == [8, rows, 2, 3], turn
        assert not collector.running
    collector.close()


@pytest.mark.usefixtures("at_once")
def test_what_is_over_is_published_without_being_asked_for(tmp_path: Path) -> None:
    with make(tmp_path / "store") as collector:
        collector.add_step(**step_of(0))
        collector.mark_trajectory_end(env_ids=[2], **last_of(0))
        store = TrajectoryStore.open(tmp_path / "store")
        # No time is waited for: it comes, or the test's own limit does.
        while not store.num_trajectories:
            store = store.refresh()
        assert store.trajectory_names == ("env2/0",)


@pytest.mark.usefixtures("at_once")
def test_files_out_of_a_store_that_grows_are_those_of_a_journal(tmp_path: Path) -> None:
    masks = np.random.default_rng(1).random((90, N)) > 0.3
    grown, plain = make(tmp_path / "store", max_trajectories=1000), make(max_trajectories=1000)
    for at, mask in enumerate(masks):
        for collector in (grown, plain):
            collector.add_step(**step_of(at), valid_mask=mask)
            if at % 7 == 6:
                collector.mark_trajectory_end(env_ids=collector.running[:2], **last_of(at))
        if at == 60:
            # Whatever is over by then comes from the store.
            grown.flush()
            grown._recording.core.next_file()
    grown.mark_trajectory_end(count=grown.num_running)
    plain.mark_trajectory_end(count=plain.num_running)
    grown.flush()
    assert grown._recording.core.first_step > 60
    for collector, name in ((grown, "grown"), (plain, "plain")):
        collector.save(tmp_path / f"{name}_valid.npy", only_valid=True)
        with pytest.warns(UserWarning, match="are no data"):
            collector.save(tmp_path / f"{name}.npy")
        collector.close()
    for name in ("", "_valid"):
        ours = np.load(tmp_path / f"grown{name}.npy", allow_pickle=True).item()
        theirs = np.load(tmp_path / f"plain{name}.npy", allow_pickle=True).item()
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"metadata"}:
            valid = slice(None) if name or key == "valid_mask" else masks
            np.testing.assert_array_equal(ours[key][valid], theirs[key][valid])
    assert not ours["metadata"]["has_valid_mask"]


def test_ends_of_unknown_envs_cut_what_runs_once_there_are_next_observations(tmp_path: Path) -> None:
    with make(tmp_path / "store") as collector:
        collector.add_step(**step_of(0))
        collector.mark_trajectory_end(env_ids=[0], **last_of(0))
        collector.add_step(**step_of(1))
        with pytest.warns(UserWarning, match="and not which"):
            collector.mark_trajectory_end(count=2)
        assert (collector.num_trajectories, collector.running) == (3, [])
        collector.add_step(**step_of(2))
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.segments.length.tolist() == [1, 1, 2, 2, 2, 1, 1, 1, 1]
    assert not store.gather([1, 3, 5, 7], ["next_known"])["next_known"].any()


def test_tasks_have_names(tmp_path: Path) -> None:
    for name, first in (("walk", ["walk", "run", "walk"]), ("expert", [None, "run", None])):
        with make(tmp_path / name) as collector:
            for at, task in enumerate(first):
                collector.add_step(**step_of(at))
                collector.mark_trajectory_end(env_ids=[at, 3], tasks=task)
            with pytest.raises(SchemaError, match="tasks: expected one name, or 1"):
                collector.mark_trajectory_end(env_ids=[0], tasks=["a", "b"])
            collector.flush()
            assert TrajectoryStore.open(tmp_path / name).task_names == {0: name, 1: "run"}
        store = TrajectoryStore.open(tmp_path / name)
        assert store.segments.task_id.tolist() == [0, 0, 1, 1, 0, 0, *[0] * (len(store.segments) - 6)]
        assert store.segments.traj_id[:6].tolist() == [0, 1, 0, 1, 2, 3]


@pytest.mark.faults
def test_another_store_in_its_place_is_told(tmp_path: Path) -> None:
    path = tmp_path / "store"
    collector = make(path)
    collector.add_step(**step_of(0))
    collector.mark_trajectory_end(count=N)
    collector.flush()
    first = TrajectoryStore.open(path)
    with pytest.raises(StoreBusyError, match=str(os.getpid())):
        make(path, overwrite=True)
    with pytest.raises(StoreBusyError, match=str(os.getpid())):
        make(path, resume=True)
    collector.clear()
    assert (collector.num_steps, collector.num_trajectories) == (0, 0)
    with pytest.raises(StoreNotFoundError):
        first.refresh()
    collector.add_step(**step_of(1))
    with pytest.raises(StoreChangedError, match="expected build"):
        first.refresh()
    with pytest.raises(StoreChangedError, match="expected build"):
        pickle.loads(pickle.dumps(first))
    assert rows_of(first)["env_id"].ravel().tolist() == [0, 1, 2, 3]
    del collector  # it lets go, and what was recorded stays
    with pytest.raises(StoreExistsError, match="an unfinished recording is here; resume=True"):
        make(path)
    with make(path, overwrite=True) as other:
        other.add_step(**step_of(5))
    assert TrajectoryStore.open(path).num_trajectories == N
    with pytest.raises(StoreNotFoundError, match="the store is finished"):
        make(path, resume=True)


@pytest.mark.faults
def test_a_forked_copy_of_one_that_grows_ends_like_any_program(tmp_path: Path) -> None:
    collector = make(tmp_path / "store", max_trajectories=1000)
    for at in range(40):
        collector.add_step(**step_of(at))
        collector.mark_trajectory_end(env_ids=[at % N], **last_of(at))
        if at % 10 == 5 and (pid := os.fork()) == 0:
            code = 1
            try:
                assert collector.num_trajectories == at + 1
                for call in (collector.flush, collector.close, collector.clear):
                    with pytest.raises(ReadOnlyError):
                        call()
                collector.__exit__(None, None, None)
                del collector
                code = 0
            finally:
                os._exit(code)
        if at % 10 == 5:
            assert os.waitpid(pid, 0)[1] == 0
    collector.close()
    assert TrajectoryStore.open(tmp_path / "store").num_trajectories == 40 + N - 1
    assert not verify_store(tmp_path / "store")


INTERRUPTED = """
import signal, sys
from pathlib import Path
import test_collector as t
# Where tests run in the background of a shell, children are told to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
with t.make(Path(sys.argv[1]), max_trajectories=10**6) as c:
    at = 0
    while True:
        c.add_step(**t.step_of(at))
        if at % 5 == 4: c.mark_trajectory_end(env_ids=[at % 4], **t.last_of(at))
        print(at, flush=True)
        at += 1
"""


@pytest.mark.faults
def test_ctrl_c_seals(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        steps = [int(child.stdout.readline()) for _ in range(30)]
        child.send_signal(signal.SIGINT)
        steps += map(int, child.stdout)
        assert child.stderr.read().strip().endswith("KeyboardInterrupt")
    store = TrajectoryStore.open(tmp_path / "store")
    assert not store.is_growing
    assert N * (steps[-1] + 1) <= len(store) <= N * (steps[-1] + 2)
    assert not verify_store(tmp_path / "store")


@pytest.mark.faults
def test_repair_finishes_what_nobody_goes_on_with(tmp_path: Path) -> None:
    path = tmp_path / "store"
    collector = make(path)
    for at in range(3):
        collector.add_step(**step_of(at))
    collector.mark_trajectory_end(env_ids=[1], **last_of(2))
    with pytest.raises(StoreBusyError):
        repair_store(path)
    del collector
    assert TrajectoryStore.open(path).is_growing
    assert [removed.name for removed in repair_store(path)] == ["journal"]
    store = TrajectoryStore.open(path)
    assert (store.is_growing, store.trajectory_names) == (False, ("env1/0", "env0/0", "env2/0", "env3/0"))
    assert not verify_store(path)
    assert repair_store(path) == []
    empty = make(tmp_path / "empty")
    empty.add_step(**step_of(0), valid_mask=[False] * N)
    del empty
    assert repair_store(tmp_path / "empty") == [tmp_path / "empty"]
    assert not (tmp_path / "empty").exists()


def test_the_command_line_on_a_store_that_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "store"
    with make(path) as collector:
        for at in range(4):
            collector.add_step(**step_of(at))
            collector.mark_trajectory_end(env_ids=[at])
        collector.flush()
        assert run("info", str(path), "--json") == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["growing"], said["num_clips"]) == (True, 4)
        assert said["lengths"] == {"min": 1, "mean": 2.5, "max": 4}
        assert run("info", str(path)) == 0
        assert "grows" in capsys.readouterr().out
        assert run("verify", str(path)) == 0
        assert run("view", str(path)) == 0
        capsys.readouterr()
    assert run("info", str(path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["growing"] is False
