"""Flat Zarr replays, as diffusion policy writes them: all steps in `data/<key>`, and where each episode ends."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.chunks import native_dtype, stated_shape
from iltools_datasets.archive.foreign import missing_codec, refuse_objects
from iltools_datasets.archive.held import hold
from iltools_datasets.archive.listing import Hierarchy, list_hierarchy
from iltools_datasets.archive.rows import RowRange, RowReader
from iltools_datasets.archive.schema import ArraySpec, is_per_state
from iltools_datasets.errors import SourceError
from iltools_datasets.motion.orders import ORDERS
from iltools_datasets.sources.formats.further import quaternion_keys
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource, turned
from iltools_datasets.sources.walk import below, has_ending, without_ending

_EPISODE_ENDS = "meta/episode_ends"


class FlatZarrSource(ToldSource):
    """A directory `*.zarr` or a zip of one, with `data/<key> [steps, ...]` and `meta/episode_ends [episodes]`.

    Every episode becomes a trajectory with all keys of `data`, values and dtypes as stored; arrays that hold no numbers
    (texts), or whose codec is not installed, are left out and said. `episode_ends[i]` is the step after the last one of
    episode i. The format does not hold a rate (`fps`). With a `quaternion_order`, keys whose name says quaternion are
    brought to wxyz from it; without one they stay as they are.
    """

    format = "flat-zarr"
    summary = "flat Zarr replay: data/<key> and meta/episode_ends (diffusion policy)"
    suffixes = (".zarr", ".zarr.zip")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_dir():
            ends = path / _EPISODE_ENDS
            return (ends / ".zarray").is_file() or (ends / "zarr.json").is_file()
        return path.is_file() and zipfile.is_zipfile(path) and _zip_holds_ends(path)

    def _below(self) -> list[Path]:
        if self.recognises(self.path):
            return [self.path]
        found = [path for path in below(self.path, self.recognises, self.note) if self.recognises(path)]
        if not found:
            raise SourceError(f"{self.path}: no Zarr group with {_EPISODE_ENDS} at or below it")
        return found

    def _stem(self, path: Path) -> str:
        return without_ending(path, (*self.suffixes, ".zip"))

    def read(self, file: SourceFile) -> Iterator[Recording]:
        place = hold(file.path)
        hierarchy = list_hierarchy(place)
        rows = RowReader(place, is_consolidated=hierarchy.is_consolidated)
        try:
            yield from self._episodes(file.path, hierarchy, rows)
        finally:
            rows.close()

    def _episodes(self, path: Path, hierarchy: Hierarchy, rows: RowReader) -> Iterator[Recording]:
        keys = self._step_keys(path, hierarchy)
        ends = _episode_ends(path, hierarchy, rows, keys)
        attributes = {}
        for what in ("joint_names", "body_names"):
            if (names := getattr(self, what)) is not None:
                attributes[what] = names
        first = 0
        for end in ends.tolist():
            ranges = [RowRange(f"data/{key}", hierarchy.arrays[f"data/{key}"], keys[key], first, end) for key in keys]
            arrays = dict(zip(keys, rows.read(ranges), strict=True))
            quaternions = list(quaternion_keys(arrays)) if self.quaternion_order in ORDERS else []
            for key in quaternions:
                assert self.quaternion_order in ORDERS
                arrays[key] = turned(arrays[key], (0,), self.quaternion_order)
            yield Recording(arrays, fps=self.fps, quaternions=dict.fromkeys(quaternions, (0,)), attributes=attributes)
            first = end
        for array, count in rows.missing.items():
            self.about(path, f"{array}: {count} chunks are not there and were read as the fill value")

    def _step_keys(self, path: Path, hierarchy: Hierarchy) -> dict[str, ArraySpec]:
        keys: dict[str, ArraySpec] = {}
        for name, node in hierarchy.arrays.items():
            group, _, key = name.rpartition("/")
            if group != "data" or key in self.skip:
                continue
            spec, why_not = _spec(f"{path}: {name}", node)
            if spec is None:
                self.about(path, f"left out {name!r}: {why_not}")
            else:
                keys[key] = spec
        if not keys:
            reasons = "".join(f"; {note.partition(': ')[2]}" for note in self.notes if "left out 'data/" in note)
            raise SourceError(f"{path}: no arrays below data/ that can be read{reasons}")
        return keys


def _spec(where: str, node: Mapping[str, Any]) -> tuple[ArraySpec | None, str]:
    """Return shape and dtype of an array with a row of numbers per step, or None and why it is none."""
    try:
        dtype, shape = native_dtype(node), stated_shape(node)
        missing = missing_codec(node)
        refuse_objects(where, node)
    except SourceError as error:
        return None, str(error).removeprefix(f"{where}: ")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{where}: damaged array metadata: {error}") from error
    if missing is not None:
        return None, missing
    if dtype is None or not is_per_state(dtype, shape):
        return None, "it is no array of numbers with a row per step"
    return ArraySpec(shape, dtype), ""


def _zip_holds_ends(path: Path) -> bool:
    if has_ending(path, (".zarr.zip",)):
        return True
    ends = tuple(f"/{_EPISODE_ENDS}/{name}" for name in (".zarray", "zarr.json"))
    try:
        with zipfile.ZipFile(path) as file:
            return any(f"/{name}".endswith(ends) for name in file.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _episode_ends(
    path: Path, hierarchy: Hierarchy, rows: RowReader, keys: dict[str, ArraySpec]
) -> NDArray[np.integer[Any]]:
    node = hierarchy.arrays.get(_EPISODE_ENDS)
    if node is None:
        raise SourceError(f"{path}: no {_EPISODE_ENDS}")
    try:
        dtype, shape = native_dtype(node), stated_shape(node)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: {_EPISODE_ENDS}: damaged array metadata: {error}") from error
    if dtype is None or dtype.kind not in "iu" or len(shape) != 1 or not shape[0]:
        raise SourceError(f"{path}: {_EPISODE_ENDS} must be integers [episodes], found {dtype} {list(shape)}")
    ends = rows.read([RowRange(_EPISODE_ENDS, node, ArraySpec(shape, dtype), 0, shape[0])])[0].astype(np.int64)
    falls = np.flatnonzero(np.diff(ends, prepend=0) <= 0)
    if falls.size:
        raise SourceError(f"{path}: {_EPISODE_ENDS} must rise; episode {falls[0]} ends at step {ends[falls[0]]}")
    for key, spec in keys.items():
        if spec.shape[0] != ends[-1]:
            raise SourceError(f"{path}: data/{key} has {spec.shape[0]} steps, the last episode ends at {ends[-1]}")
    return ends
