"""Building a store, one trajectory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets._base.local_path import local_path
from iltools_datasets._base.plain_json import as_json
from iltools_datasets.errors import ArgumentError, SchemaError
from iltools_datasets.store.keys import Key, parts_of, public
from iltools_datasets.store.segments import Segment

__all__ = ["StoreBuilder"]

Parts = tuple[str, ...]
View = tuple[Parts, Parts, int, tuple[int, ...]]
"""A key, the column it is read from, its first element there, its row's shape."""


class StoreBuilder:
    """Builds a store, one trajectory at a time; nothing is visible to readers before the `with` block ends well.

    Args:
        path: directory of the store; made if it is not there.
        overwrite: replace a store that is there already. Open readers keep the old one until they reopen.
        concat: `{new key: [state keys]}`: store these state arrays of each trajectory as one column, flattened and side
            by side, and read each of them as part of it. They must be of one dtype.
            Each is a part of one of them.
        alias: `{new key: transition or state key}`: a second name for the same bytes, parts of `concat` included.
        attributes: what to keep with the data (rate, joint names, provenance), as JSON: numbers come back to the bit.
        append: add to the store that is there, whose layout `concat` and `alias` have to give again: what is added
            comes behind what is there, in files of its own. The store keeps its uuid and, but for those given here,
            its attributes; rows keep their index, readers and streams what they have, until `refresh`.

    Raises:
        ArgumentError: the path is a URL.
        SchemaError: a part is in two places, or a NaN or an infinity among the attributes, which JSON cannot hold.
        StoreExistsError: a store is there and `overwrite` is False; or, whatever it is, the directory is a Zarr archive
            or has a `manifest.json` that is no store's.
        StoreBusyError: another process builds there; the message has its pid.
        StoreNotFoundError: there is no store to add to.

    Examples:
        >>> with StoreBuilder("built", attributes={"motion": {"fps": 50.0}}) as builder:
        ...     for number in range(2):
        ...         states = {"observation": np.zeros((11, 4), np.float32)}
        ...         builder.add(0, number, states, {"action": np.ones((10, 2), np.float32)})
        Segment(task_id=0, traj_id=0, start=0, length=10)
        Segment(task_id=0, traj_id=1, start=10, length=10)
        >>> len(TrajectoryStore.open("built"))
        20
    """

    def __init__(
        self,
        path: str | Path,
        overwrite: bool = False,
        *,
        concat: Mapping[str, Sequence[str]] | None = None,
        alias: Mapping[Key, Key] | None = None,
        attributes: Mapping[str, Any] | None = None,
        append: bool = False,
    ) -> None:
        self.path = local_path(path)
        self._concat = {key: list(parts) for key, parts in (concat or {}).items()}
        _check_concat(self._concat)
        self._alias = {parts_of(new): parts_of(old) for new, old in (alias or {}).items()}
        self.attributes: dict[str, Any] = dict(attributes or {})
        """What will be kept with the data; more may be added until `publish`."""
        self._task_names: dict[int, str] = {}
        self._is_published = False
        if append and overwrite:
            raise ArgumentError("append=True adds to the store that overwrite=True replaces: pass one of them")
        text = as_json(self.attributes, "attributes")
        self._writer = (
            _core.StoreWriter.add(str(self.path)) if append else _core.StoreWriter(str(self.path), overwrite, text)
        )
        if append:
            # Under the lock: nobody changes them until this build is over.
            self.attributes = {**json.loads(_core.Store.open(str(self.path), "pread").attributes), **self.attributes}

    def add_alias(self, new: Key, old: Key) -> None:
        """Give a transition or state key a second name, as `alias` does; before the first trajectory."""
        self._alias[parts_of(new)] = parts_of(old)

    def __enter__(self) -> StoreBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif not self._is_published:
            try:
                self.publish()
            except BaseException:
                self.abort()
                raise

    def add(
        self,
        task_id: int,
        traj_id: int,
        states: Mapping[Key, NDArray[Any]],
        transitions: Mapping[Key, NDArray[Any]] | None = None,
        name: str | None = None,
        task_name: str | None = None,
    ) -> Segment:
        """Append a trajectory of T states and return its segment of T - 1 transitions.

        Args:
            task_id: the task; any integer.
            traj_id: the trajectory within it; the pair must be new.
            states: `{key: [T, ...]}`. Each is readable as `key` and, one row further, as `("next", key)`.
            transitions: `{key: [T - 1, ...]}`.
            name: where the trajectory came from, kept in the store.
            task_name: name of the task, kept in the store.

        Raises:
            SchemaError: keys, dtypes, lengths or trailing shapes disagree, among these arrays or with earlier ones.
                Nothing has been written then, and the build can go on.
            DuplicateTrajectoryError: the pair of ids was added before.
        """
        label = f"task {task_id}, trajectory {traj_id}" + (f" ({name})" if name else "")
        state_columns = {parts_of(key): _array(label, key, value) for key, value in states.items()}
        transition_columns = {parts_of(key): _array(label, key, value) for key, value in (transitions or {}).items()}
        parts = self._join(label, state_columns)
        views = self._views(label, parts, {**state_columns, **transition_columns})
        start, length = self._writer.append(
            task_id, traj_id, name, list(state_columns.items()), list(transition_columns.items()), views
        )
        if task_name is not None:
            self._task_names[task_id] = task_name
        return Segment(task_id, traj_id, start, length)

    def _join(self, label: str, columns: dict[Parts, NDArray[Any]]) -> list[View]:
        """Replace the parts of concatenations by the whole; return where in it each part lies."""
        views: list[View] = []
        for whole, names in self._concat.items():
            missing = [name for name in names if (name,) not in columns]
            if missing:
                raise SchemaError(f"{label}: key {missing[0]!r} is missing; {whole!r} is made of {names}")
            parts = [columns.pop((name,)) for name in names]
            if (whole,) in columns:
                raise SchemaError(f"{label}: key {whole!r} is given, and is what {names} are made into")
            if len({part.dtype for part in parts}) > 1:
                found = {name: str(part.dtype) for name, part in zip(names, parts, strict=True)}
                raise SchemaError(f"{label}: the parts of {whole!r} differ in dtype: {found}")
            if len({len(part) for part in parts}) > 1:
                lengths = {name: len(part) for name, part in zip(names, parts, strict=True)}
                raise SchemaError(f"{label}: the parts of {whole!r} differ in length: {lengths}")
            widths = [math.prod(part.shape[1:]) for part in parts]
            for name, part, width, end in zip(names, parts, widths, accumulate(widths), strict=True):
                views.append(((name,), (whole,), end - width, part.shape[1:]))
            flat = [part.reshape(len(part), width) for part, width in zip(parts, widths, strict=True)]
            columns[(whole,)] = np.concatenate(flat, axis=1)
        return views

    def _views(self, label: str, parts: list[View], columns: dict[Parts, NDArray[Any]]) -> list[View]:
        """Return every key that is read from another column: the parts of concatenations, and aliases of either."""
        views = [view for view in parts if view[0] != view[1]]
        known: dict[Parts, tuple[Parts, int, tuple[int, ...]]] = {
            **{key: (key, 0, array.shape[1:]) for key, array in columns.items()},
            **{key: (source, offset, shape) for key, source, offset, shape in views},
        }
        for new, old in self._alias.items():
            if old not in known:
                raise SchemaError(f"{label}: key {public(old)!r} is missing; {public(new)!r} is another name for it")
            known.setdefault(new, known[old])
            views.append((new, *known[old]))
        return views

    def publish(self) -> str:
        """Make the store visible and return its uuid. Raises `SchemaError` if no trajectory was added."""
        return self._end(lambda: self._writer.publish(self._task_names))

    def adopt(self, spool: Path) -> str:
        """Make the finished store in `spool`, a directory within `path`, this one: moved, not copied; return its uuid.

        In the steps and the order of `publish`, so a kill leaves the old store or the new one. The attributes are this
        builder's, everything else is the spool's. Raises ValueError if trajectories were added here, or if `spool` lies
        elsewhere, and as opening it does; the build is over then.
        """
        return self._end(lambda: self._writer.adopt(str(spool)))

    def _end(self, publish: Callable[[], str]) -> str:
        self._writer.set_attributes(as_json(self.attributes, "attributes"))
        uuid = publish()
        self._is_published = True
        return uuid

    def abort(self) -> None:
        """Drop everything written so far; a store that was there before stays as it was."""
        self._writer.abort()


def _check_concat(concat: Mapping[str, Sequence[str]]) -> None:
    seen: dict[str, str] = {}
    for whole, names in concat.items():
        if not names:
            raise SchemaError(f"concat: {whole!r} is made of no keys")
        for name in names:
            if name in seen:
                raise SchemaError(
                    f"concat: key {name!r} is a part of {seen[name]!r} and again of {whole!r}; a part has one place"
                )
            seen[name] = whole


def _array(label: str, key: Key, value: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(value)
    if array.ndim == 0:
        raise SchemaError(f"{label}: key {key!r}: expected an array [T, ...], found a scalar")
    if array.dtype.byteorder not in "=|":
        array = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(array)
