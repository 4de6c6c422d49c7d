"""Which clips a Zarr hierarchy holds, nested or packed, and where the rows of each lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.chunks import native_dtype, stated_shape
from iltools_datasets.archive.listing import NO_NAMES, Hierarchy, Metadata
from iltools_datasets.archive.schema import PACKED_INDEX_KEYS, ArraySpec, is_per_state, longest_and_misfit
from iltools_datasets.errors import SchemaError, SourceError

_NESTED_DEPTH = 4
_PACKED_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Clip:
    """One trajectory before it has ids, and where its rows lie.

    In a nested archive each key is an array of its own. In a packed one clips lie back to back: `first_row` is the
    clip's first state, and keys with T - 1 rows have one row less for each clip before it.
    """

    task: tuple[str, str]
    name: str
    num_states: int
    keys: Mapping[str, ArraySpec]
    attributes: Mapping[str, Any]
    group: str
    first_row: int = 0
    clips_before: int = 0
    transition_keys: frozenset[str] = frozenset()
    misfit: str | None = None

    def place(self, key: str) -> tuple[str, int]:
        """Return the path of the array that holds `key` and the clip's first row in it."""
        shift = self.clips_before if key in self.transition_keys else 0
        return f"{self.group}/{key}", self.first_row - shift


def find_clips(
    where: str, hierarchy: Hierarchy, read_array: Callable[[str], NDArray[Any]]
) -> tuple[list[Clip], list[str]]:
    """Return the clips, in no particular order, and a line for each array that belongs to none.

    `read_array(path)` reads a whole array; it is needed for the index of packed clips.
    """
    if "meta/episode_ends" in hierarchy.arrays:
        raise SourceError(f"{where}: is a flat replay (meta/episode_ends); export it to an archive first")
    by_group: dict[tuple[str, ...], dict[str, Metadata]] = {}
    skipped: list[str] = []
    for path, node in hierarchy.arrays.items():
        *parents, key = path.split("/")
        if not NO_NAMES.isdisjoint((*parents, key)):
            raise SourceError(f"{where}: impossible array path {path!r}")
        by_group.setdefault(tuple(parents), {})[key] = node
    clips: list[Clip] = []
    for group, nodes in by_group.items():
        packed = len(group) == _PACKED_DEPTH - 1 and all(key in nodes for key in PACKED_INDEX_KEYS)
        if len(group) != _NESTED_DEPTH - 1 and not packed:
            skipped += [f"{'/'.join((*group, key))}: outside <dataset_source>/<motion>/<trajectory>" for key in nodes]
            continue
        specs = {}
        for key, node in nodes.items():
            spec = _spec(f"{where}/{'/'.join(group)}/{key}", node)
            if spec is None:
                skipped.append(f"{'/'.join((*group, key))}: no row per state")
            else:
                specs[key] = spec
        attributes = hierarchy.groups.get("/".join(group), {})
        if packed:
            clips += _packed_clips(where, group, specs, attributes, read_array)
        elif specs:
            clips.append(_nested_clip(group, specs, attributes))
    if not clips:
        found = f"; found {skipped[0]}" if skipped else "; found no arrays"
        raise SourceError(f"{where}: no trajectories as <dataset_source>/<motion>/<trajectory>/<key>{found}")
    _refuse_twins(where, clips)
    return clips, skipped


def _refuse_twins(where: str, clips: list[Clip]) -> None:
    seen: dict[tuple[tuple[str, str], str], Clip] = {}
    for clip in clips:
        twin = seen.setdefault((clip.task, clip.name), clip)
        if twin is not clip:
            path = "/".join((*clip.task, clip.name))
            raise SourceError(f"{where}: trajectory {path}: is there twice, in {twin.group} and in {clip.group}")


def _spec(where: str, node: Metadata) -> ArraySpec | None:
    try:
        dtype = native_dtype(node)
        shape = stated_shape(node)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{where}: damaged array metadata: {error}") from error
    return ArraySpec(shape, dtype) if dtype is not None and is_per_state(dtype, shape) else None


def _nested_clip(group: tuple[str, ...], specs: Mapping[str, ArraySpec], attributes: Metadata) -> Clip:
    num_states, misfit = longest_and_misfit({key: spec.shape[0] for key, spec in specs.items()})
    task = (group[0], group[1])
    return Clip(task, group[2], num_states, specs, attributes, "/".join(group), misfit=misfit)


def _packed_clips(
    where: str,
    group: tuple[str, ...],
    specs: Mapping[str, ArraySpec],
    attributes: Metadata,
    read_array: Callable[[str], NDArray[Any]],
) -> list[Clip]:
    path = "/".join(group)
    start, length = (_packed_index(where, f"{path}/{key}", specs.get(key), read_array) for key in PACKED_INDEX_KEYS)
    marks = attributes.get("iltools", {})
    names = marks.get("names", [f"traj{number}" for number in range(len(start))])
    motions = marks.get("motions", [group[1]] * len(start))
    own = marks.get("attributes", [{}] * len(start))
    shared = marks.get("shared_attributes", {})
    transition_keys = frozenset(marks.get("transition_keys", ()))
    if not len(start) == len(length) == len(names) == len(motions) == len(own):
        raise SourceError(
            f"{where}: {path}: {len(start)} starts, {len(length)} lengths, {len(names)} names, {len(motions)} motions "
            f"and {len(own)} attributes do not agree"
        )
    for name in chain(motions, names):
        if not isinstance(name, str) or "/" in name:
            raise SourceError(f"{where}: {path}: expected the name of a motion or trajectory, found {name!r}")
    columns = {key: spec for key, spec in specs.items() if key not in PACKED_INDEX_KEYS}
    misfits = _packed_misfits(f"{where}: {path}", columns, transition_keys, start, length)
    clips = []
    told = zip(motions, names, start.tolist(), length.tolist(), own, strict=True)
    for number, (motion, name, first, rows, extra) in enumerate(told):
        keys: Mapping[str, ArraySpec] = _PackedKeys(columns, transition_keys, rows)
        if number in misfits:
            keys = {
                key: _rows_there(spec, columns[key], first - number * (key in transition_keys))
                for key, spec in keys.items()
            }
        clips.append(
            Clip(
                task=(group[0], motion),
                name=name,
                num_states=rows,
                keys=keys,
                attributes={**shared, **extra},
                group=path,
                first_row=first,
                clips_before=number,
                transition_keys=transition_keys,
                misfit=misfits.get(number),
            )
        )
    return clips


def _rows_there(spec: ArraySpec, column: ArraySpec, first: int) -> ArraySpec:
    """Return the spec of a clip's rows as far as the column has them."""
    rows = max(0, min(spec.shape[0], column.shape[0] - first)) if first >= 0 else 0
    return ArraySpec((rows, *spec.shape[1:]), spec.dtype)


class _PackedKeys(Mapping[str, ArraySpec]):
    """The specs of one packed clip, made when asked for: a pack may hold a hundred thousand clips."""

    __slots__ = ("_columns", "_rows", "_transition_keys")

    def __init__(self, columns: Mapping[str, ArraySpec], transition_keys: frozenset[str], rows: int) -> None:
        self._columns, self._transition_keys, self._rows = columns, transition_keys, rows

    def __getitem__(self, key: str) -> ArraySpec:
        column = self._columns[key]
        return ArraySpec((self._rows - (key in self._transition_keys), *column.shape[1:]), column.dtype)

    def __iter__(self) -> Any:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _packed_index(
    where: str, path: str, spec: ArraySpec | None, read_array: Callable[[str], NDArray[Any]]
) -> NDArray[np.int64]:
    if spec is None or len(spec.shape) != 1 or spec.dtype.kind not in "iu":
        raise SourceError(f"{where}: {path}: the index of packed clips must be integers [num_trajectories]")
    return read_array(path).astype(np.int64)


def _packed_misfits(
    where: str,
    columns: Mapping[str, ArraySpec],
    transition_keys: frozenset[str],
    start: NDArray[np.int64],
    length: NDArray[np.int64],
) -> dict[int, str]:
    """Return what is wrong with each packed clip whose rows some column does not have."""
    if not columns:
        raise SchemaError(f"{where}: no array with a row per state")
    if len(start) and (start.min() < 0 or length.min() < 0):
        raise SourceError(f"{where}: negative start or length")
    misfits: dict[int, str] = {}
    for key, spec in columns.items():
        is_transition = key in transition_keys
        first = start - (np.arange(len(start)) if is_transition else 0)
        ends = first + length - is_transition
        for number in np.flatnonzero((ends > spec.shape[0]) | (first < 0)).tolist():
            needed = f"rows {int(first[number])} to {int(ends[number])} are needed"
            misfits.setdefault(number, f"{key!r} has {spec.shape[0]} rows in all, {needed}")
    return misfits
