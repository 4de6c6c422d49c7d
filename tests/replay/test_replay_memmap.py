"""ExpertMemmapBuilder against plain concatenation: both layouts, the change from one to the other, and refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets.errors import (  # noqa: E402
    DuplicateTrajectoryError,
    OutOfRangeError,
    SchemaError,
    StoreBusyError,
    StoreExistsError,
    StoreNotFoundError,
)
from iltools_datasets.replay_memmap import ExpertMemmapBuilder, Segment, build_trajectory_td, load  # noqa: E402
from iltools_datasets.store.trajectory_store import TrajectoryStore  # noqa: E402
from tensordict import TensorDict  # noqa: E402

pytestmark = pytest.mark.torch


def rollout(seed: int, length: int, shifted: bool = True, **extra: Any) -> TensorDict:
    """A trajectory whose next observation is the following observation, or not."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(length + 1, 3, generator=generator)
    following = states[1:] if shifted else torch.randn(length, 3, generator=generator)
    return build_trajectory_td(states[:-1], torch.randn(length, 2, generator=generator), following, **extra)


def assert_holds(storage: Any, trajectories: list[TensorDict]) -> None:
    found, expected = storage.get(torch.arange(len(storage))), torch.cat(trajectories)
    assert set(found.keys(True, True)) == set(expected.keys(True, True))
    for key in expected.keys(True, True):
        # Bits, so that NaN counts as equal to itself and -0.0 as different from 0.0.
        assert found[key].dtype == expected[key].dtype
        assert found[key].numpy().tobytes() == expected[key].contiguous().numpy().tobytes(), key


def column_bytes(scratch_dir: Path) -> int:
    return sum(file.stat().st_size for file in scratch_dir.rglob("*.memmap"))


def test_states_are_stored_once(tmp_path: Path) -> None:
    trajectories = [rollout(seed, length) for seed, length in enumerate((5, 1, 9))]
    builder = ExpertMemmapBuilder(tmp_path / "store", max_size=15)
    found = [builder.add_trajectory(0, number, td) for number, td in enumerate(trajectories)]
    assert found == builder.segments == [Segment(0, 0, 0, 5), Segment(0, 1, 5, 1), Segment(0, 2, 6, 9)]
    assert builder.size == 15
    storage, segments = builder.finalize()
    assert list(segments) == found
    assert_holds(storage, trajectories)
    assert column_bytes(tmp_path / "store") == (15 + 3) * 3 * 4 + 15 * 2 * 4


def test_a_next_that_is_no_state_is_stored_as_given(tmp_path: Path) -> None:
    trajectories = [rollout(seed, 4, shifted=False) for seed in range(3)]
    builder = ExpertMemmapBuilder(tmp_path / "store", max_size=100)
    for number, td in enumerate(trajectories):
        builder.add_trajectory(0, number, td)
    storage, _ = builder.finalize()
    assert_holds(storage, trajectories)
    assert column_bytes(tmp_path / "store") == 12 * (3 + 3 + 2) * 4


@settings(max_examples=40)
@given(
    trajectories=st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), min_size=1, max_size=6),
    with_flags=st.booleans(),
)
def test_any_mixture_of_trajectories_arrives(
    tmp_path_factory: pytest.TempPathFactory, trajectories: list[tuple[int, bool, bool]], with_flags: bool
) -> None:
    scratch_dir = tmp_path_factory.mktemp("mixture")
    made = []
    for seed, (length, shifted, velocity_shifted) in enumerate(trajectories):
        velocity = torch.arange(length + 1, dtype=torch.float64) * 0.5
        following = velocity[1:] if velocity_shifted else -velocity[1:]
        extra = {"velocity": velocity[:-1], ("next", "velocity"): following}
        flags = {"terminated": torch.arange(length) == length - 1} if with_flags else {}
        made.append(rollout(seed, length, shifted, extra=extra, **flags))
    with ExpertMemmapBuilder(scratch_dir, max_size=100) as builder:
        for number, td in enumerate(made):
            builder.add_trajectory(number % 2, number, td, name=f"clip{number}")
    storage, segments = load(scratch_dir)
    assert [(s.task_id, s.traj_id, s.length) for s in segments] == [
        (number % 2, number, len(td)) for number, td in enumerate(made)
    ]
    assert_holds(storage, made)
    assert [storage.store.trajectory_name(number) for number in range(len(made))] == [
        f"clip{number}" for number in range(len(made))
    ]
    assert len(list(scratch_dir.iterdir())) == 3, "manifest, lock and one generation"


@pytest.mark.parametrize("value", [float("nan"), -0.0])
def test_bits_decide(tmp_path: Path, value: float) -> None:
    states = torch.tensor([[0.0], [value], [1.0]])
    same = build_trajectory_td(states[:-1], torch.zeros(2, 1), states[1:])
    other = same.clone()
    other["next", "observation"][0] = 0.0
    for number, td in enumerate((same, other)):
        with ExpertMemmapBuilder(tmp_path / str(number), max_size=2) as builder:
            builder.add_trajectory(0, 0, td)
        assert_holds(load(tmp_path / str(number))[0], [td])


def test_another_process_reads_it(tmp_path: Path) -> None:
    td = rollout(0, 7)
    with ExpertMemmapBuilder(tmp_path / "store", max_size=7) as builder:
        builder.add_trajectory(3, 5, td)
    code = (
        "import sys, torch\n"
        "from iltools_datasets.replay_memmap import load\n"
        "storage, segments = load(sys.argv[1])\n"
        "print(list(segments), float(storage.get(torch.arange(7))['next', 'observation'].double().sum()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, text=True, check=True
    )
    total = float(td["next", "observation"].double().sum())
    assert result.stdout.strip() == f"{[Segment(3, 5, 0, 7)]} {total}"


def test_nothing_can_be_loaded_before_finalize(tmp_path: Path) -> None:
    builder = ExpertMemmapBuilder(tmp_path / "store", max_size=10)
    builder.add_trajectory(0, 0, rollout(0, 3))
    with pytest.raises(StoreNotFoundError):
        load(tmp_path / "store")
    builder.abort()
    assert not (tmp_path / "store").exists()


def test_a_forgotten_builder_leaves_nothing(tmp_path: Path) -> None:
    builder = ExpertMemmapBuilder(tmp_path / "store", max_size=10)
    builder.add_trajectory(0, 0, rollout(0, 3))
    builder.add_trajectory(0, 1, rollout(0, 3, shifted=False))
    del builder
    assert not (tmp_path / "store").exists()


def test_two_builders_cannot_share_a_directory(tmp_path: Path) -> None:
    builder = ExpertMemmapBuilder(tmp_path / "store", max_size=10)
    with pytest.raises(StoreBusyError):
        ExpertMemmapBuilder(tmp_path / "store", max_size=10)
    builder.abort()


def test_a_store_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    with ExpertMemmapBuilder(tmp_path / "store", max_size=100) as builder:
        builder.add_trajectory(0, 0, rollout(0, 50))
    old = TrajectoryStore.open(tmp_path / "store")
    with pytest.raises(StoreExistsError):
        ExpertMemmapBuilder(tmp_path / "store", max_size=10)
    builder = ExpertMemmapBuilder(tmp_path / "store", 10, overwrite=True)
    builder.add_trajectory(0, 0, rollout(1, 3))
    builder.abort()
    assert TrajectoryStore.open(tmp_path / "store").uuid == old.uuid
    with ExpertMemmapBuilder(tmp_path / "store", 10, overwrite=True) as builder:
        builder.add_trajectory(0, 0, rollout(1, 3))
    assert_holds(load(tmp_path / "store")[0], [rollout(1, 3)])
    assert len(list((tmp_path / "store").glob("data-*"))) == 1
    np.testing.assert_array_equal(old.gather([49])["observation"][0], rollout(0, 50)["observation"][49].numpy())


def test_clear_starts_over(tmp_path: Path) -> None:
    builder = ExpertMemmapBuilder(tmp_path / "store", max_size=5)
    builder.add_trajectory(0, 0, rollout(0, 5))
    builder.clear()
    assert (builder.size, builder.segments) == (0, [])
    builder.add_trajectory(0, 0, rollout(1, 4))
    assert_holds(builder.finalize()[0], [rollout(1, 4)])
    with pytest.raises(ValueError, match="over"):
        builder.add_trajectory(0, 1, rollout(1, 1))
    builder.clear()
    builder.add_trajectory(0, 0, rollout(2, 2))
    assert_holds(builder.finalize()[0], [rollout(2, 2)])


def test_refusals_leave_the_builder_as_it_was(tmp_path: Path) -> None:
    builder = ExpertMemmapBuilder(tmp_path / "store", max_size=10)
    first = rollout(0, 4)
    builder.add_trajectory(0, 0, first)
    wider = first.clone().set("action", torch.zeros(4, 3))
    longer_key = first.clone().set("extra", torch.zeros(4))
    shorter = first.clone().exclude("action")
    double = first.clone().set("action", first["action"].double())
    for td, error, message in (
        (first, DuplicateTrajectoryError, r"task 0, trajectory 0.*before"),
        (wider, SchemaError, r"trajectory 1, key 'action': expected float32 \[2\].*found float32 \[3\]"),
        (double, SchemaError, r"trajectory 1, key 'action': expected float32.*found float64"),
        (longer_key, SchemaError, r"trajectory 1: key 'extra' is new"),
        (shorter, SchemaError, r"trajectory 1: key 'action' is missing"),
        (rollout(1, 7), OutOfRangeError, r"trajectory 1: 4 \+ 7 transitions exceed max_size=10"),
        (first.reshape(2, 2), SchemaError, r"trajectory 1: expected batch size \[T\]"),
        (first[:0], SchemaError, r"trajectory 1: expected batch size \[T\]"),
        (TensorDict({}, [3]), SchemaError, r"no tensors"),
        (first.clone().set("action", first["action"].bfloat16()), SchemaError, r"'action'.*bfloat16"),
    ):
        with pytest.raises(error, match=message):
            builder.add_trajectory(0, 0 if td is first else 1, td)
    builder.add_trajectory(0, 1, rollout(1, 6))
    assert_holds(builder.finalize()[0], [first, rollout(1, 6)])


@pytest.mark.parametrize(("arguments", "error"), [({"max_size": 0}, ValueError), ({"device": "meta"}, ValueError)])
def test_impossible_arguments(tmp_path: Path, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ExpertMemmapBuilder(tmp_path / "store", **{"max_size": 1, **arguments})
    assert not (tmp_path / "store").exists()


def test_an_empty_build_is_refused(tmp_path: Path) -> None:
    builder = ExpertMemmapBuilder(tmp_path / "store", max_size=1)
    with pytest.raises(SchemaError, match="no trajectory"):
        builder.finalize()
