"""Training on a store while it grows: the epoch that runs is finished first, states name their prefix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore
from iltools_datasets.errors import StateError, StoreChangedError, UnknownSegmentError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection import ExpertTrajectoryCollector  # noqa: E402
from iltools_datasets.replay.manager import ExpertReplayManager  # noqa: E402
from iltools_datasets.torchrl import (  # noqa: E402
    RandomSampler,
    SamplerWithoutReplacement,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    TensorDictReplayBuffer,
    TrajectoryStorage,
)

N = 4
Grow = Callable[[int], TrajectoryStore]


@pytest.fixture
def grow(tmp_path: Path) -> Iterator[Grow]:
    """Record so many more steps, each env's episode ending with them, and return the store; observation = step, env."""
    with ExpertTrajectoryCollector(2, 1, directory=tmp_path / "store", max_trajectories=10**6) as collector:
        at = 0

        def record(steps: int) -> TrajectoryStore:
            nonlocal at
            for _ in range(steps):
                rows = np.stack([np.full(N, at), np.arange(N)], axis=1).astype(np.float32)
                collector.add_step(rows, rows[:, :1])
                at += 1
            collector.mark_trajectory_end(env_ids=range(N))
            collector.flush()
            return TrajectoryStore.open(tmp_path / "store")

        yield record


@pytest.mark.parametrize("prefetch", [None, 2])
def test_the_epoch_that_runs_is_finished_and_the_next_has_everything(grow: Grow, prefetch: int | None) -> None:
    store = grow(5)
    manager = ExpertReplayManager.from_store(store, seed=3, prefetch=prefetch)
    manager.set_uniform_sampler(8, seed=3)
    index = [manager.buffer.sample()["index"]]
    longer = grow(7)
    assert (len(store), len(longer)) == (20, 48)
    assert manager.refresh() == 8
    assert (len(manager.store), len(manager.buffer.storage)) == (48, 48)
    while sum(map(len, index)) < 20 + 2 * 48:
        batch = manager.buffer.sample()
        index.append(batch["index"])
        rows = longer.gather(batch["index"].numpy(), ["observation"])["observation"]
        np.testing.assert_array_equal(batch["observation"], rows)
    drawn = torch.cat(index)
    for first, count in ((0, 20), (20, 48), (68, 48)):
        assert sorted(drawn[first : first + count].tolist()) == list(range(count))
    assert manager.refresh() == 8


def test_a_state_names_the_prefix_that_its_epoch_runs_over(grow: Grow) -> None:
    store = grow(5)
    manager = ExpertReplayManager.from_store(store, seed=1)
    manager.set_uniform_sampler(8, seed=1)
    manager.buffer.sample()
    before = json.loads(json.dumps(manager.state_dict()))
    longer = grow(3)
    manager.refresh()
    after = json.loads(json.dumps(manager.state_dict()))
    assert (before["sampler"]["num_segments"], after["sampler"]["num_segments"]) == (4, 4)
    expected = [manager.buffer.sample()["index"].tolist() for _ in range(8)]
    for state in (before, after):
        other = ExpertReplayManager.from_store(longer)
        other.load_state_dict(state)
        assert [other.buffer.sample()["index"].tolist() for _ in range(8)] == expected
    late = manager.state_dict()
    assert late["sampler"]["num_segments"] == 8
    short = ExpertReplayManager.from_store(store)
    with pytest.raises((StateError, StoreChangedError)):
        short.load_state_dict(late)
    wrong = {**after, "sampler": {**after["sampler"], "num_segments": 5}}
    with pytest.raises(StateError, match="segments"):
        ExpertReplayManager.from_store(longer).load_state_dict(wrong)


def test_draws_with_replacement_have_everything_at_once_and_states_go_on_bit_for_bit(grow: Grow) -> None:
    manager = ExpertReplayManager.from_store(grow(2), seed=2)
    manager.set_uniform_sampler(50, without_replacement=False, seed=2)
    assert int(manager.buffer.sample()["index"].max()) < 8
    state, twin = manager.state_dict(), ExpertReplayManager.from_store(grow(30))
    expected = manager.buffer.sample()["index"].tolist()
    twin.load_state_dict(state)
    assert twin.buffer.sample()["index"].tolist() == expected
    manager.refresh()
    assert int(manager.buffer.sample()["index"].max()) >= 8


def test_envs_stay_and_may_follow_what_is_new(grow: Grow) -> None:
    manager = ExpertReplayManager.from_store(grow(3), seed=0)
    manager.set_assignment([(0, 1), (0, 2, 1)])
    with pytest.raises(UnknownSegmentError):
        manager.update_env_assignment(0, 0, 5)
    assert manager.buffer.sample()["index"].tolist() == [3, 7]
    state = manager.state_dict()
    longer = grow(4)
    manager.refresh()
    assert manager.buffer.sample()["index"].tolist() == [4, 8]
    manager.update_env_assignment(0, 0, 5)
    assert manager.buffer.sample()["index"].tolist() == [16, 6]
    assert manager.sample_per_env_window(2)["observation"][0, 0].tolist() == [4.0, 1.0]
    twin = ExpertReplayManager.from_store(longer)
    twin.load_state_dict(state)
    assert twin.buffer.sample()["index"].tolist() == [4, 8]
    manager.set_uniform_sampler(6, respect_assignment=True)
    seen = {int(i) for _ in range(4) for i in manager.buffer.sample()["index"]}
    assert seen == {16, 17, 18, 19, 6, 7, 8}


@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler,
        SamplerWithoutReplacement,
        lambda: SliceSampler(slice_len=2, end_key=("next", "done"), strict_length=False),
        lambda: SliceSamplerWithoutReplacement(slice_len=2, end_key=("next", "done"), strict_length=False),
    ],
    ids=["random", "without replacement", "slices", "slices without replacement"],
)
def test_torchrls_samplers_find_a_longer_storage(grow: Grow, sampler: Callable[[], Any]) -> None:
    storage = TrajectoryStorage(grow(3))
    buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler(), batch_size=8)
    torch.manual_seed(0)
    first = buffer.sample()
    grow(5)
    storage.refresh()
    assert len(buffer) == 32
    seen = set()
    for _ in range(60):
        batch = buffer.sample()
        seen |= {tuple(row) for row in batch["observation"].tolist()}
    assert first["observation"][:, 0].max() < 3
    assert {step for step, _ in seen} == set(range(8))


def test_a_store_without_trajectories_yet(tmp_path: Path) -> None:
    with ExpertTrajectoryCollector(2, 1, directory=tmp_path / "store") as collector:
        collector.add_step(np.zeros((2, 2)), np.zeros((2, 1)))
        manager = ExpertReplayManager.load(tmp_path / "store", sample_batch_size=3)
        with pytest.raises(ValueError, match="nothing to draw from"):
            manager.buffer.sample()
        collector.mark_trajectory_end(count=2)
        collector.flush()
        assert manager.refresh() == 2
        assert sorted(manager.buffer.sample()["index"].tolist())[0] == 0
