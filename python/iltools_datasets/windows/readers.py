"""The rows of windows at given places, out of a store or out of a `VectorizedTrajectoryDataset`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import OutOfRangeError, SchemaError, UnknownSegmentError
from iltools_datasets.store.keys import Boundary, Key, nested
from iltools_datasets.store.trajectory_store import TrajectoryStore

Index = NDArray[np.int64]


class WindowDataset(Protocol):
    """What a data set needs for windows to be read from it; see `storage.VectorizedTrajectoryDataset`."""

    num_envs: int
    env_traj_ids: Index
    env_steps: Index
    traj_lengths: Sequence[int]
    all_keys: Sequence[Key]

    def fetch_window(self, idx: Iterable[int], key: Key, window_size: int | None = None) -> NDArray[Any]:
        """Return [len(idx), window_size, ...] from where the envs stand."""

    def update_references(
        self, env_to_traj: Mapping[int, int] | None = None, env_to_step: Mapping[int, int] | None = None
    ) -> None:
        """Put envs elsewhere."""


class WindowReader(Protocol):
    """Reads windows at `offsets` from a step, int64 [W], with a boundary that is not "error"."""

    leases_buffers: bool
    lengths: Index
    """Rows of each trajectory."""
    identity: str
    """Tells whether a saved place means the same here."""

    def find(self, trajectory: int | tuple[int, int]) -> int:
        """Return the position of a trajectory."""

    def read(self, traj: Index, step: Index) -> dict[str, Any]:
        """Return nested `{key: [num_envs, W, ...]}` of windows at steps [num_envs] of trajectories [num_envs]."""


class StoreReader:
    """Windows of transitions out of a store, in one native gather."""

    leases_buffers = True  # each array is alone in its memory, which is only used again when nobody holds the array

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
        self._is_contiguous = _is_contiguous(offsets)
        self._boundary = boundary
        self._num_threads = store.num_threads if num_threads is None else num_threads
        self._bfloat16 = {key for key in self._keys if store.is_bfloat16(key)}
        self.lengths = store.segments.length
        self.identity = store.uuid or _fingerprint(self.lengths)

    def find(self, trajectory: int | tuple[int, int]) -> int:
        if isinstance(trajectory, tuple):
            return self._store.segments.find(*trajectory)
        return _checked(trajectory, len(self.lengths))

    def read(self, traj: Index, step: Index) -> dict[str, Any]:
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


class DatasetReader:
    """Windows out of a data set that keeps a place for each env; it is moved about for every window."""

    def __init__(self, dataset: WindowDataset, keys: Sequence[Key] | None, offsets: Index, boundary: Boundary) -> None:
        self._dataset = dataset
        self._keys = list(dataset.all_keys if keys is None else keys)
        refuse_unreadable(self._keys, boundary)
        self._offsets = offsets
        self._is_contiguous = _is_contiguous(offsets)
        self._boundary = boundary
        self.leases_buffers = getattr(dataset, "leases_buffers", False) is True
        self.lengths = np.asarray(dataset.traj_lengths, dtype=np.int64)
        self.identity = _fingerprint(self.lengths)

    def find(self, trajectory: int | tuple[int, int]) -> int:
        if isinstance(trajectory, tuple):
            raise UnknownSegmentError(f"this data set numbers its trajectories through; found {trajectory!r}")
        return _checked(trajectory, len(self.lengths))

    def read(self, traj: Index, step: Index) -> dict[str, Any]:
        length = self.lengths[traj]
        span = int(self._offsets[-1] - self._offsets[0]) + 1
        first, wanted = step + self._offsets[0], step[:, None] + self._offsets
        if self._boundary == "wrap":
            first = first % length
            pick = np.broadcast_to(self._offsets - self._offsets[0], wanted.shape)
        else:
            # Begin early enough that the window need not pass the end, unless it is longer than the trajectory.
            first = np.clip(first, 0, np.maximum(length - span, 0))
            pick = np.clip(wanted, 0, length[:, None] - 1) - first[:, None]
        envs = range(len(traj))
        self._dataset.update_references(
            dict(zip(envs, traj.tolist(), strict=True)), dict(zip(envs, first.tolist(), strict=True))
        )
        window: dict[Key, NDArray[Any]] = {
            key: self._dataset.fetch_window(envs, key=key, window_size=span) for key in self._keys
        }
        if not (self._is_contiguous and self._boundary == "wrap"):
            window = {key: rows[np.arange(len(traj))[:, None], pick] for key, rows in window.items()}
        if self._boundary == "mask":
            window["mask"] = (wanted >= 0) & (wanted < length[:, None])
        return nested(window)


def refuse_unreadable(keys: Sequence[Key], boundary: Boundary) -> None:
    """Raise `SchemaError` if there is nothing to read, or two of the arrays would have one place in a window."""
    if not keys:
        raise SchemaError("no keys to read windows of")
    nested(dict.fromkeys(keys))
    if boundary == "mask" and "mask" in keys:
        raise SchemaError("boundary='mask' returns its mask as 'mask', which is also one of the keys; name other keys")


def as_bfloat16(bits: NDArray[np.uint16]) -> NDArray[Any]:
    """Return bfloat16 values of the bits a store keeps them as, without a copy."""
    import ml_dtypes  # comes with JAX

    return bits.view(ml_dtypes.bfloat16)


def _is_contiguous(offsets: Index) -> bool:
    return bool((np.diff(offsets) == 1).all())


def _checked(trajectory: int, count: int) -> int:
    if not 0 <= trajectory < count:
        raise OutOfRangeError(f"trajectory {trajectory} is outside [0, {count})")
    return trajectory


def _fingerprint(lengths: Index) -> str:
    return f"{len(lengths)} trajectories, crc32 {zlib.crc32(lengths.tobytes()):08x}"
