"""The clips of one store or of several, numbered through: what they are called, weigh and look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets.errors import ArgumentError, MissingKeyError, OutOfRangeError, SchemaError
from iltools_datasets.motion.kinds import Pieces
from iltools_datasets.motion.lookup import VALID, MotionLookup
from iltools_datasets.store.keys import Key
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.tracking.adaptive import BaseMeasure

Stores = TrajectoryStore | Mapping[str, TrajectoryStore]
Arrays = dict[Key, NDArray[Any]]
_ROWS_AT_ONCE = 1 << 16
_POSES = ("anchor_pos", "anchor_quat", "env_origins")


class Mixture:
    """Clips of all stores, one store after the other, looked up as if they lay in one.

    Args:
        stores: a store, or several by name.
        fps: see `MotionLookup`; for several stores also `{store: fps}`.
        options: of `MotionLookup`, the same for all.

    Attributes:
        lookups: one per store.
        names: of the clips, `<task>/<name>`, behind `<store>/` where there are several.
        first: number of each store's first clip, and of all clips, int64 [stores + 1].
        last: number of each clip's last state, int64 [clips].
        fps: states per second, float64 [clips].

    Raises:
        SchemaError: stores disagree in keys, kinds, rows, or bodies and joints by name; both are named.
        Whatever `MotionLookup` raises.
    """

    def __init__(self, stores: Stores, fps: Any, options: Mapping[str, Any]) -> None:
        several = isinstance(stores, Mapping)
        self.stores: dict[str, TrajectoryStore] = dict(stores) if isinstance(stores, Mapping) else {"": stores}
        if not self.stores or not all(isinstance(store, TrajectoryStore) for store in self.stores.values()):
            found = {name: type(store).__name__ for name, store in self.stores.items()}
            raise ArgumentError(
                f"store: expected a TrajectoryStore, or some by name, found {found if several else stores!r:.80}"
            )
        rates = fps if isinstance(fps, Mapping) else dict.fromkeys(self.stores, fps)
        if unknown := rates.keys() - self.stores.keys():
            raise ArgumentError(f"fps: no store {sorted(map(str, unknown))[0]!r}; there are {list(self.stores)}")
        self.lookups: list[MotionLookup] = []
        for name, store in self.stores.items():
            lookup = MotionLookup(store, fps=rates.get(name), **options)
            if self.lookups:
                lookup = _in_the_order_of(self.lookups[0], lookup, {**options, "fps": rates.get(name)})
                self._compare(self.lookups[0], lookup, next(iter(self.stores)), name)
            self.lookups.append(lookup)
        counts = [store.num_trajectories for store in self.stores.values()]
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.last = np.concatenate([store.core.segments.length for store in self.stores.values()])
        self.fps = np.concatenate([lookup.fps for lookup in self.lookups])
        self.names = [
            f"{name}/{path}" if several else path
            for name, store in self.stores.items()
            for path in store.trajectory_paths
        ]

    @staticmethod
    def _compare(one: MotionLookup, other: MotionLookup, first: str, second: str) -> None:
        for what, mine, theirs in (
            ("keys", one.keys, other.keys),
            ("body names", one.body_names, other.body_names),
            ("joint names", one.joint_names, other.joint_names),
        ):
            if mine != theirs:
                raise SchemaError(f"stores {first!r} and {second!r} disagree in {what}: {mine} and {theirs}")
        for key, dtype, others_dtype in zip(one.keys, one.core.dtypes, other.core.dtypes, strict=True):
            for what, own, others in (
                ("rows", (one.shape(key), str(dtype)), (other.shape(key), str(others_dtype))),
                ("kinds", _merged(one.pieces(key)), _merged(other.pieces(key))),
            ):
                if own != others:
                    raise SchemaError(
                        f"stores {first!r} and {second!r} disagree in {what} of {key!r}: {own} and {others}"
                    )

    @property
    def keys(self) -> list[Key]:
        """What is looked up."""
        return self.lookups[0].keys

    @property
    def seconds(self) -> NDArray[np.float64]:
        """From each clip's first to its last state, float64 [clips]."""
        return np.asarray(self.last / self.fps, dtype=np.float64)

    def row(self, key: Key) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype of one row that is looked up; MissingKeyError for another key."""
        keys = self.keys
        if key not in keys:
            raise MissingKeyError(f"no key {key!r} among those looked up: {keys}")
        return self.lookups[0].shape(key), np.dtype(self.lookups[0].core.dtypes[keys.index(key)])

    def at(
        self,
        clip: NDArray[np.int64],
        time: NDArray[np.float64],
        offsets: ArrayLike,
        keys: Sequence[Key] | None,
        poses: Mapping[str, ArrayLike | None],
        out: Mapping[Key, NDArray[Any]] | None,
    ) -> Arrays:
        """Return the motion at times `[...]` of clips `[...]`; see `MotionLookup.at`."""
        if len(self.lookups) == 1:
            return self.lookups[0].at(clip, time, offsets, keys, **poses, out=out)
        if clip.size and not (clip.min() >= 0 and clip.max() < self.first[-1]):
            raise OutOfRangeError(f"clip: expected numbers below {self.first[-1]}, found {clip.min()} to {clip.max()}")
        store = np.searchsorted(self.first, clip, side="right") - 1
        names = self.keys if keys is None else [keys] if isinstance(keys, str) else list(keys)
        batch = (*clip.shape, np.size(offsets))
        rows = {key: self.row(key) for key in names}
        # Everything is found before anything is written to what the caller gave.
        parts: list[tuple[NDArray[np.bool_], Arrays]] = []
        for number, lookup in enumerate(self.lookups):
            here = store == number
            if here.any() or (number == 0 and not clip.size):
                own: dict[str, Any] = {
                    name: None if pose is None else _part(name, pose, here) for name, pose in poses.items()
                }
                parts.append((here, lookup.at(clip[here] - self.first[number], time[here], offsets, keys, **own)))
        found = {key: _output(out, key, (*batch, *shape), dtype) for key, (shape, dtype) in rows.items()}
        found[VALID] = np.empty(batch, dtype=bool)
        for here, part in parts:
            for key, array in part.items():
                found[key][here] = array
        return found

    def every_state(self) -> Iterator[tuple[MotionLookup, NDArray[np.int64], NDArray[np.float64]]]:
        """Yield clips and times of all states in order, some at once: a look-up there copies rows bit for bit."""
        for lookup in self.lookups:
            states = lookup.store.core.segments.length + 1
            clip = np.repeat(np.arange(len(states)), states)
            frame = np.arange(len(clip)) - np.repeat(np.cumsum(states) - states, states)
            time = frame / lookup.fps[clip]
            for begin in range(0, len(clip), _ROWS_AT_ONCE):
                some = slice(begin, begin + _ROWS_AT_ONCE)
                yield lookup, clip[some], time[some]

    def masses(
        self,
        startable: NDArray[np.bool_],
        base: BaseMeasure,
        clip_weights: NDArray[np.float64],
        weights: Mapping[str, float] | None,
    ) -> NDArray[np.float64]:
        """Return what each clip weighs, float64 [clips], all of them 1.

        Args:
            startable: which clips have bins.
            base: by "time" or by "clip".
            clip_weights: [clips], times that.
            weights: share of each store, in proportion; None = what its clips make.

        Raises:
            ArgumentError: nothing is left, of all or of a store that has a weight.
        """
        mass = (self.seconds if base == "time" else np.ones(len(self.last))) * clip_weights * startable
        if weights is not None:
            total = sum(weights.values())
            for number, name in enumerate(self.stores):
                own = slice(self.first[number], self.first[number + 1])
                share = mass[own].sum()
                if weights[name] > 0 and not share > 0:
                    raise ArgumentError(
                        f"weights: store {name!r} has no clip that can be started in and weighs anything"
                    )
                mass[own] *= weights[name] / total / share if share > 0 else 0.0
        if not mass.sum() > 0:
            raise ArgumentError("clip_weights: no clip that can be started in has a positive weight")
        return np.asarray(mass / mass.sum(), dtype=np.float64)

    def checked_weights(self, weights: Any) -> dict[str, float]:
        """Return the weight of each store; ArgumentError unless each has one, none negative, not all zero."""
        if list(self.stores) == [""]:
            raise ArgumentError("weights: there is one store; they are for several, by name")
        if not isinstance(weights, Mapping) or set(weights) != set(self.stores):
            raise ArgumentError(f"weights: expected a number for each of {list(self.stores)}, found {weights!r:.80}")
        values = _numbers("weights", list(weights.values()))
        return dict(zip(weights, values.tolist(), strict=True))

    def checked_clip_weights(self, weights: Any, before: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a weight per clip, [clips], of an array or of `{name: weight}`, which leaves the others as before.

        Raises ArgumentError for a name that is not there or not the only one, another length, negative or all zero.
        """
        if isinstance(weights, Mapping):
            places = [self._find(name) for name in weights]
            weights, values = before.copy(), list(weights.values())
            weights[places] = values if values else ()
        array = _numbers("clip_weights", weights)
        if array.shape != before.shape:
            raise ArgumentError(f"clip_weights: expected [{len(before)}], found shape {list(array.shape)}")
        return array

    def _find(self, name: Any) -> int:
        places = [number for number, known in enumerate(self.names) if known == name]
        if len(places) != 1:
            found = "no clip of this name" if not places else f"{len(places)} clips of this name"
            raise ArgumentError(f"clip_weights: {name!r}: {found}; the first clip is {self.names[0]!r}")
        return places[0]


def _in_the_order_of(first: MotionLookup, other: MotionLookup, options: Mapping[str, Any]) -> MotionLookup:
    """Return a look-up with bodies and joints as another store has them, where only their order differs."""
    reordered = {
        what: list(wanted)
        for what, wanted, found in (
            ("bodies", first.body_names, other.body_names),
            ("joints", first.joint_names, other.joint_names),
        )
        if wanted is not None and found is not None and wanted != found and sorted(wanted) == sorted(found)
    }
    keys = first.keys if set(first.keys) == set(other.keys) else other.keys
    if not reordered and keys == other.keys:
        return other
    return MotionLookup(other.store, **{**options, **reordered, "keys": keys})


def _merged(pieces: Pieces) -> list[tuple[str, int]]:
    """Return kinds with the columns that follow each other of each, however they were picked."""
    groups = groupby(pieces, lambda piece: piece.kind)
    return [(kind, sum(piece.width for piece in of)) for kind, of in groups]


def _numbers(name: str, values: Any) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise ArgumentError(f"{name}: expected numbers, found {values!r:.80}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all() or (array < 0).any() or not array.sum() > 0:
        raise ArgumentError(f"{name}: expected finite numbers, none negative and not all zero, found {values!r:.80}")
    return array


def _part(name: str, pose: ArrayLike, here: NDArray[np.bool_]) -> NDArray[Any]:
    array = np.asarray(pose)
    if array.shape[: here.ndim] != here.shape:
        raise ArgumentError(f"{name}: expected rows {list(here.shape)}, found {list(array.shape)}")
    return np.asarray(array[here])


def _output(
    out: Mapping[Key, NDArray[Any]] | None, key: Key, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    if key not in out:
        raise MissingKeyError(f"out: no array for key {key!r}")
    array = out[key]
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype or not array.flags.writeable:
        found = f"{getattr(array, 'dtype', type(array).__name__)} {list(np.shape(array))}"
        raise ArgumentError(f"out: key {key!r}: expected a writeable {dtype} array {list(shape)}, found {found}")
    if not array.flags.c_contiguous:
        raise ArgumentError(f"out: key {key!r}: expected a C-contiguous array")
    return array


def rows_of(key: Key, lookup: MotionLookup, clip: NDArray[np.int64], time: NDArray[np.float64]) -> NDArray[Any]:
    """Return a key's rows at some times, `[n, *row]`; see `Mixture.every_state`."""
    return lookup.rows_at(key, clip, time)


def pose_of(part: int, lookup: MotionLookup, clip: NDArray[np.int64], time: NDArray[np.float64]) -> NDArray[Any]:
    """Return the anchor's positions `[n, 3]` (0) or rotations wxyz `[n, 4]` (1) at some times."""
    return lookup.anchor_at(clip, time)[part]
