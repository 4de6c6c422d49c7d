"""Which trajectory each env follows and where it stands: the one place that knows, shared by the samplers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets._base.integers import checked_ids, checked_integers
from iltools_datasets._base.saved_state import SavedState
from iltools_datasets.errors import ArgumentError, OutOfRangeError
from iltools_datasets.store.segments import EnvAssignment, Segment, Segments

Assignment = EnvAssignment | tuple[int, int] | tuple[int, int, int] | Sequence[int] | NDArray[np.integer[Any]]
"""Trajectory and step of an env; without a step, its first. Rows of integer arrays and tensors are such."""
Assignments = Sequence[Assignment] | NDArray[np.integer[Any]]
"""One per env, or an integer array or tensor [num_envs, 3] of task, trajectory and step; [num_envs, 2] without."""


class EnvCursors:
    """The assignment of `num_envs` envs to trajectories, with a step for each.

    Args:
        segments: the segments of the data set.
        assignment: one `EnvAssignment` or `(task_id, traj_id, step)` per env, or an integer array or tensor
            [num_envs, 3] of these. A step past the end of its trajectory wraps around.

    Raises:
        UnknownSegmentError: no trajectory has these ids.
        OutOfRangeError: a step is negative.
        NotAnIntegerError: floats or bools (a TypeError).
        ArgumentError: an array of another shape.
    """

    def __init__(self, segments: Segments | Iterable[Segment], assignment: Assignments) -> None:
        self.segments = Segments.from_segments(segments)
        task, traj, step = _columns(assignment)
        self.native = _core.SequentialCursors(self.segments.table, self.segments.find_many(task, traj), step)
        self.revision = 0
        """Counts the changes of the assignment; marching on is none."""

    def __len__(self) -> int:
        return len(self.native)

    @property
    def segment(self) -> NDArray[np.int64]:
        """int64 [num_envs]: position in `segments` of each env's trajectory; a copy."""
        return self.native.segment

    @property
    def step(self) -> NDArray[np.int64]:
        """int64 [num_envs]: local step of each env, in transitions; a copy."""
        return self.native.step

    @property
    def assignment(self) -> list[EnvAssignment]:
        """A snapshot: changing it changes nothing here."""
        segment = self.segment
        task, traj = self.segments.task_id[segment].tolist(), self.segments.traj_id[segment].tolist()
        return [EnvAssignment(*row) for row in zip(task, traj, self.step.tolist(), strict=True)]

    def update(self, changes: Mapping[int, Assignment]) -> None:
        """Put some envs elsewhere: all of them, or, on any error, none.

        Args:
            changes: env index -> `EnvAssignment`, `(task_id, traj_id)` or `(task_id, traj_id, step)`.

        Raises:
            UnknownSegmentError: no trajectory has these ids.
            OutOfRangeError: an env index is outside 0..num_envs, or a step is negative.
            NotAnIntegerError: an env or an assignment is of floats or bools (a TypeError).
        """
        if not isinstance(changes, Mapping):
            raise ArgumentError(f"changes: expected a mapping of envs to assignments, found {changes!r:.80}")
        env = checked_ids("env", changes.keys(), len(self))
        task, traj, step = _columns(changes.values())
        self.native.update(env, self.segments.find_many(task, traj), step)
        self.revision += 1

    def place(self, segment: NDArray[np.int64], step: NDArray[np.int64]) -> None:
        """Put every env at a segment position and step, int64 [num_envs] each; raises as `update` does."""
        self.native.update(np.arange(len(self), dtype=np.int64), segment, step)
        self.revision += 1

    def refresh(self, segments: Segments) -> None:
        """Follow a data set that has become longer, in which these segments come first; envs stay in place."""
        self.__setstate__((segments, self.segment, self.step, self.revision + 1))

    @classmethod
    def at(cls, segments: Segments, segment: NDArray[np.int64], step: NDArray[np.int64]) -> EnvCursors:
        """Return cursors at segment positions and steps, int64 [num_envs] each."""
        cursors = cls.__new__(cls)
        cursors.__setstate__((segments, segment, step, 0))
        return cursors

    def __getstate__(self) -> tuple[Segments, NDArray[np.int64], NDArray[np.int64], int]:
        return self.segments, self.segment, self.step, self.revision

    def __setstate__(self, state: tuple[Segments, NDArray[np.int64], NDArray[np.int64], int]) -> None:
        self.segments, segment, step, self.revision = state
        self.native = _core.SequentialCursors(self.segments.table, segment, step)

    def __repr__(self) -> str:
        return f"EnvCursors({len(self)} envs on {self.segments!r})"


class FollowsEnvs:
    """What follows an assignment of envs to trajectories, and lets it be changed."""

    cursors: EnvCursors
    """Where the envs are; several may share it."""

    @property
    def assignment(self) -> list[EnvAssignment]:
        """The trajectory and the next step of each env, as a snapshot."""
        return self.cursors.assignment

    def update_env_assignment(self, env_index: int, task_id: int, traj_id: int, step: int = 0) -> None:
        """Put one env on another trajectory; see `update_assignments`."""
        self.update_assignments({env_index: (task_id, traj_id, step)})

    def update_assignments(self, changes: Mapping[int, Assignment]) -> None:
        """Put some envs on other trajectories: all of them, or, on any error, none.

        Args:
            changes: env index -> `(task_id, traj_id)`, `(task_id, traj_id, step)` or `EnvAssignment`; a row of an
                integer array is one, too.

        Raises:
            UnknownSegmentError: no trajectory has these ids (a KeyError).
            OutOfRangeError: no such env, or a negative step (an IndexError).
            NotAnIntegerError: an env or an assignment is of floats or bools (a TypeError).
        """
        self.cursors.update(changes)


def saved_places(saved: SavedState, segments: Segments, num_envs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return segment position and step of a state's envs, int64 [num_envs] each; `StateError` if there are no such."""
    segment = saved.integers("segment", num_envs, high=len(segments) - 1)
    step = saved.integers("step", num_envs)
    if (step >= segments.length[segment]).any():
        raise saved.refuse("step", "steps within their trajectories")
    return segment, step


def _columns(
    assignment: Iterable[Assignment] | Assignments,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return task, trajectory and step, int64 [n] each."""
    if hasattr(assignment, "__array__"):
        rows = checked_integers("assignment", assignment, outside=OutOfRangeError)
        if rows.ndim != 2 or rows.shape[1] not in (2, 3):
            raise ArgumentError(
                f"assignment: expected rows of (task_id, traj_id) or (task_id, traj_id, step), [num_envs, 2 or 3], "
                f"found an array {list(rows.shape)}"
            )
        rows = np.pad(rows, ((0, 0), (0, 3 - rows.shape[1])))
    else:
        rows = np.array([_row(entry) for entry in assignment], dtype=np.int64).reshape(-1, 3)
    task, traj, step = (np.ascontiguousarray(column) for column in rows.T)
    return task, traj, step


def _row(entry: Assignment) -> list[int]:
    if isinstance(entry, EnvAssignment):
        entry = (entry.task_id, entry.traj_id, entry.step)
    if not (isinstance(entry, Sequence) or getattr(entry, "ndim", 0) == 1) or len(entry) not in (2, 3):
        raise TypeError(f"expected an EnvAssignment, (task_id, traj_id) or (task_id, traj_id, step), found {entry!r}")
    numbers = checked_integers("assignment", entry, outside=OutOfRangeError)
    return [*numbers.tolist(), 0][:3]
