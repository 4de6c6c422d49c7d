"""Rows of any trajectory at any step, from an archive through bounded buffers or straight from a store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import OutOfRangeError
from iltools_datasets.store.keys import Key
from iltools_datasets.store.trajectory_store import TrajectoryStore

Index = NDArray[np.int64]

MOST_STEPS = 2**62
"""Where an env may stand at most: a window from there on can still be counted in int64."""


@dataclass(frozen=True, slots=True)
class TrajectoryName:
    """Where a trajectory comes from."""

    dataset_source: str
    motion: str
    name: str

    def __str__(self) -> str:
        return f"{self.dataset_source}/{self.motion}/{self.name}"


class TrajectoryRows(Protocol):
    """What a data set of trajectories needs to know of its rows.

    Attributes:
        names: one per trajectory.
        keys: every key that some trajectory has.
        num_states: int64 [num_trajectories].
        expected_stride: how far apart the steps given to `expect` may be; None if it need not be called.
        rows_ahead: how many rows per env may be expected at once.
        buffered_bytes: bytes of all buffers.
    """

    keys: list[Key]
    num_states: Index
    expected_stride: int | None
    rows_ahead: int

    @property
    def names(self) -> list[TrajectoryName]: ...

    @property
    def buffered_bytes(self) -> int: ...

    def row_counts(self, key: Key, trajectory: Index) -> Index:
        """Return the rows of a key in each trajectory, T or T - 1; `MissingKeyError` where it lacks the key."""

    def read(self, key: Key, trajectory: Index, step: Index) -> NDArray[Any]:
        """Return rows [n, w, ...] at steps [n, w] of trajectories [n]; all steps exist."""

    def expect(self, key: Key, trajectory: Index, step: Index, urgent: int) -> None:
        """Be told that steps [n, m], which exist, and those between them will probably be read next.

        The first `urgent` of the m will be needed at once, the others later.
        """

    def close(self) -> None:
        """Stop working ahead."""


def step_within(rows: TrajectoryRows, key: Key, trajectory: Index, state: Index) -> Index:
    """Return the rows of a key at states [n, w]: for the last state of a key of transitions, its last row again.

    Raises `OutOfRangeError` where there is none, in a clip of one state.
    """
    count = rows.row_counts(key, trajectory)
    if (count == 0).any():
        name = rows.names[int(trajectory[count == 0][0])]
        raise OutOfRangeError(f"trajectory {name}: has no rows of {key!r}")
    step: Index = np.minimum(state, count[:, None] - 1)
    return step


def expect_window(rows: TrajectoryRows, key: Key, trajectory: Index, first: Index, span: int, wraps: bool) -> None:
    """Have windows over `span` steps from `first` [n] read in the background and, while at it, what may follow them."""
    stride = rows.expected_stride
    if stride is None:
        return
    near = np.append(np.arange(0, span - 1, stride), span - 1)
    far = np.arange(span - 1 + stride, rows.rows_ahead - span, stride)
    step = first[:, None] + np.append(near, far)
    step = step % rows.num_states[trajectory][:, None] if wraps else np.maximum(step, 0)
    count = rows.row_counts(key, trajectory)[:, None]
    rows.expect(key, trajectory, np.minimum(step, count - 1), len(near))


class StoreRows:
    """Rows of a store. A state key has T rows, the last one being the `next` of the last transition."""

    def __init__(self, store: TrajectoryStore) -> None:
        self._store = store
        self.expected_stride: int | None = None
        self.rows_ahead = 0
        segments = store.segments
        self._start, self._length = segments.start, segments.length
        self.num_states: Index = self._length + 1
        self.keys: list[Key] = list(store.keys)

    @cached_property
    def names(self) -> list[TrajectoryName]:
        tasks, names = self._store.task_names, []
        for segment, name in zip(self._store.segments, self._store.trajectory_names, strict=True):
            source, _, motion = tasks.get(segment.task_id, f"task{segment.task_id}").partition("/")
            names.append(TrajectoryName(source, motion, name or f"traj{segment.traj_id}"))
        return names

    @property
    def buffered_bytes(self) -> int:
        return 0

    def row_counts(self, key: Key, trajectory: Index) -> Index:
        return (self.num_states if self._store.successor(key) else self._length)[trajectory]

    def read(self, key: Key, trajectory: Index, step: Index) -> NDArray[Any]:
        index = (self._start[trajectory][:, None] + step).ravel()
        last = np.flatnonzero(step == self._length[trajectory][:, None])
        index[last] -= 1
        rows = self._store.gather(index, [key])[key]
        following = self._store.successor(key) if last.size else None
        if following is not None:
            rows[last] = self._store.gather(index[last], [following])[following]
        return rows.reshape(*step.shape, *rows.shape[1:])

    def expect(self, key: Key, trajectory: Index, step: Index, urgent: int) -> None:
        """Nothing to do: the rows are mapped."""

    def close(self) -> None:
        """Nothing to stop."""
