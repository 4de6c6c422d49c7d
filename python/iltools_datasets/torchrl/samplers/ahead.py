"""Batches made ahead of samplers that no native thread can run ahead of: those of slices, whose indices numpy makes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from tensordict import TensorDict

from iltools_datasets.torchrl.samplers.base import SeededSampler
from iltools_datasets.torchrl.storage import TrajectoryStorage

Batch = tuple[TensorDict, dict[str, Any]]
Draw = Callable[[SeededSampler, int], Batch]


@dataclass(frozen=True, slots=True)
class _Made:
    before: dict[str, Any]
    size: int
    batch: Batch
    after: dict[str, Any]


class SampledAhead:
    """Draws up to `depth` batches ahead in a thread.

    The thread draws from a copy of the sampler, so the sampler itself always stands at what was taken. A batch is taken
    only if it begins exactly where the sampler stands and has the size asked for; anything else (a restored state,
    another size) drops what was made and begins again from the sampler.

    Args:
        sampler: the sampler.
        storage: what it draws from; nobody writes to it.
        draw: makes a batch of a size with a sampler; called in this thread and in the other one.
        depth: batches that are ready or in the making, at most.
    """

    def __init__(self, sampler: SeededSampler, storage: TrajectoryStorage, draw: Draw, depth: int) -> None:
        self.sampler, self.storage = sampler, storage
        self._draw, self._depth = draw, depth
        self._pid = os.getpid()
        self._thread = ThreadPoolExecutor(1, "iltools-ahead")
        self._copy = sampler
        self._ahead: deque[Future[_Made]] = deque()

    def serves(self, sampler: SeededSampler, storage: TrajectoryStorage) -> bool:
        """Return whether this draws with `sampler` from `storage`, and its thread is in this process."""
        return sampler is self.sampler and storage is self.storage and self._pid == os.getpid()

    def take(self, size: int) -> Batch:
        """Return the next batch; whatever its draw raised is raised here, in its place."""
        made = self._next(self.sampler.place(), size)
        if made is None:
            batch = self._draw(self.sampler, size)
            self._copy = deepcopy(self.sampler)
        else:
            self.sampler.go_to(made.after)
            batch = made.batch
        while len(self._ahead) < self._depth:
            self._ahead.append(self._thread.submit(self._make, self._copy, size))
        return batch

    def _next(self, before: dict[str, Any], size: int) -> _Made | None:
        """Return what was made for here, or None with nothing ahead any more."""
        try:
            made = self._ahead.popleft().result() if self._ahead else None
        except BaseException:
            self._drop()
            raise
        if made is not None and (made.before, made.size) == (before, size):
            return made
        self._drop()
        return None

    def _drop(self) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def _make(self, sampler: SeededSampler, size: int) -> _Made:
        before = sampler.place()
        batch = self._draw(sampler, size)
        return _Made(before, size, batch, sampler.place())
