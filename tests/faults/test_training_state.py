"""Samplers, assignments and checkpoints that somebody has damaged, killed or misused; and data of another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_tools import SUPPORT, WATCHDOG_SECONDS, compile_failing_calls, run_python, snapshot
from stores import build_store, expected_columns, make_clips

pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets import TrajectoryStore
from iltools_datasets.errors import StateError, UnknownSegmentError
from iltools_datasets.replay_manager import EnvAssignment, ExpertReplayManager
from iltools_datasets.torchrl import SamplerWithoutReplacement, SequentialPerEnvSampler

pytestmark = pytest.mark.torch

LENGTHS = [12, 9, 30, 6]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return build_store(tmp_path / "store", make_clips(LENGTHS), attributes={"fps": 50})


@pytest.mark.faults("reopened elsewhere")
def test_another_process_finds_everything(path: Path) -> None:
    before = snapshot(path)
    process = run_python(
        "import json, sys; import numpy as np\n"
        "from iltools_datasets.replay_manager import ExpertReplayManager\n"
        "mgr = ExpertReplayManager.load(sys.argv[1])\n"
        "rows = mgr.store.gather(np.arange(len(mgr.store)))\n"
        "sums = {str(key): float(array.astype(np.float64).sum()) for key, array in rows.items()}\n"
        "segments = [[s.task_id, s.traj_id, s.start, s.length] for s in mgr.segments]\n"
        "names = [mgr.store.trajectory_name(k) for k in range(len(segments))]\n"
        "print(json.dumps([sums, segments, names, mgr.store.attributes, mgr.store.task_names]))",
        path,
    )
    assert process.returncode == 0, process.stderr
    sums, segments, names, attributes, task_names = json.loads(process.stdout)
    columns = expected_columns(make_clips(LENGTHS))
    assert sums == {str(key): float(array.astype(np.float64).sum()) for key, array in columns.items()}
    assert segments == [[0, 0, 0, 11], [0, 1, 11, 8], [0, 2, 19, 29], [1, 0, 48, 5]]
    assert names == ["clip0", "clip1", "clip2", "clip3"]
    assert attributes == {"fps": 50}
    assert task_names == {"0": "made/up0", "1": "made/up1"}
    assert snapshot(path) == before


@pytest.mark.faults("killed checkpoint")
def test_checkpoints_killed_at_every_call(path: Path, tmp_path: Path) -> None:
    library = compile_failing_calls(tmp_path)
    process = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed_checkpoint.py"), path, tmp_path / "checkpoints"],
        capture_output=True,
        text=True,
        timeout=2 * WATCHDOG_SECONDS,
        check=False,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(SUPPORT)},
    )
    assert process.returncode == 0, process.stderr
    of_sampler, of_buffer = map(int, process.stdout.split())
    assert of_sampler >= 4
    assert of_buffer >= 4


@pytest.mark.faults("killed build")
def test_spools_killed_at_every_call(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed_spool.py"), tmp_path / "stores"],
        capture_output=True,
        text=True,
        timeout=2 * WATCHDOG_SECONDS,
        check=False,
        env={**os.environ, "LD_PRELOAD": str(compile_failing_calls(tmp_path)), "PYTHONPATH": str(SUPPORT)},
    )
    assert process.returncode == 0, process.stderr
    same_layout, new_layout = map(int, process.stdout.split())
    assert same_layout >= 60
    assert new_layout >= 150


MUTATIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "five envs, one assignment": lambda state: state.update(segment=[0]),
    "one step too few": lambda state: state.update(step=state["step"][:-1]),
    "segment that is not there": lambda state: state["segment"].__setitem__(0, 4),
    "negative segment": lambda state: state["segment"].__setitem__(0, -1),
    "step past the end": lambda state: state["step"].__setitem__(4, 2**40),
    "step that is no integer": lambda state: state["step"].__setitem__(4, 1.0),
    "no steps": lambda state: state.pop("step"),
    "another kind": lambda state: state.update(kind="RandomSampler"),
}


@pytest.mark.faults("mutated sampler state")
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_sequential_state(path: Path, mutation: str) -> None:
    segments = TrajectoryStore.open(path).segments
    sampler, twin = (
        SequentialPerEnvSampler(segments, [EnvAssignment(0, k % 3, k) for k in range(5)]) for _ in range(2)
    )
    state = json.loads(json.dumps(sampler.state_dict()))
    assert {"segment", "step"} <= state.keys()
    MUTATIONS[mutation](state)
    with pytest.raises(StateError):
        sampler.load_state_dict(state)
    for _ in range(20):
        assert sampler.sample(None)[0].tolist() == twin.sample(None)[0].tolist()


@pytest.mark.faults("mutated sampler state")
@pytest.mark.parametrize("name", ["position", "epoch", "seed", "total"])
@pytest.mark.parametrize("value", [-1, 2**64, 10**6, "7", None, 1.5, True])
def test_a_mutated_shuffle_state(path: Path, name: str, value: Any) -> None:
    from iltools_datasets.torchrl import TrajectoryStorage

    storage = TrajectoryStorage(TrajectoryStore.open(path))
    sampler, twin = SamplerWithoutReplacement(seed=1), SamplerWithoutReplacement(seed=1)
    for each in (sampler, twin):
        each.sample(storage, 10)
    state = json.loads(json.dumps(sampler.state_dict()))
    assert name in state
    state[name] = value
    if value == 10**6 and name != "position":
        # Possible, for storages may grow: what is drawn lies within the data all the same.
        sampler.load_state_dict(state)
        assert all(sampler.sample(storage, 7)[0].max() < len(storage) for _ in range(20))
        return
    with pytest.raises(StateError):
        sampler.load_state_dict(state)
    for _ in range(20):
        assert sampler.sample(storage, 7)[0].tolist() == twin.sample(storage, 7)[0].tolist()


@pytest.mark.faults("unknown task in an update")
def test_no_cursor_moves_when_one_task_is_unknown(path: Path) -> None:
    mgr = ExpertReplayManager.load(path)
    mgr.set_assignment([EnvAssignment(0, 0, k) for k in range(5)])
    before = mgr.assignment
    with pytest.raises(UnknownSegmentError, match="trajectory 3 in task 99"):
        mgr.update_assignments({0: (0, 1), 1: (0, 2), 2: (99, 3), 3: (0, 1)})
    assert mgr.assignment == before
    assert mgr.buffer.sample()["index"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.faults("batch larger than the data")
@pytest.mark.parametrize("without_replacement", [True, False])
def test_more_rows_than_there_are(tmp_path: Path, without_replacement: bool) -> None:
    mgr = ExpertReplayManager.load(build_store(tmp_path / "ten", make_clips([11])))
    mgr.set_uniform_sampler(batch_size=25, without_replacement=without_replacement)
    index = mgr.buffer.sample()["index"].numpy()
    assert len(index) == 25
    if without_replacement:
        assert np.bincount(index[:20], minlength=10).tolist() == [2] * 10
