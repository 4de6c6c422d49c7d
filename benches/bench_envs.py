"""Sequential sampling and windows for many envs, against a plain Python loop doing the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchrl.data as peer
from iltools_datasets import EnvAssignment, TrajectoryStore
from iltools_datasets.replay_manager import ExpertReplayManager
from race import asked, figure, race, situations, timed

NUM_ENVS = 4096
WINDOW = 32


class PlainLoop(peer.RandomSampler):
    """What one writes first: a sampler that looks up each env's segment, notes its index and moves its assignment on,
    in TorchRL's buffer over TorchRL's storage; and a window per env from the same storage, stacked.
    """

    def __init__(self, store: TrajectoryStore, storage: Any, assignment: list[EnvAssignment]) -> None:
        self.storage = storage
        self.segments = {(s.task_id, s.traj_id): s for s in store.segments}
        self.assignment = list(assignment)
        self.buffer = peer.TensorDictReplayBuffer(
            storage=storage, sampler=self, writer=peer.ImmutableDatasetWriter(), batch_size=len(assignment)
        )

    def sample(self, storage: Any, batch_size: int) -> tuple[torch.Tensor, dict[str, Any]]:
        index = []
        for env, at in enumerate(self.assignment):
            segment = self.segments[at.task_id, at.traj_id]
            index.append(segment.index_at(at.step))
            self.assignment[env] = EnvAssignment(at.task_id, at.traj_id, (at.step + 1) % segment.length)
        return torch.tensor(index), {}

    def step(self) -> Any:
        return self.buffer.sample()

    def windows(self) -> Any:
        windows = []
        for at in self.assignment:
            segment = self.segments[at.task_id, at.traj_id]
            index = [segment.index_at(at.step + t) for t in range(WINDOW)]
            windows.append(self.storage[torch.tensor(index)])
        return torch.stack(windows)


@pytest.fixture
def assignment(num_clips: int) -> list[EnvAssignment]:
    rng = np.random.default_rng(0)
    clips, steps = rng.integers(0, num_clips, NUM_ENVS), rng.integers(0, 1000, NUM_ENVS)
    return [EnvAssignment(0, int(clip), int(step)) for clip, step in zip(clips, steps, strict=True)]


@pytest.fixture
def manager(store: TrajectoryStore, assignment: list[EnvAssignment]) -> ExpertReplayManager:
    mgr = ExpertReplayManager.from_store(store)
    mgr.set_assignment(assignment)
    return mgr


def test_index(record: Any, manager: ExpertReplayManager) -> None:
    sampler = manager.buffer.sampler
    values = [timed(lambda: sampler.sample(None), 300) * 1e6 for _ in range(9)]
    record(figure(f"index for {NUM_ENVS} sequential envs", "tight loop", values, 10, "µs"))


@pytest.mark.parametrize("situation", situations())
def test_step(
    record: Any,
    manager: ExpertReplayManager,
    store: TrajectoryStore,
    peer_storage: Any,
    assignment: list[EnvAssignment],
    situation: str,
) -> None:
    plain = PlainLoop(store, peer_storage, assignment)
    for _ in range(3):
        mine, other = manager.buffer.sample(), plain.step()
        assert torch.equal(mine["next", "observation"], other["next", "observation"])
    record(
        lambda: race(
            f"one step, {NUM_ENVS} envs", situation, manager.buffer.sample, plain.step, asked(25, situation), rounds=7
        )
    )


def test_step_percentiles(
    record: Any,
    manager: ExpertReplayManager,
    store: TrajectoryStore,
    peer_storage: Any,
    assignment: list[EnvAssignment],
) -> None:
    plain = PlainLoop(store, peer_storage, assignment)

    def p99(call: Any, count: int) -> float:
        return float(np.percentile([timed(call, 1) for _ in range(count)], 99)) * 1e6

    rounds = [(p99(manager.buffer.sample, 300), p99(plain.step, 60)) for _ in range(5)]
    slowest = f"{np.median([other for _, other in rounds]):.4g} µs"
    values = [mine for mine, _ in rounds]
    record(figure(f"one step, {NUM_ENVS} envs, p99", "tight loop", values, 1000, "µs", slowest), gated=False)


@pytest.mark.parametrize("situation", situations())
def test_windows(
    record: Any,
    manager: ExpertReplayManager,
    store: TrajectoryStore,
    peer_storage: Any,
    assignment: list[EnvAssignment],
    situation: str,
    quick: bool,
) -> None:
    plain = PlainLoop(store, peer_storage, assignment)
    mine, other = manager.sample_per_env_window(WINDOW), plain.windows()
    assert torch.equal(mine["observation"], other["observation"])

    def ours() -> Any:
        return manager.sample_per_env_window(WINDOW)

    # A window of every env takes the loop half a second, so the blocks are short.
    rounds = 3 if quick or situation != "tight loop" else 7
    name = f"windows of {WINDOW}, {NUM_ENVS} envs"
    if situation == "tight loop":
        record(lambda: race(name, situation, ours, plain.windows, 90, rounds=rounds, seconds=0.05))
        return
    plain.assignment = plain.assignment[: NUM_ENVS // 8]
    row = race(name, situation, ours, plain.windows, 5, rounds=rounds, seconds=0.05)
    # The loop is linear in the number of envs: an eighth of them, times eight.
    scaled = type(row)(
        name, situation, row.ours, f"8 x {row.peer}", row.ratio * 8, row.low * 8, row.high * 8, asked(90, situation)
    )
    record(scaled)
