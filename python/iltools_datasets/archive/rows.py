"""Rows of an archive's arrays: read concurrently, decoded once, missing chunks counted or refused."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr import Array
from zarr.abc.store import Store

from iltools_datasets.archive.chunks import ChunkEncoding, chunk_encoding
from iltools_datasets.archive.place import OpenDirectory, read_bytes
from iltools_datasets.archive.schema import ArraySpec
from iltools_datasets.errors import ArchiveCorruptError, SourceError

_SERIAL_BELOW = 1 << 19
"""Bytes below which a read stays on the calling thread: handing over costs more than decoding."""
_CACHE_BYTES = 32 << 20
_MAX_THREADS = 16
_ZARRS = "zarrs.ZarrsCodecPipeline"
_HAS_ZARRS = getattr(find_spec("zarrs"), "origin", None) is not None
"""The optional package `zarrs` decodes shards faster than zarr-python's own codecs."""
_ZARRS_LOCK = Lock()


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows [start, stop) of the array at `path` below the archive's root."""

    path: str
    metadata: Mapping[str, Any]
    spec: ArraySpec
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return (self.stop - self.start, *self.spec.shape[1:])

    @property
    def is_whole(self) -> bool:
        """Whether every row is asked for."""
        return self.start == 0 and self.stop == self.spec.shape[0]


@dataclass(frozen=True, slots=True)
class _ChunkJob:
    rows: RowRange
    encoding: ChunkEncoding
    index: tuple[int, ...]
    out: NDArray[Any]


class RowReader:
    """Reads row ranges of many arrays of one archive; safe to use from several threads and after a fork.

    With `all_chunks_written` a chunk that is not there is damage; otherwise it stands for its fill value, as Zarr has
    it, and is counted in `missing`.
    """

    def __init__(self, place: Path | Store, all_chunks_written: bool = False) -> None:
        self.missing: dict[str, int] = {}
        self.all_chunks_written = all_chunks_written
        self._place = place
        self._is_local = isinstance(place, Path)
        self._open = OpenDirectory(place) if isinstance(place, Path) else place
        self._lock = Lock()
        self._seen_missing: set[tuple[str, tuple[int, ...]]] = set()
        self._cache: OrderedDict[tuple[str, tuple[int, ...]], NDArray[Any]] = OrderedDict()
        self._cached_bytes = 0
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = -1

    def is_current(self) -> bool:
        """Tell whether what is read is still what lies at the place, and not an archive replaced since."""
        return not isinstance(self._open, OpenDirectory) or self._open.is_current()

    def read(self, ranges: Sequence[RowRange]) -> list[NDArray[Any]]:
        """Return the rows of each range as fresh, writable arrays in native byte order."""
        results: list[NDArray[Any]] = []
        jobs: list[_ChunkJob] = []
        foreign: list[tuple[RowRange, NDArray[Any]]] = []
        for rows in ranges:
            encoding = self._encoding(rows)
            if encoding is None:
                out = self._allocate(rows)
                foreign.append((rows, out))
            else:
                self._refuse_impossible(rows, encoding)
                out = self._allocate(rows)
                jobs += [_ChunkJob(rows, encoding, index, out) for index in _chunk_indices(rows, encoding)]
            results.append(out)
        if foreign:
            list(self._threads().map(self._read_foreign, foreign))
        # A file in memory is read faster than a thread is woken; a request to a store is not.
        if len(jobs) > 1 and (not self._is_local or sum(out.nbytes for out in results) >= _SERIAL_BELOW):
            list(self._threads().map(self._run, jobs))
        else:
            for job in jobs:
                self._run(job)
        return results

    def _encoding(self, rows: RowRange) -> ChunkEncoding | None:
        try:
            encoding = chunk_encoding(rows.metadata)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SourceError(f"{self._place}/{rows.path}: damaged array metadata: {error}") from error
        if encoding is not None and (
            len(encoding.chunk_shape) != len(rows.spec.shape) or any(size < 1 for size in encoding.chunk_shape)
        ):
            raise SourceError(
                f"{self._place}/{rows.path}: chunk shape {encoding.chunk_shape} does not fit shape {rows.spec.shape}"
            )
        return encoding

    def _refuse_impossible(self, rows: RowRange, encoding: ChunkEncoding) -> None:
        # Before memory is asked for: metadata that promises more than was written must not allocate terabytes.
        if not self.all_chunks_written or 0 in rows.shape or prod(rows.shape) <= prod(encoding.chunk_shape):
            return
        ends = (rows.stop, *rows.spec.shape[1:])
        last = tuple((end - 1) // size for end, size in zip(ends, encoding.chunk_shape, strict=True))
        key = _chunk_key(rows, encoding, last)
        if read_bytes(self._open, key) is None:
            raise self._missing_error(key)

    def _allocate(self, rows: RowRange) -> NDArray[Any]:
        try:
            return np.empty(rows.shape, rows.spec.dtype)
        except (MemoryError, ValueError) as error:
            raise SourceError(f"{self._place}/{rows.path}: no memory for shape {rows.shape}") from error

    def _run(self, job: _ChunkJob) -> None:
        sizes, shape = job.encoding.chunk_shape, job.rows.spec.shape
        chunk = self._chunk(job)
        source, target = [], []
        for axis, (position, size) in enumerate(zip(job.index, sizes, strict=True)):
            low, high = position * size, min((position + 1) * size, shape[axis])
            first, last = (job.rows.start, job.rows.stop) if axis == 0 else (0, shape[axis])
            low_wanted, high_wanted = max(low, first), min(high, last)
            source.append(slice(low_wanted - low, high_wanted - low))
            target.append(slice(low_wanted - first, high_wanted - first))
        job.out[tuple(target)] = job.encoding.fill_value if chunk is None else chunk[tuple(source)]

    def _chunk(self, job: _ChunkJob) -> NDArray[Any] | None:
        name = (job.rows.path, job.index)
        if job.rows.is_whole:
            return self._decode(job)
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        chunk = self._decode(job)
        if chunk is not None and chunk.nbytes <= _CACHE_BYTES:
            with self._lock:
                self._cached_bytes += 0 if name in self._cache else chunk.nbytes
                self._cache[name] = chunk
                while self._cached_bytes > _CACHE_BYTES:
                    self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return chunk

    def _decode(self, job: _ChunkJob) -> NDArray[Any] | None:
        key = _chunk_key(job.rows, job.encoding, job.index)
        data = read_bytes(self._open, key)
        if data is None:
            if self.all_chunks_written:
                raise self._missing_error(key)
            self._count_missing(job.rows.path, job.index)
            return None
        try:
            return job.encoding.decode(data)
        except (ValueError, RuntimeError, OSError, MemoryError, ArithmeticError) as error:
            raise ArchiveCorruptError(f"{self._place}/{key}: damaged chunk ({len(data)} bytes): {error}") from error

    def _missing_error(self, key: str) -> ArchiveCorruptError:
        return ArchiveCorruptError(
            f"{self._place}/{key}: chunk is missing from an archive that was written with every chunk"
        )

    def _count_missing(self, path: str, index: tuple[int, ...]) -> None:
        with self._lock:
            if (path, index) not in self._seen_missing:
                self._seen_missing.add((path, index))
                self.missing[path] = self.missing.get(path, 0) + 1

    def _read_foreign(self, request: tuple[RowRange, NDArray[Any]]) -> None:
        rows, out = request
        where = f"{self._place}/{rows.path}"
        try:
            array = self._open_with_zarr(rows.path)
            out[...] = array[rows.start : rows.stop]
            missing = prod(array.cdata_shape) - array.nchunks_initialized
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ArchiveCorruptError(f"{where}: zarr cannot read it: {error}") from error
        if missing and self.all_chunks_written:
            raise ArchiveCorruptError(f"{where}: {missing} chunks missing from an archive written with every chunk")
        if missing:
            with self._lock:
                self.missing[rows.path] = missing

    def _open_with_zarr(self, path: str) -> Array[Any]:
        if not (self._is_local and _HAS_ZARRS):
            return zarr.open_array(self._place, path=path, mode="r")
        # An array keeps the pipeline it was opened with; the setting itself belongs to the whole process.
        with _ZARRS_LOCK, zarr.config.set({"codec_pipeline.path": _ZARRS}):
            return zarr.open_array(self._place, path=path, mode="r")

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._pool_pid != os.getpid():
                count = min(_MAX_THREADS, os.cpu_count() or 1) if self._is_local else _MAX_THREADS
                self._pool, self._pool_pid = ThreadPoolExecutor(count, "iltools-archive"), os.getpid()
            return self._pool


def _chunk_key(rows: RowRange, encoding: ChunkEncoding, index: tuple[int, ...]) -> str:
    return f"{rows.path}/{encoding.key(index)}"


def _chunk_indices(rows: RowRange, encoding: ChunkEncoding) -> Iterable[tuple[int, ...]]:
    if 0 in rows.shape:
        return ()
    first, *others = encoding.chunk_shape
    axes: list[Iterable[int]] = [range(rows.start // first, -(-rows.stop // first))]
    axes += [range(-(-extent // size)) for extent, size in zip(rows.spec.shape[1:], others, strict=True)]
    return product(*axes)
