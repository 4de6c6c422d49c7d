"""Which rows of a storage form trajectories: a table built once, and corrected by the rows that are written."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torchrl.data.replay_buffers.storages import Storage, TensorStorage

from iltools_datasets import _core

Boundaries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""First and last coordinates, int64 [K, ndim] each, and lengths, int64 [K], of trajectories, as TorchRL has them."""


Span = Sequence[bool | int]

_MOST_CUTS = 8
"""Ways to cut slices that a table remembers."""


class TrajectoryTable:
    """First row and length of each of K trajectories; one that passes the end of the storage goes on at its beginning.

    Args:
        start: int64 [K], first rows.
        length: int64 [K], numbers of rows.
        count: rows of the storage.
        rest: int64 [K, ndim - 1], the other coordinates in a storage of several dimensions.
    """

    def __init__(
        self, start: NDArray[np.int64], length: NDArray[np.int64], count: int, rest: NDArray[np.int64] | None = None
    ) -> None:
        self.start, self.length, self.count = start, length, count
        self.rest = np.empty((len(start), 0), dtype=np.int64) if rest is None else rest
        self.shortest, self.longest = (int(length.min()), int(length.max())) if len(length) else (0, 0)
        self._cuts: dict[tuple[Any, ...], _core.SliceCut] = {}
        self._last: tuple[Span | None, Any, Any] = None, None, None
        self._boundaries: Boundaries | None = None

    @classmethod
    def from_boundaries(cls, boundaries: Boundaries, count: int) -> TrajectoryTable:
        """Take over what TorchRL worked out for a storage of `count` rows."""
        first, _, length = (tensor.cpu().numpy() for tensor in boundaries)
        start, rest = np.ascontiguousarray(first[:, 0]), np.ascontiguousarray(first[:, 1:])
        table = cls(start, np.ascontiguousarray(length), count, rest)
        table._boundaries = boundaries
        return table

    @classmethod
    def from_stops(cls, stop: NDArray[np.int64], count: int) -> TrajectoryTable:
        """Build from the last rows, ascending, of the trajectories in a ring of `count` rows."""
        start = np.concatenate([stop[-1:], stop[:-1]]) + 1
        start[0] %= count
        length = stop - start + 1
        length[length <= 0] += count
        return cls(start, length, count)

    def __len__(self) -> int:
        return len(self.start)

    def coordinates(self, trajectory: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the other coordinates of rows of some trajectories, ndim - 1 columns."""
        return [np.ascontiguousarray(column) for column in self.rest[trajectory].T] if self.rest.size else []

    def boundaries(self) -> Boundaries:
        """Return the table as TorchRL's functions take it."""
        if self._boundaries is None:
            first = np.concatenate([self.start[:, None], self.rest], axis=1)
            last = first.copy()
            last[:, 0] = (self.start + self.length - 1) % self.count
            self._boundaries = torch.from_numpy(first), torch.from_numpy(last), torch.from_numpy(self.length)
        return self._boundaries

    def cut(self, length: int, strict: bool, padded: bool, span: Span, stride: int | None = None) -> _core.SliceCut:
        """Return how slices are cut, worked out once: for another cut nothing can have been made ahead.

        Args:
            length: rows of a slice.
            strict: leave out trajectories that are shorter, or take all that they have.
            padded: repeat the last row of shorter slices up to `length`.
            span: how far a slice may begin before, and end after, its trajectory: False or 0 not at all, True as far as
                one row remains, a number of rows otherwise. What lies outside is cut off.
            stride: rows from one window to the next, where every window is an item and not every trajectory.

        Raises:
            ValueError: a length or stride below 1, a span below 0.
        """
        last_span, last_asked, last_cut = self._last
        # True and 1 are equal and mean different spans, so it has to be the very one, and one that cannot be changed.
        if span is last_span and type(span) is tuple and last_asked == (length, strict, padded, stride):
            return last_cut  # type: ignore[no-any-return]
        asked = length, strict, padded, tuple(None if rows is True else int(rows) for rows in span), stride
        cut = self._cuts.get(asked)
        if cut is None:
            if len(self._cuts) == _MOST_CUTS:
                self._cuts.clear()
            holders = self.rest.shape[1] > 0
            cut = self._cuts[asked] = _core.SliceCut(self.start, self.length, self.count, *asked, holders)
        self._last = span, (length, strict, padded, stride), cut
        return cut

    def none_reaches(self, length: int) -> str:
        """Return what to say where no trajectory has `length` rows."""
        return (
            "Did not find a single trajectory with sufficient length (length range: "
            f"{self.shortest} - {self.longest} / required={length})."
        )


class TrajectoryTracker:
    """Keeps the table of one storage, and corrects it where rows are written instead of looking at all rows again."""

    def __init__(self) -> None:
        self._storage: weakref.ref[Storage] | None = None
        self._table: TrajectoryTable | None = None
        self._version: tuple[Any, ...] = ()
        self._writes: list[tuple[int, NDArray[np.int64]]] = []
        self._rows_written = 0

    def forget(self) -> None:
        """Begin anew with the next look."""
        self._storage, self._table, self._version = None, None, ()
        self._writes, self._rows_written = [], 0

    def __getstate__(self) -> dict[str, Any]:
        # A storage in another process has its own revisions.
        return TrajectoryTracker().__dict__

    def note_write(self, index: Any, storage: Any) -> None:
        """Remember rows that were just written."""
        known = None if self._storage is None else self._storage()
        if known is None or known is not storage or isinstance(index, tuple):
            return
        revision = known._mutation_revision
        if self._writes and self._writes[-1][0] == revision:
            return
        rows = torch.as_tensor(index, dtype=torch.int64).reshape(-1).cpu().numpy()
        self._writes.append((revision, rows))
        self._rows_written += len(rows)
        if self._rows_written > 2 * len(known):
            self.forget()

    def table(
        self,
        storage: Storage,
        build: Callable[[Storage], TrajectoryTable],
        source: Callable[[Storage], EndSource | None],
    ) -> TrajectoryTable:
        """Return the up-to-date table.

        Args:
            storage: the storage.
            build: works it out from all rows.
            source: says where the ends are marked, None where corrections are not possible; asked after `build`.
        """
        cursor = getattr(storage, "_last_cursor_index", None)
        version = (storage._mutation_revision, len(storage), bool(storage._is_full), cursor)
        same = self._storage is not None and self._storage() is storage
        if not same or self._table is None:
            table = None
        elif version == self._version:
            return self._table
        else:
            table = self._corrected(storage, version, source(storage))
        self._table = build(storage) if table is None else table
        self._storage, self._version = weakref.ref(storage), version
        self._writes, self._rows_written = [], 0
        return self._table

    def _corrected(
        self, storage: Storage, version: tuple[Any, ...], source: EndSource | None
    ) -> TrajectoryTable | None:
        revision, count, is_full, cursor = version
        known, previous_count, was_full, previous_cursor = self._version
        seen = [number for number, _ in self._writes]
        if source is None or count < previous_count or seen != list(range(known + 1, revision + 1)):
            return None
        assert self._table is not None
        # A row that only counted as an end because writing had stopped there may be none now.
        stopgaps = {previous_count - 1, previous_cursor if was_full else previous_count - 1} - {None}
        # A storage that several writers fill may count rows that none of them has written.
        written = np.concatenate([np.arange(previous_count, count), *(rows for _, rows in self._writes)])
        changed = np.unique(np.concatenate([source.touched(written, count), np.array(list(stopgaps), dtype=np.int64)]))
        stop = (self._table.start + self._table.length - 1) % previous_count
        place = np.searchsorted(changed, stop)
        kept = stop[changed[np.minimum(place, len(changed) - 1)] != stop]
        ends = changed[source.ends(storage, changed, count)]
        last = cursor if is_full else count - 1
        extra = np.array([] if last is None else [last], dtype=np.int64)
        stops = np.union1d(np.union1d(kept, ends), extra)
        return TrajectoryTable.from_stops(stops if len(stops) else np.array([count - 1]), count)


class EndSource:
    """Where a one-dimensional storage marks the ends of trajectories: by ids that change, or by flags.

    Args:
        trajectory_key: key of the ids, [N]; takes precedence.
        end_keys: keys of flags, [N] or [N, 1]; any of them counts, and missing ones are passed over.
    """

    def __init__(self, trajectory_key: Any, end_keys: Sequence[Any] = ()) -> None:
        self._trajectory_key = trajectory_key
        self._end_keys = end_keys

    def touched(self, written: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return the rows whose end flag may have changed with the written ones."""
        return written if self._trajectory_key is None else np.concatenate([written, (written - 1) % count])

    def ends(self, storage: TensorStorage, rows: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
        """Return which of `rows` are ends, bool [len(rows)]."""
        data: TensorDict = storage._storage
        if self._trajectory_key is not None:
            ids = data.get(self._trajectory_key)
            here, following = (ids[torch.from_numpy(at).to(ids.device)] for at in (rows, (rows + 1) % count))
            return _flags(here != following, len(rows))
        ends = np.zeros(len(rows), dtype=bool)
        for key in self._end_keys:
            flags = data.get(key, None)
            if flags is not None:
                ends |= _flags(flags[torch.from_numpy(rows).to(flags.device)], len(rows))
        return ends


def _flags(values: torch.Tensor, count: int) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = values.to(torch.bool).reshape(count).cpu().numpy()
    return flags
