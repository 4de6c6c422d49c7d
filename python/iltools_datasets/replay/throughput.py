"""How fast a store is sampled on this machine: what `iltools bench` measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iltools_datasets.replay.manager import ExpertReplayManager
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.segments import EnvAssignment
from iltools_datasets.store.trajectory_store import TrajectoryStore

WINDOW = 32
"""Transitions per window, of the modes that draw windows."""

MADE_AHEAD = "uniform, made ahead"
MODES = ("uniform", MADE_AHEAD, "sequential per env", "windows per env")


@dataclass(frozen=True, slots=True)
class Throughput:
    """One mode at one batch size: seconds a loop waits per batch, and what comes out.

    Attributes:
        mode: how batches are drawn.
        batch_size: transitions per batch, or envs.
        rows: transitions in a batch: `batch_size`, or that many times `WINDOW`.
        p50: median of the seconds per batch.
        p99: the 99th percentile of them.
        bytes_per_batch: bytes of all arrays of a batch.
    """

    mode: str
    batch_size: int
    rows: int
    p50: float
    p99: float
    bytes_per_batch: int

    @property
    def rows_per_second(self) -> float | None:
        """Transitions per second at the median; None where batches are made ahead: most time is the step's."""
        return None if self.mode == MADE_AHEAD else self.rows / self.p50


def measure(store: TrajectoryStore, batch_sizes: Sequence[int], seconds_each: float = 1.0) -> Iterator[Throughput]:
    """Measure every mode at every batch size, about `seconds_each` seconds each.

    "made ahead" is what a loop waits whose own step takes as long as making a batch: the step is waited out here.
    """
    for mode in MODES:
        for size in batch_sizes:
            sample, rows, pause = _sampler(store, mode, size)
            batch = sample()
            nbytes = sum(leaf.numel() * leaf.element_size() for leaf in batch.values(True, True))
            waits = _waits(sample, seconds_each, pause)
            p50, p99 = (float(np.percentile(waits, percent)) for percent in (50, 99))
            yield Throughput(mode, size, rows, p50, p99, nbytes)


def _sampler(store: TrajectoryStore, mode: str, size: int) -> tuple[Callable[[], Any], int, float]:
    """Return what draws a batch, its number of transitions, and the seconds to let pass between batches."""
    ahead = mode == MADE_AHEAD
    manager = ExpertReplayManager.from_store(store, prefetch=2 if ahead else None)
    if mode.startswith("uniform"):
        manager.set_uniform_sampler(size, seed=0)
        pause = 0.0
        if ahead:
            plain, _, _ = _sampler(store, "uniform", size)
            pause = 1.5 * float(np.median(_waits(plain, 0.2, 0.0)))
        return manager.buffer.sample, size, pause
    rng = np.random.default_rng(0)
    segment = rng.integers(0, store.num_trajectories, size)
    step = rng.integers(0, store.segments.length[segment])
    ids = zip(store.segments.task_id[segment].tolist(), store.segments.traj_id[segment].tolist(), step, strict=True)
    manager.set_assignment([EnvAssignment(task, trajectory, int(at)) for task, trajectory, at in ids])
    if mode == "sequential per env":
        return manager.buffer.sample, size, 0.0
    return lambda: manager.sample_per_env_window(WINDOW), size * WINDOW, 0.0


def _waits(sample: Callable[[], Any], seconds: float, pause: float) -> list[float]:
    for _ in range(3):
        sample()
    waits: list[float] = []
    end = time.perf_counter() + seconds
    while not waits or (time.perf_counter() < end and len(waits) < 20_000):
        start = time.perf_counter()
        batch = sample()
        waits.append(time.perf_counter() - start)
        resume = time.perf_counter() + pause
        while time.perf_counter() < resume:
            pass
        del batch
    return waits


def synthetic_store(path: Path, num_clips: int = 200) -> TrajectoryStore:
    """Build a store to measure where the user gave none: clips of 1,000 transitions of a humanoid's size (f32)."""
    rng = np.random.default_rng(0)
    with StoreBuilder(path) as builder:
        for clip in range(num_clips):
            done = np.zeros((1000, 1), dtype=bool)
            done[-1] = True
            observation = rng.standard_normal((1001, 71), dtype=np.float32)
            action = rng.standard_normal((1000, 29), dtype=np.float32)
            builder.add(0, clip, {"observation": observation}, {"action": action, ("next", "done"): done})
    return TrajectoryStore.open(path)
