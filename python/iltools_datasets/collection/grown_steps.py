"""Step by step what was recorded, where the journal has become a store in part."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.collection.recording import Recording
from iltools_datasets.store.trajectory_store import TrajectoryStore

_STEPS_AT_ONCE = 64


class GrownSteps:
    """The steps of a recording out of which a store grows: from the journal, or, once it is gone, from the store.

    What is over is published first. Rows that are no data are zero where the journal is gone.
    """

    def __init__(self, recording: Recording) -> None:
        recording.core.flush()
        self._recording = recording
        store = self._store = TrajectoryStore.open(recording.place.directory)
        # Each name says which env, and from which step on.
        places = [name.removeprefix("env").split("/") for name in store.trajectory_names if name]
        self._env, self._first = np.array(places, dtype=np.int64).reshape(-1, 2).T
        self._last = self._first + store.segments.length - 1
        self._cached: tuple[int, int, NDArray[Any]] | None = None
        self._cached_rows: tuple[int, NDArray[np.int64]] | None = None

    def begins(self) -> NDArray[np.int64]:
        """Return env and first step of each episode, [M, 2]."""
        return np.concatenate([np.stack([self._env, self._first], axis=1), self._recording.begins()])

    def mask(self, step: int) -> NDArray[np.bool_]:
        """Return which rows of a step are data, bool [N]."""
        if step >= self._recording.core.first_step:
            return self._recording.mask(step)
        at, rows = self._rows(step)
        return np.asarray(rows[step - at] >= 0)

    def step(self, step: int, column: int) -> NDArray[Any]:
        """Return one column of a step, [N, width]."""
        if step >= self._recording.core.first_step:
            return self._recording.step(step, column)
        at, rows = self._rows(step)
        cached = self._cached
        if cached is None or cached[:2] != (at, column):
            spec = self._recording.columns[column]
            values = np.zeros((*rows.shape, spec.width), dtype=spec.dtype)
            there = rows >= 0
            values[there] = self._store.gather(rows[there], [spec.key])[spec.key]
            cached = self._cached = at, column, values
        return np.asarray(cached[2][step - at])

    def _rows(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Return a step, and the transitions of it and those that follow, [steps, N]; -1 where there is none."""
        at = step - step % _STEPS_AT_ONCE
        if self._cached_rows is None or self._cached_rows[0] != at:
            rows = np.full((_STEPS_AT_ONCE, self._recording.num_envs), -1, dtype=np.int64)
            for k in np.flatnonzero((self._first < at + _STEPS_AT_ONCE) & (self._last >= at)):
                first, last = max(self._first[k], at), min(self._last[k], at + _STEPS_AT_ONCE - 1)
                start = self._store.segments.start[k] + first - self._first[k]
                rows[first - at : last - at + 1, self._env[k]] = np.arange(start, start + last - first + 1)
            self._cached_rows = at, rows
        return self._cached_rows
