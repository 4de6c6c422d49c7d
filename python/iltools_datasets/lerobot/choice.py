"""Chosen episodes as a data set of their own: an index over frames, not a copy of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets.errors import OutOfRangeError
from iltools_datasets.store.segments import Segments, int64


class EpisodeChoice:
    """The frames of some episodes one after the other; item i of the choice is frame `rows(i)` of the set.

    Attributes:
        segments: int64 [E], positions of the episodes in the store's segments, in the order of the choice.
        episodes: int64 [E], their numbers.
    """

    def __init__(self, all_segments: Segments, segments: NDArray[np.int64]) -> None:
        self.segments = segments
        self.episodes = all_segments.traj_id[segments]
        lengths = all_segments.length[segments]
        self._ends = np.cumsum(lengths)
        self._shift = all_segments.start[segments] - (self._ends - lengths)
        self._count = int(self._ends[-1])
        self._is_all = not self._shift.any()

    @classmethod
    def of(cls, all_segments: Segments, episodes: Iterable[int] | None, where: str) -> EpisodeChoice:
        """Return the choice of these episode numbers, in their order; None chooses all.

        Raises OutOfRangeError for one that is not there, ValueError for one given twice, or for none at all.
        """
        known = all_segments.traj_id
        if episodes is None:
            return cls(all_segments, np.arange(len(known)))
        wanted = int64(list(episodes))
        if not len(wanted):
            raise ValueError(f"{where}: episodes: none was chosen; None means all")
        numbers, counts = np.unique(wanted, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"{where}: episodes: {numbers[counts > 1][0]} is chosen more than once")
        position = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        missing = wanted[known[position] != wanted]
        if len(missing):
            raise OutOfRangeError(
                f"{where}: no episode {missing[0]}; there are {len(known)}, from {known[0]} to {known[-1]}"
            )
        return cls(all_segments, position)

    def __len__(self) -> int:
        return self._count

    def rows(self, items: ArrayLike) -> NDArray[np.int64]:
        """Return the set's frame of each item, int64 [B]; negative items count from the end.

        Raises OutOfRangeError (an IndexError) for an item that is not in the choice.
        """
        wanted = int64(items)
        if len(wanted):
            least, greatest = int(wanted.min()), int(wanted.max())
            if least < -self._count or greatest >= self._count:
                raise OutOfRangeError(
                    f"item {greatest if greatest >= self._count else least} is outside the {self._count} frames"
                )
            if least < 0:
                wanted = np.where(wanted < 0, wanted + self._count, wanted)
        if self._is_all:
            return wanted
        return wanted + self._shift[np.searchsorted(self._ends, wanted, side="right")]
