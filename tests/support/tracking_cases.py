"""Worlds to follow clips in: stores that are little but time, and laws by which envs fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from iltools_datasets import StoreBuilder, TrajectoryStore
from iltools_datasets.tracking import MotionSampler
from numpy.typing import NDArray

FPS = 10.0
BINS = 6500
"""Bins of a second in the world of `world_store`."""
Failing = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""Passes of each bin so far, and the bin of each env -> how likely a pass of it fails, [E]."""


def time_store(path: Path, seconds: list[float], fps: float = FPS) -> TrajectoryStore:
    """Write clips of one number per state: how many states came before it in its clip."""
    with StoreBuilder(path, attributes={"motion": {"fps": fps, "kinds": {"at": "joint"}}}) as builder:
        for number, duration in enumerate(seconds):
            at = np.arange(round(duration * fps) + 1, dtype=np.float32)[:, None]
            builder.add(0, number, {"at": at}, {"action": at[:-1]}, name=f"clip{number}", task_name="made")
    return TrajectoryStore.open(path)


def bins_of(sampler: MotionSampler) -> NDArray[np.int64]:
    """Return the bin of each env, found from what the sampler says of its bins alone."""
    coverage = sampler.coverage()
    first = np.searchsorted(coverage.bin_clip, sampler.clip)
    begins = coverage.bin_begin + 1e6 * coverage.bin_clip
    found = np.searchsorted(begins, np.asarray(sampler.time) + 1e6 * sampler.clip + 1e-6, side="right") - 1
    last = np.searchsorted(coverage.bin_clip, sampler.clip, side="right") - 1
    return np.clip(found, first, last)


class World:
    """Envs that follow a sampler, fail by a law of the bin they are in, and are reset after `longest` steps, too."""

    def __init__(self, sampler: MotionSampler, longest: int = 100, seed: int = 0) -> None:
        self.sampler, self.longest, self.rng = sampler, longest, np.random.default_rng(seed)
        coverage = sampler.coverage()
        self.begins = coverage.bin_begin + 1e6 * coverage.bin_clip
        self.steps = (coverage.bin_end - coverage.bin_begin) / sampler.control_dt
        self.visits = np.zeros(len(self.begins), dtype=np.int64)
        self.failures = np.zeros_like(self.visits)
        sampler.reset()
        # Spread over their time-outs, as envs are that have run for a while.
        self.age = self.rng.integers(0, longest, sampler.num_envs)

    def step(self, failing: Failing) -> None:
        """Let every env go a step, and reset those that fell, ended or have run out of time."""
        sampler = self.sampler
        bins = np.searchsorted(self.begins, sampler.time + 1e6 * sampler.clip + 1e-6, side="right") - 1
        np.add.at(self.visits, bins, 1)
        per_step = 1 - (1 - failing(self.visits, bins)) ** (1 / self.steps[bins])
        failed = self.rng.random(sampler.num_envs) < per_step
        np.add.at(self.failures, bins[failed], 1)
        # A fall belongs to the step that it ends, so it is booked before all envs move.
        sampler.report_failures(failed)
        self.age += 1
        over = sampler.step() | failed | (self.age >= self.longest)
        sampler.reset(over)
        self.age[over] = 0

    def run(self, steps: int, failing: Failing, steps_per_sync: int = 24, **sync: Any) -> None:
        for number in range(1, steps + 1):
            self.step(failing)
            if number % steps_per_sync == 0:
                self.sampler.sync(**sync)
