"""ExpertReplayManager against a plain Python oracle: what each sampler draws, and what a refusal leaves behind."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import motion_clips, write_archive
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets.errors import (  # noqa: E402
    OutOfRangeError,
    StateError,
    StoreChangedError,
    UnknownSegmentError,
)
from iltools_datasets.replay_export import build_replay_from_zarr  # noqa: E402
from iltools_datasets.replay_manager import (  # noqa: E402
    AssignedUniformSampler,
    EnvAssignment,
    ExpertReplayManager,
    ExpertReplaySpec,
    SequentialPerEnvSampler,
)
from iltools_datasets.replay_memmap import build_trajectory_td  # noqa: E402
from torchrl.data import TensorDictReplayBuffer  # noqa: E402
from torchrl.data.replay_buffers.samplers import RandomSampler  # noqa: E402

pytestmark = pytest.mark.torch

# Two tasks of three trajectories: 4, 8 and 2 transitions each, so 28 in all.
LENGTHS = {(task, traj): length for task in (0, 1) for traj, length in enumerate((4, 8, 2))}
STARTS = {(0, 0): 0, (0, 1): 4, (0, 2): 12, (1, 0): 14, (1, 1): 18, (1, 2): 26}
TOTAL = 28


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("replay")
    archive = write_archive(scratch / "archive.zarr", motion_clips(lengths=(5, 9, 3)))
    build_replay_from_zarr(archive, scratch / "store", ["qpos", "qvel"], progress=False)
    return scratch / "store"


@pytest.fixture
def mgr(built: Path) -> ExpertReplayManager:
    return ExpertReplayManager.load(built)


def draws(mgr: ExpertReplayManager, count: int) -> list[list[int]]:
    return [mgr.buffer.sample()["index"].tolist() for _ in range(count)]


def march(assignment: list[tuple[int, int, int]]) -> Iterator[list[int]]:
    """The oracle: one row per env, then every step moves on, wrapping."""
    steps = [step for _, _, step in assignment]
    while True:
        yield [
            STARTS[task, traj] + step % LENGTHS[task, traj]
            for (task, traj, _), step in zip(assignment, steps, strict=True)
        ]
        steps = [step + 1 for step in steps]


def test_it_begins_with_uniform_batches(mgr: ExpertReplayManager) -> None:
    assert isinstance(mgr.buffer, TensorDictReplayBuffer)
    assert mgr.assignment is None
    assert len(mgr.buffer.sample()) == 256
    assert [(s.task_id, s.traj_id, s.start, s.length) for s in mgr.segments] == [
        (*ids, STARTS[ids], LENGTHS[ids]) for ids in LENGTHS
    ]


def test_the_rows_are_those_of_the_index(mgr: ExpertReplayManager) -> None:
    batch = mgr.buffer.sample(256)
    rows = mgr.store.gather(batch["index"].numpy())
    for key, expected in rows.items():
        np.testing.assert_array_equal(batch[key].numpy(), expected)


# Sequential


def test_marching_wraps_within_each_trajectory(mgr: ExpertReplayManager) -> None:
    assignment = [(0, 0, 0), (0, 1, 7), (1, 2, 1), (0, 0, 3), (1, 0, 9)]
    mgr.set_assignment([EnvAssignment(*entry) for entry in assignment])
    expected = march(assignment)
    assert draws(mgr, 20) == [next(expected) for _ in range(20)]
    assert mgr.buffer.batch_size == 5


assignments = st.lists(
    st.sampled_from(list(LENGTHS)).flatmap(
        lambda ids: st.tuples(st.just(ids[0]), st.just(ids[1]), st.integers(0, LENGTHS[ids] - 1))
    ),
    min_size=1,
    max_size=5,
)


@given(start=assignments, updates=st.lists(st.tuples(st.integers(0, 3), assignments), max_size=4))
def test_updates_move_the_envs_they_name_and_no_others(
    built: Path, start: list[tuple[int, int, int]], updates: list[tuple[int, list[tuple[int, int, int]]]]
) -> None:
    mgr = ExpertReplayManager.load(built)
    mgr.set_assignment([EnvAssignment(*entry) for entry in start])
    state = list(start)
    for steps, places in updates:
        assert draws(mgr, steps) == [row for row, _ in zip(march(state), range(steps), strict=False)]
        state = [(task, traj, (step + steps) % LENGTHS[task, traj]) for task, traj, step in state]
        changes = {env: place for env, place in enumerate(places) if env < len(state)}
        mgr.update_assignments(changes)
        for env, place in changes.items():
            state[env] = place
        assert mgr.assignment == [EnvAssignment(*entry) for entry in state]
    assert draws(mgr, 3) == [row for row, _ in zip(march(state), range(3), strict=False)]


def test_one_env_can_be_updated(mgr: ExpertReplayManager) -> None:
    mgr.set_assignment([EnvAssignment(0, 0), EnvAssignment(0, 1)])
    mgr.buffer.sample()
    mgr.update_env_assignment(env_index=1, task_id=1, traj_id=2)
    assert draws(mgr, 2) == [[1, 26], [2, 27]]


def test_the_assignment_is_a_snapshot(mgr: ExpertReplayManager) -> None:
    mgr.set_assignment([EnvAssignment(0, 0)])
    snapshot = mgr.assignment
    assert snapshot == [EnvAssignment(0, 0, 0)]
    mgr.buffer.sample()
    assert snapshot == [EnvAssignment(0, 0, 0)]
    assert mgr.assignment == [EnvAssignment(0, 0, 1)]
    assert mgr.assignment is not None
    mgr.assignment.clear()
    assert len(mgr.buffer.sample()) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({0: (1, 1), 1: (5, 0)}, UnknownSegmentError),
        ({0: (1, 1), 1: (0, 3)}, UnknownSegmentError),
        ({0: (1, 1), 2: (0, 0)}, OutOfRangeError),
        ({0: (1, 1), -1: (0, 0)}, OutOfRangeError),
        ({0: (1, 1), 1: (0, 0, -1)}, OutOfRangeError),
        ({0: (1, 1), 1: (0,)}, TypeError),
        ({0: (1, 1), 1: (0, 0.5)}, TypeError),
    ],
)
def test_a_bad_update_moves_nothing(mgr: ExpertReplayManager, changes: dict[int, Any], error: type[Exception]) -> None:
    mgr.set_assignment([EnvAssignment(0, 0, 1), EnvAssignment(0, 1, 2)])
    with pytest.raises(error):
        mgr.update_assignments(changes)
    assert mgr.assignment == [EnvAssignment(0, 0, 1), EnvAssignment(0, 1, 2)]
    assert draws(mgr, 1) == [[1, 6]]


@pytest.mark.parametrize("assignment", [[EnvAssignment(7, 0)], [EnvAssignment(0, 0, -1)], []])
def test_a_bad_assignment_changes_nothing(mgr: ExpertReplayManager, assignment: list[EnvAssignment]) -> None:
    mgr.set_assignment([EnvAssignment(0, 0, 1)])
    with pytest.raises((KeyError, IndexError, ValueError)):
        mgr.set_assignment(assignment)
    assert draws(mgr, 1) == [[1]]


def test_without_an_assignment_there_are_no_envs(mgr: ExpertReplayManager) -> None:
    for call in (lambda: mgr.update_env_assignment(0, 0, 0), lambda: mgr.sample_per_env_window(2)):
        with pytest.raises(OutOfRangeError, match="set_assignment"):
            call()


# Uniform


@given(batch_size=st.integers(1, 70), seed=st.integers(0, 100))
def test_every_transition_once_per_epoch_in_exact_batches(built: Path, batch_size: int, seed: int) -> None:
    mgr = ExpertReplayManager.load(built)
    mgr.set_uniform_sampler(batch_size, seed=seed)
    rows = list(chain.from_iterable(draws(mgr, 3 * TOTAL // batch_size + 1)))
    epochs = [rows[first : first + TOTAL] for first in range(0, len(rows) - TOTAL + 1, TOTAL)]
    assert epochs
    assert all(sorted(epoch) == list(range(TOTAL)) for epoch in epochs)


def test_with_replacement_the_draws_are_uniform_over_transitions(mgr: ExpertReplayManager) -> None:
    mgr.set_uniform_sampler(28_000, without_replacement=False, seed=0)
    counts = torch.bincount(mgr.buffer.sample()["index"], minlength=TOTAL)
    # 1000 expected each; six standard deviations of a binomial count.
    assert (counts - 1000).abs().max() < 190
    assert len(counts) == TOTAL


def test_the_generator_of_the_buffer_decides(built: Path) -> None:
    streams = []
    for seed in (3, 3, 4):
        mgr = ExpertReplayManager.load(built)
        mgr.buffer.set_rng(torch.Generator().manual_seed(seed))
        mgr.set_uniform_sampler(10)
        streams.append(draws(mgr, 5))
    assert streams[0] == streams[1] != streams[2]


@pytest.mark.parametrize("without_replacement", [True, False])
def test_respecting_the_assignment_draws_from_its_trajectories(
    mgr: ExpertReplayManager, without_replacement: bool
) -> None:
    mgr.set_assignment([EnvAssignment(0, 0), EnvAssignment(1, 2), EnvAssignment(0, 0, 2)])
    mgr.set_uniform_sampler(6, without_replacement, respect_assignment=True, seed=1)
    rows = draws(mgr, 20)
    assert {row for batch in rows for row in batch} == {0, 1, 2, 3, 26, 27}
    if without_replacement:
        assert all(sorted(batch) == [0, 1, 2, 3, 26, 27] for batch in rows)
    mgr.update_env_assignment(1, 0, 2)
    assert {row for batch in draws(mgr, 20) for row in batch} == {0, 1, 2, 3, 12, 13}


def test_a_step_alone_does_not_reshuffle(built: Path) -> None:
    streams = []
    for update in ((0, 0, 3), None):
        mgr = ExpertReplayManager.load(built)
        mgr.set_assignment([EnvAssignment(0, 1), EnvAssignment(0, 0)])
        mgr.set_uniform_sampler(5, respect_assignment=True, seed=1)
        mgr.buffer.sample()
        if update:
            mgr.update_assignments({1: update})
        streams.append(draws(mgr, 4))
    assert streams[0] == streams[1]


def test_respecting_no_assignment_means_everything(mgr: ExpertReplayManager) -> None:
    mgr.set_uniform_sampler(TOTAL, respect_assignment=True)
    assert sorted(draws(mgr, 1)[0]) == list(range(TOTAL))


def test_clearing_the_assignment_goes_back_to_everything(mgr: ExpertReplayManager) -> None:
    mgr.set_uniform_sampler(TOTAL)
    mgr.set_assignment([EnvAssignment(0, 0)])
    mgr.clear_assignment()
    assert mgr.assignment is None
    assert sorted(draws(mgr, 1)[0]) == list(range(TOTAL))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_an_impossible_batch_size_changes_nothing(mgr: ExpertReplayManager, batch_size: Any) -> None:
    mgr.set_assignment([EnvAssignment(0, 0)])
    with pytest.raises(ValueError, match="batch_size"):
        mgr.set_uniform_sampler(batch_size)
    assert draws(mgr, 1) == [[0]]


def test_switching_keeps_storage_and_transforms(mgr: ExpertReplayManager) -> None:
    storage = mgr.buffer.storage
    mgr.buffer.append_transform(lambda batch: batch.set("mark", batch["index"] if "index" in batch else batch["qpos"]))
    mgr.set_assignment([EnvAssignment(0, 0)])
    assert "mark" in mgr.buffer.sample()
    mgr.set_uniform_sampler(4)
    assert "mark" in mgr.buffer.sample()
    assert "mark" in ExpertReplayManager.sample_per_env_window(_assigned(mgr), 2)
    assert mgr.buffer.storage is storage


def _assigned(mgr: ExpertReplayManager) -> ExpertReplayManager:
    mgr.set_assignment([EnvAssignment(0, 0)])
    return mgr


def test_a_custom_sampler(mgr: ExpertReplayManager) -> None:
    mgr.set_custom_sampler(RandomSampler(), batch_size=12)
    assert len(mgr.buffer.sample()) == 12
    mgr.set_custom_sampler(SequentialPerEnvSampler(segments=mgr.segments, assignment=[EnvAssignment(1, 0, 2)]))
    assert mgr.buffer.sample()["index"].tolist() == [16]


def test_the_samplers_work_without_a_storage(mgr: ExpertReplayManager) -> None:
    assignment = [EnvAssignment(0, 2), EnvAssignment(1, 2)]
    index, info = SequentialPerEnvSampler(segments=mgr.segments, assignment=assignment).sample(None)
    assert (index.tolist(), info) == ([12, 26], {})
    uniform = AssignedUniformSampler(segments=mgr.segments, assignment=assignment, without_replacement=True)
    assert sorted(uniform.sample(None, batch_size=4)[0].tolist()) == [12, 13, 26, 27]


# Windows


@given(assignment=assignments, window=st.integers(1, 20), moved=st.integers(0, 9))
def test_windows_are_what_marching_would_return(
    built: Path, assignment: list[tuple[int, int, int]], window: int, moved: int
) -> None:
    mgr = ExpertReplayManager.load(built)
    mgr.set_assignment([EnvAssignment(*entry) for entry in assignment])
    draws(mgr, moved)
    found = mgr.sample_per_env_window(window)
    assert found.batch_size == torch.Size([len(assignment), window])
    arrays = mgr.env_windows(window, keys=["qpos"])
    np.testing.assert_array_equal(arrays["qpos"], found["qpos"].numpy())
    for step in range(window):
        batch = mgr.buffer.sample()
        for key in ("qpos", ("next", "observation"), "action", ("next", "done")):
            assert torch.equal(found[key][:, step], batch[key])


def test_a_window_past_the_end_raises_without_wrap(mgr: ExpertReplayManager) -> None:
    mgr.set_assignment([EnvAssignment(0, 0, 1), EnvAssignment(0, 1, 1)])
    assert mgr.sample_per_env_window(3, wrap=False).batch_size == torch.Size([2, 3])
    with pytest.raises(IndexError):
        mgr.sample_per_env_window(4, wrap=False)
    assert draws(mgr, 1) == [[1, 5]]


# Batches made ahead


@pytest.mark.parametrize("prefetch", [1, 3])
@settings(max_examples=25)
@given(
    calls=st.lists(
        st.one_of(
            st.tuples(st.just("draw"), st.integers(1, 5)),
            st.tuples(st.just("assign"), assignments),
            st.tuples(st.just("update"), st.sampled_from(list(LENGTHS))),
            st.tuples(st.just("uniform"), st.integers(1, 40)),
            st.tuples(st.just("assigned"), st.integers(1, 9)),
            st.tuples(st.just("window"), st.integers(1, 5)),
            st.tuples(st.just("resume"), st.none()),
        ),
        max_size=12,
    )
)
def test_prefetching_changes_nothing(built: Path, prefetch: int, calls: list[tuple[str, Any]]) -> None:
    seen = []
    for count in (0, prefetch):
        mgr = ExpertReplayManager.load(built, sample_batch_size=6, prefetch=count)
        mgr.set_uniform_sampler(6, seed=1)
        results: list[Any] = []
        for call, argument in calls:
            if call == "draw":
                results += [mgr.buffer.sample()["qpos"].tolist() for _ in range(argument)]
            elif call == "assign":
                mgr.set_assignment([EnvAssignment(*entry) for entry in argument])
            elif call == "uniform":
                mgr.set_uniform_sampler(argument, seed=2)
            elif call == "assigned":
                mgr.set_uniform_sampler(argument, respect_assignment=True, seed=3)
            elif call == "resume":
                state = mgr.state_dict()
                mgr = ExpertReplayManager.load(built, prefetch=count)
                mgr.load_state_dict(state)
            elif mgr.assignment is not None and call == "update":
                mgr.update_env_assignment(0, *argument)
            elif mgr.assignment is not None:
                results.append(mgr.sample_per_env_window(argument)["qpos"].tolist())
            results.append(mgr.assignment)
        seen.append(results)
    assert seen[0] == seen[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_pinned_memory_needs_a_cuda_device(built: Path) -> None:
    with pytest.raises(RuntimeError, match="pin_memory"):
        ExpertReplayManager.load(built, pin_memory=True)
    with pytest.raises(ValueError, match="prefetch"):
        ExpertReplayManager.load(built, prefetch=-1)


# Devices


def test_the_device_of_batches(mgr: ExpertReplayManager) -> None:
    mgr.set_device_transform("cpu")
    mgr.set_device_transform("meta", non_blocking=False)
    assert len(mgr.buffer.transform) == 1
    assert mgr.buffer.sample()["qpos"].device.type == "meta"
    assert _assigned(mgr).sample_per_env_window(2)["qpos"].device.type == "meta"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_before_anything_is_built(
    mgr: ExpertReplayManager, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="no CUDA device"):
        mgr.set_device_transform("cuda")
    spec = ExpertReplaySpec({0: [_clip(3)]}, tmp_path / "store", device="cuda")
    with pytest.raises(RuntimeError, match="no CUDA device"):
        ExpertReplayManager(spec)
    assert not (tmp_path / "store").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_arrive_on_the_gpu(built: Path) -> None:
    mgr = ExpertReplayManager.load(built, device="cuda")
    batch = mgr.buffer.sample()
    assert batch["qpos"].device.type == "cuda"
    expected = mgr.store.gather(batch["index"].cpu().numpy(), ["qpos"])["qpos"]
    np.testing.assert_array_equal(batch["qpos"].cpu().numpy(), expected)


# From trajectories in memory


def _clip(length: int) -> Any:
    states = torch.arange((length + 1) * 2.0).reshape(-1, 2)
    return build_trajectory_td(states[:-1], torch.zeros(length, 1), states[1:])


def test_from_trajectories_in_memory(tmp_path: Path) -> None:
    tasks = {0: [_clip(3), _clip(2)], 4: {7: _clip(5)}}
    mgr = ExpertReplayManager(ExpertReplaySpec(tasks, tmp_path / "store", sample_batch_size=10))
    assert [(s.task_id, s.traj_id, s.start, s.length) for s in mgr.segments] == [
        (0, 0, 0, 3),
        (0, 1, 3, 2),
        (4, 7, 5, 5),
    ]
    batch = mgr.buffer.sample()
    assert sorted(batch["index"].tolist()) == list(range(10))
    expected = torch.cat([_clip(3), _clip(2), _clip(5)])[batch["index"]]
    assert torch.equal(batch["next", "observation"], expected["next", "observation"])


# State


def setups() -> list[Any]:
    def sequential(mgr: ExpertReplayManager) -> None:
        mgr.set_assignment([EnvAssignment(0, 0), EnvAssignment(1, 1, 3)])

    def uniform(mgr: ExpertReplayManager) -> None:
        mgr.set_uniform_sampler(5, seed=2)

    def drawn(mgr: ExpertReplayManager) -> None:
        mgr.set_uniform_sampler(5, without_replacement=False)

    def assigned(mgr: ExpertReplayManager) -> None:
        sequential(mgr)
        mgr.set_uniform_sampler(5, respect_assignment=True)
        mgr.update_env_assignment(0, 0, 1, 4)

    return [pytest.param(setup, id=setup.__name__) for setup in (sequential, uniform, drawn, assigned)]


@pytest.mark.parametrize("setup", setups())
@settings(max_examples=15)
@given(position=st.integers(0, 40))
def test_a_saved_state_continues_bit_for_bit(built: Path, setup: Any, position: int) -> None:
    mgr = ExpertReplayManager.load(built)
    setup(mgr)
    draws(mgr, position)
    state = json.loads(json.dumps(mgr.state_dict()))
    resumed = ExpertReplayManager.load(built)
    resumed.load_state_dict(state)
    assert resumed.assignment == mgr.assignment
    assert draws(resumed, 12) == draws(mgr, 12)
    if mgr.assignment:
        for manager in (mgr, resumed):
            manager.update_env_assignment(0, 1, 2)
        assert draws(resumed, 5) == draws(mgr, 5)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("kind", "other", StateError),
        ("version", 99, StateError),
        ("store", "00000000-0000-0000-0000-000000000000", StoreChangedError),
        ("num_transitions", 3, StateError),
        ("batch_size", 0, StateError),
        ("num_envs", 1, StateError),
        ("num_envs", None, StateError),
        ("segment", [0, 6], StateError),
        ("segment", [0, -1], StateError),
        ("step", [0, 8], StateError),
        ("step", "no", StateError),
        ("sampler_kind", "Nothing", StateError),
        ("sampler", {}, StateError),
        ("sampler", None, StateError),
    ],
)
def test_a_bad_state_is_refused_and_changes_nothing(
    built: Path, field: str, value: Any, error: type[Exception]
) -> None:
    mgr = ExpertReplayManager.load(built)
    mgr.set_assignment([EnvAssignment(0, 0), EnvAssignment(1, 1, 3)])
    state = {**mgr.state_dict(), field: value}
    draws(mgr, 2)
    with pytest.raises(error):
        mgr.load_state_dict(state)
    assert mgr.assignment == [EnvAssignment(0, 0, 2), EnvAssignment(1, 1, 5)]
    assert draws(mgr, 1) == [[2, 23]]


def test_a_custom_sampler_must_be_there_before_its_state(mgr: ExpertReplayManager, built: Path) -> None:
    mgr.set_custom_sampler(RandomSampler(), batch_size=3)
    state = mgr.state_dict()
    other = ExpertReplayManager.load(built)
    with pytest.raises(StateError, match="set_custom_sampler"):
        other.load_state_dict(state)
    other.set_custom_sampler(RandomSampler())
    other.load_state_dict(state)
    assert other.buffer.batch_size == 3


def test_a_state_is_small(mgr: ExpertReplayManager) -> None:
    mgr.set_assignment([EnvAssignment(0, 0)] * 64)
    assert len(json.dumps(mgr.state_dict())) < 4096


def test_another_process_continues(built: Path) -> None:
    mgr = ExpertReplayManager.load(built)
    mgr.set_uniform_sampler(9)
    draws(mgr, 4)
    code = (
        "import json, sys\n"
        "from iltools_datasets.replay_manager import ExpertReplayManager\n"
        "mgr = ExpertReplayManager.load(sys.argv[1])\n"
        "mgr.load_state_dict(json.loads(sys.argv[2]))\n"
        "print([mgr.buffer.sample()['index'].tolist() for _ in range(6)])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(built), json.dumps(mgr.state_dict())],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == draws(mgr, 6)


def test_the_storage_pickles_as_a_reference(mgr: ExpertReplayManager) -> None:
    assert len(pickle.dumps(mgr.store)) < 1000


@pytest.mark.parametrize("size", [-1, np.int64(-3)])
def test_negative_sizes_are_refused_at_the_door(tmp_path: Path, size: Any) -> None:
    archive = write_archive(tmp_path / "archive.zarr", motion_clips())
    mgr = build_replay_from_zarr(archive, tmp_path / "store", ["qpos", "qvel"])
    mgr.set_uniform_sampler(np.int64(4))
    mgr.set_assignment([EnvAssignment(0, 0, 0)])
    for name, call in (("batch_size", mgr.buffer.sample), ("window_size", mgr.sample_per_env_window)):
        with pytest.raises(ValueError, match=f"{name}: expected an integer of at least 0"):
            call(size)
