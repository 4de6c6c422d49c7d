"""Which envs, and where they go: integers and arrays of them; what is none is refused before anything moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets import EnvAssignment, StoreBuilder, TrajectoryStore  # noqa: E402
from iltools_datasets.errors import (  # noqa: E402
    ArgumentError,
    IltoolsError,
    NotAnIntegerError,
    OutOfRangeError,
    SchemaError,
    UnknownSegmentError,
)
from iltools_datasets.replay_manager import (  # noqa: E402
    AssignedUniformSampler,
    ExpertReplayManager,
    ExpertReplaySpec,
    SequentialPerEnvSampler,
)
from stores import build_store, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402

ROWS = [[0, 0, 3], [0, 2, 8], [1, 0, 0]]


@pytest.fixture(scope="module", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    path = tmp_path_factory.mktemp("envs") / "store"
    return TrajectoryStore.open(build_store(path, make_clips([12, 7, 30, 9])))


@pytest.fixture(name="mgr")
def mgr_fixture(store: TrajectoryStore) -> ExpertReplayManager:
    mgr = ExpertReplayManager.from_store(store)
    mgr.set_assignment([(0, 0, 3), (0, 2, 8), (1, 0, 0)])
    return mgr


@pytest.mark.parametrize(
    "rows",
    [
        np.array(ROWS),
        np.array(ROWS, np.uint8),
        np.array(ROWS, np.int32)[:, ::1],
        np.asfortranarray(np.array(ROWS)),
        torch.tensor(ROWS),
        torch.tensor(ROWS, dtype=torch.int32),
        [np.array(row) for row in ROWS],
        list(torch.tensor(ROWS)),
        [tuple(np.int16(number) for number in row) for row in ROWS],
        [EnvAssignment(*row) for row in ROWS],
        [EnvAssignment(*map(np.int64, row)) for row in ROWS],
    ],
)
def test_rows_of_integers_are_assignments(store: TrajectoryStore, rows: Any) -> None:
    expected = [EnvAssignment(*row) for row in ROWS]
    mgr = ExpertReplayManager.from_store(store)
    mgr.set_assignment(rows)
    assert mgr.assignment == expected
    for sampler in (SequentialPerEnvSampler(store.segments, rows), AssignedUniformSampler(store.segments, rows)):
        assert sampler.assignment == expected
    for env, row in enumerate(rows):
        mgr.update_assignments({env: (0, 1, 1)})
        mgr.update_assignments({np.int32(env): row})
    assert mgr.assignment == expected


def test_without_a_step_it_is_the_first(mgr: ExpertReplayManager) -> None:
    mgr.set_assignment(np.array([[0, 1], [1, 0]]))
    assert mgr.assignment == [EnvAssignment(0, 1, 0), EnvAssignment(1, 0, 0)]
    mgr.update_assignments({1: np.array([0, 2])})
    assert mgr.assignment[1] == EnvAssignment(0, 2, 0)


WRONG_ROWS: list[tuple[Any, type[Exception], str]] = [
    (np.array(ROWS, np.float32), NotAnIntegerError, "float32"),
    (torch.tensor(ROWS, dtype=torch.float64), NotAnIntegerError, "float64"),
    (np.empty((0, 3)), NotAnIntegerError, "float64"),
    (np.array([True, False, True]), NotAnIntegerError, "bool"),
    (np.ones((3, 3), bool), NotAnIntegerError, "bool"),
    (np.array([0, 0, 3]), ArgumentError, r"\[3\]"),
    (np.zeros((3, 4), int), ArgumentError, r"\[3, 4\]"),
    (np.zeros((3, 1), int), ArgumentError, r"\[3, 1\]"),
    (np.zeros((1, 3, 3), int), ArgumentError, r"\[1, 3, 3\]"),
    ([np.array([0.0, 0.0, 3.0])], NotAnIntegerError, "float64"),
    ([(0, 0, 3.0)], NotAnIntegerError, "3.0"),
    ([(0, True, 3)], NotAnIntegerError, "True"),
    ([(0, 0, 2**63)], OutOfRangeError, str(2**63)),
    (np.array([[0, 0, 2**63]], np.uint64), OutOfRangeError, str(2**63)),
    (np.array([[0, 9, 0]]), UnknownSegmentError, "trajectory 9 in task 0"),
    (np.array([[0, 0, -1]]), OutOfRangeError, "-1"),
    ([(0,)], TypeError, "expected an EnvAssignment"),
    ([7], TypeError, "expected an EnvAssignment"),
    (["ab"], NotAnIntegerError, "'ab'|'a'"),
    ([np.zeros((1, 3), int)], TypeError, "expected an EnvAssignment"),
    ([np.zeros((3, 3), int)], TypeError, "expected an EnvAssignment"),
    ([torch.zeros(3, 3, dtype=torch.int64)], TypeError, "expected an EnvAssignment"),
]


@pytest.mark.faults("what is no env")
@pytest.mark.parametrize(("rows", "error", "says"), WRONG_ROWS)
def test_what_is_no_assignment_is_refused_and_nothing_moves(
    mgr: ExpertReplayManager, rows: Any, error: type[Exception], says: str
) -> None:
    before, sampler = mgr.assignment, mgr.buffer.sampler
    with pytest.raises(error, match=says):
        mgr.set_assignment(rows)
    assert (mgr.assignment, mgr.buffer.sampler) == (before, sampler)
    if len(rows) and not (isinstance(rows, np.ndarray) and rows.ndim != 2):
        with pytest.raises((error, TypeError)):
            mgr.update_assignments({0: (0, 1, 1), 1: rows[0]})
        assert mgr.assignment == before


@pytest.mark.faults("what is no env")
@pytest.mark.parametrize(
    ("env", "error"),
    [
        (True, NotAnIntegerError),
        (np.True_, NotAnIntegerError),
        (1.0, NotAnIntegerError),
        (np.float64(1), NotAnIntegerError),
        ("1", NotAnIntegerError),
        (None, NotAnIntegerError),
        (3, OutOfRangeError),
        (-1, OutOfRangeError),
        (2**70, OutOfRangeError),
    ],
)
def test_what_is_no_env_is_refused_and_nothing_moves(
    mgr: ExpertReplayManager, env: Any, error: type[Exception]
) -> None:
    before = mgr.assignment
    with pytest.raises(error, match="env"):
        mgr.update_assignments({0: (0, 1, 1), env: (0, 1, 1)})
    with pytest.raises(error, match="env"):
        mgr.update_env_assignment(env, 0, 1)
    assert mgr.assignment == before


@pytest.mark.parametrize("changes", [[(0, 1)], np.array([True, False, True]), np.array(ROWS), None, 5])
def test_changes_name_their_envs(mgr: ExpertReplayManager, changes: Any) -> None:
    with pytest.raises(ArgumentError, match="expected a mapping of envs"):
        mgr.update_assignments(changes)


@pytest.mark.parametrize("batch_size", [[], [3, 1], [0]])
def test_a_trajectory_without_time_is_named(tmp_path: Any, batch_size: list[int]) -> None:
    data = TensorDict({"a": torch.zeros(*batch_size, 2)}, batch_size)
    good = TensorDict({"a": torch.zeros(4, 2)}, [4])
    with pytest.raises(SchemaError, match=r"task 3, trajectory 1: expected batch size \[T\]"):
        ExpertReplayManager(ExpertReplaySpec({3: [good, data]}, tmp_path / "store"))
    with pytest.raises(SchemaError, match="expected a TensorDict, found dict"):
        ExpertReplayManager(ExpertReplaySpec({3: [{"a": torch.zeros(4, 2)}]}, tmp_path / "store"))  # type: ignore[list-item]
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("window", [1, 3])
def test_windows_of_columns_without_width(tmp_path: Any, window: int) -> None:
    with StoreBuilder(tmp_path / "store") as build:
        build.add(0, 0, states={"q": np.zeros((5, 2), np.float32), "none": np.zeros((5, 0), np.float32)})
    mgr = ExpertReplayManager.load(tmp_path / "store")
    mgr.set_assignment([(0, 0), (0, 0, 2)])
    arrays, batch = mgr.env_windows(window), mgr.sample_per_env_window(window)
    assert arrays["none"].shape == tuple(batch["none"].shape) == (2, window, 0)
    assert arrays["q"].shape == tuple(batch["q"].shape) == (2, window, 2)
    with pytest.raises(IltoolsError):
        mgr.env_windows(-1)
