"""How fast each sampling mode of the replay manager hands out transitions here and now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torchrl.data.replay_buffers.samplers import SliceSampler

from iltools_datasets.replay.manager import ExpertReplayManager
from iltools_datasets.store.segments import EnvAssignment

_NUM_ENVS = 256
_WINDOW = 32
_BATCH = 4096
_SLICE = 32


@dataclass(frozen=True, slots=True)
class ModeRate:
    """Transitions per second of one mode, whose batches have the shape `batch_shape`."""

    mode: str
    batch_shape: tuple[int, ...]
    transitions_per_second: float


def measure_modes(manager: ExpertReplayManager, seconds_each: float) -> Iterator[ModeRate]:
    """Yield the rate of every mode of a manager, which is left without an assignment."""
    segments = manager.segments
    followed = [segments[env % len(segments)] for env in range(_NUM_ENVS)]
    manager.set_assignment([EnvAssignment(segment.task_id, segment.traj_id) for segment in followed])
    yield _rate("sequential per env", manager.buffer.sample, (_NUM_ENVS,), seconds_each)
    yield _rate("windows per env", lambda: manager.sample_per_env_window(_WINDOW), (_NUM_ENVS, _WINDOW), seconds_each)
    manager.set_uniform_sampler(batch_size=_BATCH, without_replacement=True, respect_assignment=True)
    yield _rate("uniform over the assigned clips", manager.buffer.sample, (_BATCH,), seconds_each)
    manager.clear_assignment()
    manager.set_uniform_sampler(batch_size=_BATCH, without_replacement=True)
    yield _rate("uniform over everything", manager.buffer.sample, (_BATCH,), seconds_each)
    if ("next", "done") in manager.store.keys:
        slices = SliceSampler(slice_len=_SLICE, end_key=("next", "done"), strict_length=False, cache_values=True)
        manager.set_custom_sampler(slices, batch_size=_BATCH)
        # The last slices may be cut short: short clips make ragged batches.
        yield _rate("TorchRL's own SliceSampler", manager.buffer.sample, (_BATCH,), seconds_each)


def _rate(mode: str, sample: Callable[[], Any], shape: tuple[int, ...], seconds: float) -> ModeRate:
    sample()
    batches, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        sample()
        batches += 1
    return ModeRate(mode, shape, batches * int(np.prod(shape)) / elapsed)
