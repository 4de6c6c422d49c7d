"""Building a store, one trajectory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets.errors import SchemaError
from iltools_datasets.store.keys import Key, parts_of, public
from iltools_datasets.store.segments import Segment

__all__ = ["StoreBuilder"]


class StoreBuilder:
    """Builds a store, one trajectory at a time; nothing is visible to readers before the `with` block ends well.

    Args:
        path: directory of the store; made if it is not there.
        overwrite: replace a store that is there already. Open readers keep the old one until they reopen.
        concat: `{new key: [state keys]}`: store these state arrays of each trajectory as one column, flattened and side
            by side, and read each of them as part of it. They must be of one dtype.
        alias: `{new key: transition or state key}`: a second name for the same bytes.
        attributes: JSON-serialisable things to keep with the data (rate, joint names, provenance).

    Raises:
        StoreExistsError: a store is there and `overwrite` is False.
        StoreBusyError: another process builds there; the message has its pid.

    Example:
        >>> with StoreBuilder(path) as builder:
        ...     builder.add(0, 0, states={"observation": observation}, transitions={"action": action})
    """

    def __init__(
        self,
        path: str | Path,
        overwrite: bool = False,
        *,
        concat: Mapping[str, Sequence[str]] | None = None,
        alias: Mapping[Key, Key] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self._concat = {key: list(parts) for key, parts in (concat or {}).items()}
        self._alias = {parts_of(new): parts_of(old) for new, old in (alias or {}).items()}
        self.attributes: dict[str, Any] = dict(attributes or {})
        """What will be kept with the data; more may be added until `publish`."""
        json.dumps(self.attributes)
        self._views_declared = False
        self._task_names: dict[int, str] = {}
        self._writer = _core.StoreWriter(str(self.path), overwrite)

    def __enter__(self) -> StoreBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.publish()
        else:
            self.abort()

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
        slices = self._join(label, state_columns)
        if not self._views_declared:
            self._declare_views(label, slices, {**state_columns, **transition_columns})
        start, length = self._writer.append(
            task_id, traj_id, name, list(state_columns.items()), list(transition_columns.items())
        )
        if task_name is not None:
            self._task_names[task_id] = task_name
        return Segment(task_id, traj_id, start, length)

    def _join(
        self, label: str, columns: dict[tuple[str, ...], NDArray[Any]]
    ) -> list[tuple[str, str, int, tuple[int, ...]]]:
        """Replace the parts of concatenations by the whole; return (part, whole, first element, row shape) of each."""
        slices = []
        for whole, names in self._concat.items():
            missing = [name for name in names if (name,) not in columns]
            if missing:
                raise SchemaError(f"{label}: key {missing[0]!r} is missing; {whole!r} is made of {names}")
            parts = [columns.pop((name,)) for name in names]
            if len({part.dtype for part in parts}) > 1:
                found = {name: str(part.dtype) for name, part in zip(names, parts, strict=True)}
                raise SchemaError(f"{label}: the parts of {whole!r} differ in dtype: {found}")
            if len({len(part) for part in parts}) > 1:
                lengths = {name: len(part) for name, part in zip(names, parts, strict=True)}
                raise SchemaError(f"{label}: the parts of {whole!r} differ in length: {lengths}")
            offset = 0
            for name, part in zip(names, parts, strict=True):
                slices.append((name, whole, offset, part.shape[1:]))
                offset += math.prod(part.shape[1:])
            columns[(whole,)] = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        return slices

    def _declare_views(
        self,
        label: str,
        slices: list[tuple[str, str, int, tuple[int, ...]]],
        columns: dict[tuple[str, ...], NDArray[Any]],
    ) -> None:
        for new, old in self._alias.items():
            if old not in columns:
                raise SchemaError(f"{label}: key {public(old)!r} is missing; {public(new)!r} is another name for it")
        for part, whole, offset, shape in slices:
            if part != whole:
                self._writer.add_view((part,), (whole,), offset, shape)
        for new, old in self._alias.items():
            self._writer.add_view(new, old, 0, columns[old].shape[1:])
        self._views_declared = True

    def publish(self) -> str:
        """Make the store visible and return its uuid. Raises `SchemaError` if no trajectory was added."""
        return self._writer.publish(self._task_names, json.dumps(self.attributes))

    def abort(self) -> None:
        """Drop everything written so far; a store that was there before stays as it was."""
        self._writer.abort()


def _array(label: str, key: Key, value: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(value)
    if array.ndim == 0:
        raise SchemaError(f"{label}: key {key!r}: expected an array [T, ...], found a scalar")
    if array.dtype.byteorder not in "=|":
        array = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(array)
