"""The rows of windows at given places: transitions out of a store, or states out of whatever has `TrajectoryRows`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.bfloat16 import as_bfloat16
from iltools_datasets.errors import SchemaError, UnknownSegmentError
from iltools_datasets.store.keys import Boundary, Key, nested
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.windows.rows import Index, TrajectoryRows, expect_window, step_within


class WindowReader(Protocol):
    """Reads windows at `offsets` from a step, int64 [W], with a boundary that is not "error".

    Each array it returns is alone in its memory, which is only used again when nobody holds the array.
    """

    lengths: Index
    """Rows of each trajectory."""
    identity: str
    """Tells whether a saved place means the same here."""

    def find(self, task_id: int, traj_id: int) -> int:
        """Return the position of a trajectory."""

    def read(self, traj: Index, step: Index, advance: int) -> dict[str, Any]:
        """Return nested `{key: [num_envs, W, ...]}` of windows at steps [num_envs] of trajectories [num_envs].

        The next ones will probably be `advance` steps further on.
        """


class StoreReader:
    """Windows of transitions out of a store, in one native gather."""

    def __init__(
        self,
        store: TrajectoryStore,
        keys: Sequence[Key] | None,
        offsets: Index,
        boundary: Boundary,
        num_threads: int | None,
    ) -> None:
        self._store = store
        self._keys = list(store.keys if keys is None else keys)
        self._fields = store.field_ids(self._keys)
        refuse_unreadable(self._keys, boundary)
        self._offsets = offsets
        self._is_contiguous = bool((np.diff(offsets) == 1).all())
        self._boundary = boundary
        self._num_threads = store.num_threads if num_threads is None else num_threads
        self._bfloat16 = {key for key in self._keys if store.is_bfloat16(key)}
        self.lengths = store.segments.length
        self.identity = store.uuid or _fingerprint(self.lengths)

    def find(self, task_id: int, traj_id: int) -> int:
        return self._store.segments.find(task_id, traj_id)

    def read(self, traj: Index, step: Index, advance: int) -> dict[str, Any]:
        width = len(self._offsets)
        if self._is_contiguous:
            segment, first, length = traj, step + self._offsets[0], width
        else:
            segment, first, length = np.repeat(traj, width), (step[:, None] + self._offsets).reshape(-1), 1
        core, threads = self._store.core, self._num_threads
        arrays, mask = core.windows(self._fields, segment, first, length, self._boundary, threads)
        window: dict[Key, NDArray[Any]] = {
            key: array.reshape(len(traj), width, *array.shape[2:])
            for key, array in zip(self._keys, arrays, strict=True)
        }
        for key in self._bfloat16:
            window[key] = as_bfloat16(window[key])
        if mask is not None:
            window["mask"] = mask.reshape(len(traj), width)
        return nested(window)


class RowsReader:
    """Windows of states out of an archive, or of a store seen as one; a key of transitions repeats its last row."""

    def __init__(self, rows: TrajectoryRows, keys: Sequence[Key] | None, offsets: Index, boundary: Boundary) -> None:
        self._rows = rows
        self._keys = list(rows.keys if keys is None else keys)
        refuse_unreadable(self._keys, boundary)
        self._offsets = offsets
        self._boundary = boundary
        self.lengths = rows.num_states
        self.identity = _fingerprint(self.lengths)

    def find(self, task_id: int, traj_id: int) -> int:
        raise UnknownSegmentError(f"this data set numbers its trajectories through; found {(task_id, traj_id)}")

    def read(self, traj: Index, step: Index, advance: int) -> dict[str, Any]:
        length = self.lengths[traj][:, None]
        wanted = step[:, None] + self._offsets
        within = wanted % length if self._boundary == "wrap" else np.clip(wanted, 0, length - 1)
        window: dict[Key, NDArray[Any]] = {
            key: self._rows.read(key, traj, step_within(self._rows, key, traj, within)) for key in self._keys
        }
        ahead, span = step + advance + self._offsets[0], int(self._offsets[-1] - self._offsets[0]) + 1
        for key in self._keys:
            expect_window(self._rows, key, traj, ahead, span, self._boundary == "wrap")
        if self._boundary == "mask":
            window["mask"] = (wanted >= 0) & (wanted < length)
        return nested(window)


def refuse_unreadable(keys: Sequence[Key], boundary: Boundary) -> None:
    """Raise `SchemaError` if there is nothing to read, or two of the arrays would have one place in a window."""
    if not keys:
        raise SchemaError("no keys to read windows of")
    nested(dict.fromkeys(keys))
    if boundary == "mask" and "mask" in keys:
        raise SchemaError("boundary='mask' returns its mask as 'mask', which is also one of the keys; name other keys")


def _fingerprint(lengths: Index) -> str:
    return f"{len(lengths)} trajectories, crc32 {zlib.crc32(lengths.tobytes()):08x}"
