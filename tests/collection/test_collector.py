"""What was recorded is what was given, in a file and in a store; what is wrong is refused; a kill loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets import TrajectoryStore, verify_store
from iltools_datasets.errors import (
    ArgumentError,
    OutOfRangeError,
    ReadOnlyError,
    SchemaError,
    StoreBusyError,
    StoreExistsError,
    StoreNotFoundError,
)

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection.collector import ExpertTrajectoryCollector  # noqa: E402

N, OBS, ACT, STUDENT = 4, 6, 3, 8


def step_of(at: int, envs: int = N) -> dict[str, Any]:
    """Rows that say where they belong: env and step are in every value."""
    base = (np.arange(envs)[:, None] * 1000 + at).astype(np.float32)
    return {
        "observations": base + np.linspace(0, 0.5, OBS, dtype=np.float32),
        "actions": base + np.linspace(0.5, 0.9, ACT, dtype=np.float32),
        "student_observations": -base - np.linspace(0, 0.5, STUDENT, dtype=np.float32),
    }


def last_of(at: int) -> dict[str, Any]:
    after = step_of(at + 500)
    return {
        "final_observations": after["observations"],
        "final_student_observations": after["student_observations"],
    }


def make(directory: Path | None = None, **options: Any) -> ExpertTrajectoryCollector:
    return ExpertTrajectoryCollector(OBS, ACT, STUDENT, directory=directory, **options)


SCRIPT = st.lists(
    st.tuples(
        st.lists(st.booleans(), min_size=N, max_size=N),
        st.lists(st.sampled_from(["", "", "fell", "cut", "known"]), min_size=N, max_size=N),
    ),
    min_size=1,
    max_size=12,
)


class Oracle:
    """Episodes by the rules, row by row."""

    def __init__(self) -> None:
        self.running: list[list[int]] = [[] for _ in range(N)]
        self.over: list[tuple[int, list[int], int | None, str]] = []

    def step(self, at: int, mask: list[bool]) -> None:
        for env, is_data in enumerate(mask):
            if is_data:
                self.running[env].append(at)
            elif self.running[env]:
                self.end(env, None, "cut")

    def end(self, env: int, last: int | None, how: str) -> None:
        self.over.append((env, self.running[env], last, how))
        self.running[env] = []


def play(collector: ExpertTrajectoryCollector, script: Any) -> Oracle:
    oracle = Oracle()
    for at, (mask, ends) in enumerate(script):
        collector.add_step(**step_of(at), valid_mask=torch.tensor(mask))
        oracle.step(at, mask)
        for how in ("fell", "cut", "known"):
            ids = [env for env in range(N) if ends[env] == how and oracle.running[env]]
            options = {"truncated": how == "cut", **(last_of(at) if how == "known" else {})}
            collector.mark_trajectory_end(env_ids=ids, **options)
            for env in ids:
                oracle.end(env, at + 500 if how == "known" else None, "cut" if how == "cut" else "fell")
    return oracle


def assert_store(store: TrajectoryStore, oracle: Oracle, after: int = 0) -> None:
    """Check the trajectories behind the first `after`; those are the caller's."""
    assert store.num_trajectories == len(oracle.over)
    first = int(store.segments.length[:after].sum())
    rows, at = store.gather(np.arange(first, len(store))), 0
    for k, (env, steps, last, how) in list(enumerate(oracle.over))[after:]:
        here = slice(at, at + len(steps))
        at += len(steps)
        assert store.trajectory_name(k) == f"env{env}/{steps[0]}"
        after = [*steps[1:], steps[-1] if last is None else last]
        for key, argument in (("observation", "observations"), ("student_observation", "student_observations")):
            np.testing.assert_array_equal(rows[key][here], [step_of(s)[argument][env] for s in steps])
            np.testing.assert_array_equal(rows["next", key][here], [step_of(s)[argument][env] for s in after])
        for key in ("action", "action_mean"):
            np.testing.assert_array_equal(rows[key][here], [step_of(s)["actions"][env] for s in steps])
        assert (rows["action_sigma"][here] == np.float32(0.01)).all()
        ends = [False] * (len(steps) - 1)
        assert rows["next_known"][here, 0].tolist() == [True] * (len(steps) - 1) + [last is not None]
        assert rows["terminated"][here, 0].tolist() == [*ends, how == "fell"]
        assert rows["next", "truncated"][here, 0].tolist() == [*ends, how == "cut"]
        assert rows["next", "done"][here, 0].tolist() == [*ends, True]
        assert (rows["env_id"][here] == env).all()


@settings(max_examples=25)
@given(script=SCRIPT)
def test_a_store_holds_the_episodes_that_happened(tmp_path_factory: Any, script: Any) -> None:
    path = tmp_path_factory.mktemp("recorded") / "store"
    collector = make(path)
    oracle = play(collector, script)
    assert collector.num_trajectories == len(oracle.over)
    assert len(collector.running) == sum(map(bool, oracle.running))
    assert collector.num_steps == sum(sum(mask) for mask, _ in script)
    for env in range(N):
        if oracle.running[env]:
            oracle.end(env, None, "cut")
    if not oracle.over:
        with pytest.raises(SchemaError, match="no episode is over"):
            collector.close()
        return
    collector.close()
    store = TrajectoryStore.open(path)
    assert_store(store, oracle)
    assert not verify_store(path)
    assert {entry.name for entry in path.iterdir()} == {"manifest.json", ".lock", store.data_dir.name}
    assert {entry.name for entry in store.data_dir.iterdir()} == {
        "meta.json", "segments.i64", "names.json", "states", "transitions",
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_a_file_holds_what_was_given(tmp_path: Path, suffix: str) -> None:
    collector = make()
    masks = np.random.default_rng(0).random((9, N)) > 0.3
    for at, mask in enumerate(masks):
        collector.add_step(**step_of(at), valid_mask=mask)
    with pytest.warns(UserWarning, match="only_valid=True leaves them out"):
        collector.save(tmp_path / f"expert{suffix}")
    if suffix == ".npy":
        held = np.load(tmp_path / "expert.npy", allow_pickle=True).item()
    else:
        held = torch.load(tmp_path / "expert.pt", weights_only=True)
    loaded = ExpertTrajectoryCollector.load(tmp_path / f"expert{suffix}")
    for key in ("observations", "actions", "student_observations"):
        expected = np.stack([step_of(at)[key] for at in range(len(masks))])
        for found in (held[key], loaded[key]):
            assert found.dtype in (np.float32, torch.float32)
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(held["action_mean"], held["actions"])
    assert (np.asarray(held["action_sigma"]) == np.float32(0.01)).all()
    np.testing.assert_array_equal(held["valid_mask"], masks)
    assert held["metadata"]["num_steps"] == masks.sum()
    assert held["metadata"]["obs_dim_dict"] == {"teacher": OBS, "student": STUDENT}
    assert held["metadata"]["has_valid_mask"] is True

    collector.save(tmp_path / f"valid{suffix}", only_valid=True)
    loaded = ExpertTrajectoryCollector.load(tmp_path / f"valid{suffix}")
    expected = np.concatenate([step_of(at)["actions"][mask] for at, mask in enumerate(masks)])
    # A consumer that flattens [T, N, d] and never looks at a mask.
    np.testing.assert_array_equal(loaded["actions"].reshape(-1, ACT), expected)
    assert "valid_mask" not in loaded
    journal = collector._place.directory
    collector.close()
    assert not journal.exists()


def test_means_and_deviations_are_kept_as_given(tmp_path: Path) -> None:
    with ExpertTrajectoryCollector(2, 1, directory=tmp_path / "store") as collector:
        for at in range(3):
            rows = np.full((2, 2), at, dtype=np.int32)
            collector.add_step(rows, np.ones((2, 1)), action_mean=np.zeros((2, 1)), action_sigma=np.full((2, 1), 0.5))
        collector.mark_trajectory_end(count=2)
    rows = TrajectoryStore.open(tmp_path / "store").gather(np.arange(6))
    assert rows["observation"].dtype == np.int32
    assert (rows["action"].dtype, rows["action_mean"].max(), rows["action_sigma"].min()) == (np.float32, 0.0, 0.5)


@pytest.mark.faults
def test_deviations_are_positive_where_rows_are_data(tmp_path: Path) -> None:
    with ExpertTrajectoryCollector(2, 1, directory=tmp_path / "store") as collector:
        sigma = np.array([[0.5], [0.0]])
        with pytest.raises(SchemaError, match="action_sigma: env 1: expected positive deviations, found 0"):
            collector.add_step(np.ones((2, 2)), np.ones((2, 1)), action_sigma=sigma)
        collector.add_step(np.ones((2, 2)), np.ones((2, 1)), action_sigma=sigma, valid_mask=[True, False])
        with pytest.raises(ArgumentError, match="count"):
            collector.mark_trajectory_end(count=-1)
    assert len(TrajectoryStore.open(tmp_path / "store")) == 1


@pytest.mark.faults
def test_a_recording_of_other_envs_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "store"
    collector = make(path)
    collector.add_step(**step_of(0))
    del collector
    before = sorted((file, file.stat().st_size) for file in path.rglob("*") if file.is_file())
    for options in ({"num_envs": N + 1}, {"student_obs_dim": None}, {"action_dim": ACT + 1}):
        given = {"obs_dim": OBS, "action_dim": ACT, "student_obs_dim": STUDENT, **options}
        with pytest.raises(SchemaError, match="expected to go on with"):
            ExpertTrajectoryCollector(**given, directory=path, resume=True)
    assert before == sorted((file, file.stat().st_size) for file in path.rglob("*") if file.is_file())


def test_an_env_may_use_its_buffers_again(tmp_path: Path) -> None:
    collector = ExpertTrajectoryCollector(1, 1)
    seen, done = torch.zeros(2, 1), torch.zeros(2, 1, requires_grad=True)
    for at in range(4):
        seen.fill_(at)
        collector.add_step(seen, done * 2)
    collector.save(tmp_path / "expert.npy")
    loaded = collector.load(tmp_path / "expert.npy")
    assert loaded["observations"][:, 0, 0].tolist() == [0, 1, 2, 3]
    collector.close()


def test_enough_is_enough_but_what_runs_is_finished(tmp_path: Path) -> None:
    collector = make(tmp_path / "store", max_trajectories=2)
    for at in range(6):
        if at == 2:
            with pytest.warns(UserWarning, match="running ones are finished, no new one begins"):
                collector.add_step(**step_of(at))
        else:
            collector.add_step(**step_of(at))
        if at == 1:
            collector.mark_trajectory_end(env_ids=[0, 1])
            assert collector.is_full
    assert (len(collector.running), collector.get_statistics()["num_dropped"]) == (2, 8)
    collector.mark_trajectory_end(count=2)
    collector.close()
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.segments.length.tolist() == [2, 2, 6, 6]


def test_endless_episodes_are_cut_where_the_next_state_is_known(tmp_path: Path) -> None:
    with make(tmp_path / "store", max_episode_steps=3) as collector:
        for at in range(7):
            collector.add_step(**step_of(at))
    store = TrajectoryStore.open(tmp_path / "store")
    rows = store.gather(np.arange(3))
    np.testing.assert_array_equal(rows["next", "observation"][2], step_of(3)["observations"][0])
    assert rows["next_known"].all()
    assert rows["truncated"][:, 0].tolist() == [False, False, True]


def test_unknown_boundaries_give_no_next(tmp_path: Path) -> None:
    collector = make(tmp_path / "store")
    for at in range(3):
        collector.add_step(**step_of(at))
    with pytest.warns(UserWarning, match="and not which"):
        collector.mark_trajectory_end(count=2)
    collector.mark_trajectory_end(count=1)
    assert (collector.num_trajectories, len(collector.running)) == (3, 4)
    collector.close()
    store = TrajectoryStore.open(tmp_path / "store")
    assert ("next", "observation") not in store.keys
    assert not store.gather(np.arange(len(store)), ["terminated"])["terminated"].any()
    np.testing.assert_array_equal(store.gather([4], ["observation"])["observation"][0], step_of(1)["observations"][1])


@pytest.mark.faults
def test_a_wrong_step_records_nothing_and_collecting_goes_on(tmp_path: Path) -> None:
    collector = make(tmp_path / "store", num_envs=N)
    good = step_of(0)
    nan, huge = (good["actions"].copy() for _ in range(2))
    nan[2, 1], huge = np.nan, huge.astype(np.float64)
    huge[1, 0] = 1e300
    collector.add_step(**good)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"observations": good["observations"][:, 1:]}, r"observations: expected \[num_envs, 6\], found \[4, 5\]"),
        ({"observations": good["observations"][0]}, r"observations: expected \[num_envs, 6\], found \[6\]"),
        ({k: v[:3] for k, v in good.items()}, "observations: expected 4 envs, found 3"),
        ({"actions": good["actions"].astype(np.int64)}, "actions: expected float32 as in the first step, found int64"),
        ({"actions": good["actions"].astype(str)}, "actions: expected numbers"),
        ({"student_observations": None}, "student_observations: expected one per step"),
        ({"action_mean": good["actions"]}, "with every step, as with the first"),
        ({"actions": nan}, r"actions: env 2, column 1: nan; on_nan='drop'"),
        ({"actions": huge}, r"actions: env 1, column 0: float32 cannot hold 1e\+300"),
        ({"action_sigma": good["actions"]}, "with every step, as with the first"),
        ({"valid_mask": [True] * 3}, r"valid_mask: expected \[4\], found \[3\]"),
        ({"valid_mask": [0, 1, 2, 1]}, "valid_mask: expected bools, or 0 and 1"),
    ]
    for change, message in wrong:
        with pytest.raises(SchemaError, match=message):
            collector.add_step(**{**good, **change})
    with pytest.raises(ArgumentError, match="5 ends, 4 episodes are running"):
        collector.mark_trajectory_end(count=5)
    for ids, error in (([4], "no episode is running in env 4"), ([1, 1], "named twice"), ([True] * 3, "a mask of 4")):
        with pytest.raises(OutOfRangeError, match=error):
            collector.mark_trajectory_end(env_ids=ids)
    with pytest.raises(SchemaError, match="final_student_observations: expected exactly where"):
        collector.mark_trajectory_end(env_ids=[0], final_observations=good["observations"])
    with pytest.raises(SchemaError, match=r"final_observations: expected float32 \[1 or 4, 6\]"):
        collector.mark_trajectory_end(env_ids=[0], **{k: v[:2] for k, v in last_of(0).items()})
    assert (collector.num_steps, len(collector.running), collector.num_trajectories) == (4, 4, 0)
    collector.add_step(**{**step_of(1), "valid_mask": [1, 1, 1, 1]})
    collector.close()
    assert TrajectoryStore.open(tmp_path / "store").segments.length.tolist() == [2] * 4
    for call in (lambda: collector.add_step(**good), lambda: collector.mark_trajectory_end(env_ids=[0])):
        with pytest.raises(ReadOnlyError, match="closed"):
            call()
    collector.close()


def test_rows_with_nan_can_be_dropped_or_kept(tmp_path: Path) -> None:
    for on_nan, lengths in (("drop", [1, 2]), ("keep", [4])):
        with ExpertTrajectoryCollector(1, 1, directory=tmp_path / on_nan, on_nan=on_nan) as collector:
            for value in (0.0, np.nan, 2.0, 3.0):
                collector.add_step(np.full((1, 1), value), np.ones((1, 1)))
        assert TrajectoryStore.open(tmp_path / on_nan).segments.length.tolist() == lengths


@pytest.mark.faults
def test_wrong_options_and_places(tmp_path: Path) -> None:
    for options in ({"obs_dim": 0}, {"action_dim": -1}, {"max_trajectories": 0}, {"on_nan": "zero"}):
        with pytest.raises(ArgumentError):
            ExpertTrajectoryCollector(**{"obs_dim": 1, "action_dim": 1, **options})
    with pytest.raises(StoreNotFoundError, match="no unfinished recording"):
        make(tmp_path / "nothing", resume=True)
    first = make(tmp_path / "store")
    with pytest.raises(StoreBusyError):
        make(tmp_path / "store")
    with pytest.raises(SchemaError, match="nothing was recorded"):
        first.close()
    assert not (tmp_path / "store").exists()
    with make(tmp_path / "store") as collector:
        collector.add_step(**step_of(0))
        with pytest.raises(ArgumentError, match=r"second: .* grows at .*store: flush and open that one"):
            collector.save(tmp_path / "second")
        assert not (tmp_path / "second").exists()
        assert len(collector.running) == N
    with pytest.raises(StoreExistsError):
        make(tmp_path / "store")
    other = make()
    with pytest.raises(SchemaError, match="nothing was recorded"):
        other.save(tmp_path / "x.npy")
    other.add_step(**step_of(0))
    with pytest.raises(ArgumentError, match=r"ends in \.npy or \.pt"):
        other.save(tmp_path / "x.hdf5")
    other.clear()
    assert (other.num_steps, other.running) == (0, [])
    other.add_step(**step_of(1))
    other.save(tmp_path / "saved")
    assert TrajectoryStore.open(tmp_path / "saved").num_trajectories == N
    other.close()


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_collector as t
c = t.make(Path({path!r}), resume={resume})
at = 0 if c._recording is None else c._recording.core.num_steps
print("ready", flush=True)
while True:
    c.add_step(**t.step_of(at))
    if at % 3 == 2: c.mark_trajectory_end(env_ids=[at % 4, (at + 1) % 4], **t.last_of(at))
    print(at, flush=True)
    at += 1
"""


@pytest.mark.faults
def test_a_kill_loses_no_step_that_was_returned_for(tmp_path: Path) -> None:
    path, returned = tmp_path / "store", -1
    for round_ in range(3):
        code = KILLED.format(tests=str(Path(__file__).parent), path=str(path), resume=round_ > 0)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.strip() != "ready":
                    returned = int(line)
                if returned >= 7 * (round_ + 1):
                    break
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().split()
            returned = int(rest[-1]) if rest else returned
    with pytest.raises(StoreExistsError, match="an unfinished recording is here; resume=True"):
        make(path)
    with pytest.raises(SchemaError, match="expected to go on with"):
        ExpertTrajectoryCollector(OBS + 1, ACT, STUDENT, directory=path, resume=True)
    with make(path, resume=True) as collector:
        steps = collector._recording.core.num_steps
        assert steps in (returned + 1, returned + 2)
    store = TrajectoryStore.open(path)
    seen = store.gather(np.arange(len(store)), ["observation", "env_id"])
    found = {(int(env), round(float(row[0]) - 1000 * int(env))) for row, (env,) in zip(*seen.values(), strict=True)}
    assert found == {(env, at) for env in range(N) for at in range(steps)}
    assert not verify_store(path)


@pytest.mark.faults
def test_a_forked_copy_touches_nothing(tmp_path: Path) -> None:
    collector = make(tmp_path / "store")
    collector.add_step(**step_of(0))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            collector.add_step(**step_of(1))
        except ReadOnlyError:
            code = 0
        finally:
            collector.__exit__(None, None, None)
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    collector.add_step(**step_of(1))
    collector.close()
    assert TrajectoryStore.open(tmp_path / "store").segments.length.tolist() == [2] * 4


@pytest.mark.faults("a signal handler that records")
def test_a_signal_handler_and_another_thread_use_a_collector_that_writes_a_store(tmp_path: Path) -> None:
    """A store is written by a native call in which handlers run and other threads go on: nobody waits for ever."""
    steps, wide, path = 60, 1 << 14, tmp_path / "store"
    collector = ExpertTrajectoryCollector(wide, ACT, STUDENT, max_trajectories=10**6)
    for at in range(steps):
        rows = np.full((N, wide), at, np.float32)
        collector.add_step(**{**step_of(at), "observations": rows})
        collector.mark_trajectory_end(count=N)
    asked: set[tuple[str, int]] = set()
    idle, over = threading.Event(), threading.Event()
    idle.set()

    def handler(_: int, frame: Any) -> None:
        # The frame says what is under way: the call that writes the store.
        asked.add((frame.f_code.co_name, collector.num_steps))
        collector.flush()
        idle.set()

    def ask() -> None:
        while not over.wait(0.001):
            assert collector.num_trajectories == steps * N
            if idle.is_set() and any(file.stat().st_size for file in path.rglob("observation.memmap")):
                idle.clear()
                os.kill(os.getpid(), signal.SIGALRM)

    other = threading.Thread(target=ask)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        other.start()
        collector.save(path)
    finally:
        over.set()
        other.join()
        signal.signal(signal.SIGALRM, before)
    assert ("write_store", steps * N) in asked
    store = TrajectoryStore.open(path)
    assert (len(store), store.num_trajectories) == (steps * N, steps * N)
    assert not verify_store(store.path)
    collector.close()
