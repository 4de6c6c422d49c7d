"""Rows of any trajectory at any step, from an archive through bounded buffers or straight from a store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.store.keys import Key
from iltools_datasets.store.trajectory_store import TrajectoryStore

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrajectoryName:
    """Where a trajectory comes from."""

    dataset_source: str
    motion: str
    name: str


class TrajectoryRows(Protocol):
    """What a data set of trajectories needs to know of its rows.

    Attributes:
        names: one per trajectory.
        keys: every key that some trajectory has.
        num_states: int64 [num_trajectories].
        expected_stride: how far apart the steps given to `expect` may be; None if it need not be called.
        buffered_bytes: bytes of all buffers.
    """

    keys: list[Key]
    num_states: Index
    expected_stride: int | None

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


class StoreRows:
    """Rows of a store. A state key has T rows, the last one being the `next` of the last transition."""

    def __init__(self, store: TrajectoryStore) -> None:
        self._store = store
        self.expected_stride: int | None = None
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
        last = (step == self._length[trajectory][:, None]).ravel()
        index = (self._start[trajectory][:, None] + step).ravel() - last
        rows = self._store.gather(index, [key])[key]
        following = self._store.successor(key)
        if following is not None and last.any():
            rows[last] = self._store.gather(index[last], [following])[following]
        return rows.reshape(*step.shape, *rows.shape[1:])

    def expect(self, key: Key, trajectory: Index, step: Index, urgent: int) -> None:
        """Nothing to do: the rows are mapped."""

    def close(self) -> None:
        """Nothing to stop."""
