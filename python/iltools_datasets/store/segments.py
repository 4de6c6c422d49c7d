"""Segments: which transitions belong to which trajectory, and where an env stands in one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets import _core
from iltools_datasets.errors import OutOfRangeError


@dataclass(frozen=True, slots=True)
class Segment:
    """One trajectory's place in a data set, counted in transitions.

    A trajectory of T states has `length` = T - 1 transitions; transition `start + t` leads from state t to state t + 1.
    """

    task_id: int
    traj_id: int
    start: int
    length: int

    def index_at(self, t: int, wrap: bool = True) -> int:
        """Return the global index of local step `t`.

        With `wrap`, steps continue at the other end (t modulo length, also for negative t). Without it a step outside
        [0, length) raises `OutOfRangeError` (an IndexError).
        """
        if wrap:
            return self.start + t % self.length
        if not 0 <= t < self.length:
            raise OutOfRangeError(
                f"task {self.task_id}, trajectory {self.traj_id}: step {t} is outside [0, {self.length})"
            )
        return self.start + t


@dataclass(frozen=True, slots=True)
class EnvAssignment:
    """The trajectory an env follows and the step, in transitions, at which it stands."""

    task_id: int
    traj_id: int
    step: int = 0


class Segments(Sequence[Segment]):
    """The segments of a data set: a sequence of `Segment`, kept as four int64 arrays.

    Look-ups go through the native table, so a set of a million segments costs neither a dict nor a million objects.
    """

    __slots__ = ("_fingerprints", "table")

    def __init__(self, table: _core.SegmentTable) -> None:
        self.table = table
        self._fingerprints: dict[int, str] = {}

    @classmethod
    def from_segments(cls, segments: Iterable[Segment]) -> Segments:
        """Build from `Segment` objects in any order; overlaps, empty or duplicate segments raise `SchemaError`."""
        if isinstance(segments, Segments):
            return segments
        rows = np.array([(s.task_id, s.traj_id, s.start, s.length) for s in segments], dtype=np.int64).reshape(-1, 4)
        task_id, traj_id, start, length = (np.ascontiguousarray(column) for column in rows.T)
        return cls(_core.SegmentTable(task_id, traj_id, start, length))

    @property
    def task_id(self) -> NDArray[np.int64]:
        """int64 [num_trajectories]."""
        return self.table.task_id

    @property
    def traj_id(self) -> NDArray[np.int64]:
        """int64 [num_trajectories]; ids restart at 0 in each task."""
        return self.table.traj_id

    @property
    def start(self) -> NDArray[np.int64]:
        """int64 [num_trajectories]: global index of each first transition."""
        return self.table.start

    @property
    def length(self) -> NDArray[np.int64]:
        """int64 [num_trajectories]: number of transitions of each."""
        return self.table.length

    @property
    def num_transitions(self) -> int:
        """Sum of the lengths."""
        return self.table.num_transitions

    def fingerprint(self, count: int | None = None) -> str:
        """Return a digest of the first `count` segments, None = all: ids, places and lengths."""
        count = len(self) if count is None else count
        if count not in self._fingerprints:
            digest = hashlib.blake2b(digest_size=16)
            for column in (self.task_id, self.traj_id, self.start, self.length):
                digest.update(column[:count].tobytes())
            self._fingerprints[count] = digest.hexdigest()
        return self._fingerprints[count]

    def find(self, task_id: int, traj_id: int) -> int:
        """Return the position of the segment with these ids; `UnknownSegmentError` (a KeyError) if there is none."""
        return int(self.find_many([task_id], [traj_id])[0])

    def find_many(self, task_id: ArrayLike, traj_id: ArrayLike) -> NDArray[np.int64]:
        """Return the positions of many segments, int64 [B]; the first unknown pair raises `UnknownSegmentError`."""
        return self.table.find(int64(task_id), int64(traj_id))

    def locate(self, index: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (segment position, local step), int64 [B] each, of global transition indices [B]."""
        return self.table.locate(int64(index))

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, position: int) -> Segment: ...
    @overload
    def __getitem__(self, position: slice) -> list[Segment]: ...
    def __getitem__(self, position: int | slice) -> Segment | list[Segment]:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        count = len(self)
        if not -count <= position < count:
            raise OutOfRangeError(f"segment {position} of {count}")
        return Segment(*self.table.row(position % count))

    def __iter__(self) -> Iterator[Segment]:
        columns = (self.task_id.tolist(), self.traj_id.tolist(), self.start.tolist(), self.length.tolist())
        return (Segment(*row) for row in zip(*columns, strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Callable[..., Segments], tuple[NDArray[np.int64], ...]]:
        return _from_columns, (self.task_id, self.traj_id, self.start, self.length)

    def __repr__(self) -> str:
        return f"Segments({len(self)} trajectories, {self.num_transitions} transitions)"


def _from_columns(*columns: NDArray[np.int64]) -> Segments:
    return Segments(_core.SegmentTable(*columns))


def int64(values: ArrayLike) -> NDArray[np.int64]:
    """Return integers as a contiguous int64 vector; other dtypes raise TypeError, other shapes ValueError."""
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"expected integers, got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"expected a vector, got shape {array.shape}")
    # Aligned, too: a vector over part of a buffer may begin anywhere.
    return np.require(array, np.int64, ["C_CONTIGUOUS", "ALIGNED"])
