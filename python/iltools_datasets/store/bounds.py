"""The smallest and the largest value of each key, measured once and kept beside the manifest."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.files import read_json, write_json
from iltools_datasets.errors import StateError
from iltools_datasets.store.keys import Key, parts_of

if TYPE_CHECKING:
    from iltools_datasets.store.trajectory_store import TrajectoryStore

Bounds = tuple[NDArray[Any], NDArray[Any]]
KEPT = "bounds.json"
_BLOCK_BYTES = 32 << 20


def bounds_of(store: TrajectoryStore) -> dict[Key, Bounds]:
    """Return `{key: (low, high)}`; see `TrajectoryStore.bounds`."""
    found = _kept(store)
    if found is None:
        found = _measured(store)
        # What cannot be kept, on a disk that is full or not ours to write to, is measured again.
        with suppress(OSError):
            _keep(store, found)
    return found


def _measured(store: TrajectoryStore) -> dict[Key, Bounds]:
    """Return the bounds, from one pass over the transitions and the first state of each trajectory."""
    found: dict[Key, Bounds] = {}
    if not len(store):
        return found
    followers = {store.successor(key) for key in store.keys}
    segments = store.segments
    firsts = segments.start[segments.length > 0]
    for key in store.keys:
        if key in followers or store.dtype(key).kind == "c":
            continue
        after = store.successor(key)
        low, high = _extremes(store, key if after is None else after, np.arange(len(store)))
        if after is not None:
            first = _extremes(store, key, firsts)
            low, high = np.minimum(low, first[0]), np.maximum(high, first[1])
        # One number that is not finite leaves no bound that holds for all: minimum and maximum hand NaN on.
        if low.dtype.kind != "f" or (np.isfinite(low).all() and np.isfinite(high).all()):
            found |= dict.fromkeys([key] if after is None else [key, after], (low, high))
    return found


def _extremes(store: TrajectoryStore, key: Key, index: NDArray[np.int64]) -> Bounds:
    row_bytes = store.dtype(key).itemsize * int(np.prod(store.shape(key), dtype=np.int64))
    step = max(1, _BLOCK_BYTES // max(1, row_bytes))
    blocks = (_numbers(store, key, index[begin : begin + step]) for begin in range(0, len(index), step))
    each = [(rows.min(axis=0), rows.max(axis=0)) for rows in blocks]
    return np.min([low for low, _ in each], axis=0), np.max([high for _, high in each], axis=0)


def _numbers(store: TrajectoryStore, key: Key, index: NDArray[np.int64]) -> NDArray[Any]:
    rows = store.gather(index, [key])[key]
    return (rows.astype(np.uint32) << 16).view(np.float32) if store.is_bfloat16(key) else rows


def _about(store: TrajectoryStore) -> dict[str, Any]:
    return {"version": 1, "uuid": store.uuid, "num_transitions": len(store)}


def _keep(store: TrajectoryStore, found: dict[Key, Bounds]) -> None:
    if store.uuid:  # nothing says of a directory that others wrote whether it is still the same
        values = [[list(parts_of(key)), low.tolist(), high.tolist()] for key, (low, high) in found.items()]
        write_json(store.path / KEPT, {**_about(store), "bounds": values})


def _kept(store: TrajectoryStore) -> dict[Key, Bounds] | None:
    """Return what was kept of this very build, or None."""
    try:
        saved = read_json(store.path / KEPT)
        if not store.uuid or {name: saved[name] for name in _about(store)} != _about(store):
            return None
        keys = {parts_of(key): key for key in store.keys}
        found = {
            keys[tuple(key)]: (_array(store, keys[tuple(key)], low), _array(store, keys[tuple(key)], high))
            for key, low, high in saved["bounds"]
        }
    except (StateError, OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    return found


def _array(store: TrajectoryStore, key: Key, values: Any) -> NDArray[Any]:
    array = np.array(values, np.float32 if store.is_bfloat16(key) else store.dtype(key))
    if array.shape != store.shape(key):
        raise ValueError
    return array
