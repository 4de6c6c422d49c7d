"""A fixed amount of memory that holds blocks of rows, the least recently used ones giving way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets.errors import OutOfRangeError

Index = NDArray[np.int64]


class BlockPool:
    """`capacity` blocks of `block_rows` rows each, found by block number.

    Not thread-safe: the caller holds a lock around each method.
    """

    def __init__(self, capacity: int, block_rows: int, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.capacity = capacity
        self.block_rows = block_rows
        self._rows = np.empty((capacity * block_rows, *row_shape), dtype)
        self._block_in_slot = np.full(capacity, -1, dtype=np.int64)
        # Rows of each slot that hold something: the last block of a clip is shorter, and memory begins uninitialised.
        self._filled = np.zeros(capacity, dtype=np.int64)
        self._last_used = np.full(capacity, -1, dtype=np.int64)
        self._tick = 0
        # The numbers of the blocks that are here, sorted, and the slot of each.
        self._present = np.empty(0, dtype=np.int64)
        self._slot = np.empty(0, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows it may hold."""
        return self._rows.nbytes

    def find(self, blocks: Index) -> Index:
        """Return the slot of each block, -1 where it is not here."""
        if not len(self._present):
            return np.full(len(blocks), -1, dtype=np.int64)
        position = np.minimum(np.searchsorted(self._present, blocks), len(self._present) - 1)
        return np.where(self._present[position] == blocks, self._slot[position], -1)

    @property
    def room(self) -> int:
        """Number of blocks that can be admitted without replacing one that was marked by the last `use`."""
        return int(np.count_nonzero(self._last_used < self._tick))

    def use(self, slots: Index) -> None:
        """Mark slots as used now, together."""
        self._tick += 1
        self._last_used[slots] = self._tick

    def keep(self, slots: Index) -> None:
        """Mark slots as if the last `use` had included them."""
        self._last_used[slots] = self._tick

    def admit(self, blocks: list[tuple[int, NDArray[Any]]], keep_current: bool) -> None:
        """Take in blocks that are not here, [n <= block_rows, ...] each, over those that were used longest ago.

        With `keep_current`, blocks marked by the last `use` stay, and new ones that find no place are dropped.
        """
        replaceable = np.argsort(self._last_used, kind="stable")
        if keep_current:
            replaceable = replaceable[self._last_used[replaceable] < self._tick]
        for slot, (block, rows) in zip(replaceable.tolist(), blocks, strict=False):
            first = slot * self.block_rows
            self._rows[first : first + len(rows)] = rows
            self._filled[slot] = len(rows)
            self._block_in_slot[slot] = block
            self._last_used[slot] = self._tick
        taken = np.flatnonzero(self._block_in_slot >= 0)
        self._slot = taken[np.argsort(self._block_in_slot[taken])]
        self._present = self._block_in_slot[self._slot]

    def gather(self, slots: Index, offset: Index) -> NDArray[Any]:
        """Return the rows at an offset within each slot, [len(slots), ...], as a fresh array.

        Raises OutOfRangeError for an offset past what the slot's block holds, and for a slot that is none.
        """
        if len(slots) and (slots.min() < 0 or offset.min() < 0 or (offset >= self._filled[slots]).any()):
            raise OutOfRangeError("a row is asked for that its block does not hold")
        return _core.gather([self._rows], slots * self.block_rows + offset)[0]
