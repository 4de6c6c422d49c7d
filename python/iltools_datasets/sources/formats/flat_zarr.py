"""Flat Zarr replays, as diffusion policy writes them: all steps in `data/<key>`, and where each episode ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.chunks import native_dtype
from iltools_datasets.archive.held import hold
from iltools_datasets.archive.listing import Hierarchy, list_hierarchy
from iltools_datasets.archive.rows import RowRange, RowReader
from iltools_datasets.archive.schema import ArraySpec, is_per_state
from iltools_datasets.errors import SourceError
from iltools_datasets.sources.protocol import Recording, Source, SourceFile

_EPISODE_ENDS = "meta/episode_ends"


class FlatZarrSource(Source):
    """A directory `*.zarr` or a `*.zarr.zip` with `data/<key> [steps, ...]` and `meta/episode_ends [episodes]`.

    Every episode becomes a trajectory with all keys of `data`, values and dtypes as stored. `episode_ends[i]` is the
    step after the last one of episode i. `fps` is the rate of the recording, which the format does not hold.
    """

    format = "flat-zarr"
    summary = "flat Zarr replay: data/<key> and meta/episode_ends (diffusion policy)"
    suffixes = (".zarr", ".zarr.zip")

    def __init__(self, path: Path | str, *, motion: str | None = None, fps: float | None = None) -> None:
        super().__init__(path, motion=motion)
        self.fps = fps

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_dir():
            ends = path / _EPISODE_ENDS
            return (ends / ".zarray").is_file() or (ends / "zarr.json").is_file()
        return path.name.endswith(".zarr.zip")

    def files(self) -> list[SourceFile]:
        if self.path.is_file() or self.recognises(self.path):
            return [SourceFile(self.path, self.motion or self._stem(self.path))]
        below = sorted(path for path in self.path.rglob("*.zarr*") if self.recognises(path))
        if not below:
            raise SourceError(f"{self.path}: no Zarr group with {_EPISODE_ENDS} at or below it")
        return [SourceFile(path, self.motion or self._stem(path)) for path in below]

    def read(self, file: SourceFile) -> Iterator[Recording]:
        place = hold(file.path)
        hierarchy = list_hierarchy(place)
        rows = RowReader(place, is_consolidated=hierarchy.is_consolidated)
        try:
            yield from self._episodes(file.path, hierarchy, rows)
        finally:
            rows.close()

    def _episodes(self, path: Path, hierarchy: Hierarchy, rows: RowReader) -> Iterator[Recording]:
        keys = _step_keys(path, hierarchy)
        ends = _episode_ends(path, hierarchy, rows, keys)
        first = 0
        for end in ends.tolist():
            ranges = [RowRange(f"data/{key}", hierarchy.arrays[f"data/{key}"], keys[key], first, end) for key in keys]
            yield Recording(dict(zip(keys, rows.read(ranges), strict=True)), fps=self.fps)
            first = end
        self.notes += [
            f"{path}: {array}: {count} chunks are not there and were read as the fill value"
            for array, count in rows.missing.items()
        ]


def _step_keys(path: Path, hierarchy: Hierarchy) -> dict[str, ArraySpec]:
    keys: dict[str, ArraySpec] = {}
    for name, node in hierarchy.arrays.items():
        group, _, key = name.rpartition("/")
        if group == "data":
            dtype, shape = native_dtype(node), tuple(node["shape"])
            if dtype is None or not is_per_state(dtype, shape):
                raise SourceError(f"{path}: {name} is no array of numbers with a row per step")
            keys[key] = ArraySpec(shape, dtype)
    if not keys:
        raise SourceError(f"{path}: no arrays below data/")
    return keys


def _episode_ends(
    path: Path, hierarchy: Hierarchy, rows: RowReader, keys: dict[str, ArraySpec]
) -> NDArray[np.integer[Any]]:
    node = hierarchy.arrays.get(_EPISODE_ENDS)
    if node is None:
        raise SourceError(f"{path}: no {_EPISODE_ENDS}")
    dtype, shape = native_dtype(node), tuple(node["shape"])
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
