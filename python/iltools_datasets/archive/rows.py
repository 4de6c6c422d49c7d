"""Rows of an archive's arrays: read concurrently, decoded once, missing chunks counted or refused."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, product
from math import prod
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.forks import renew_in_child
from iltools_datasets.archive.chunks import ChunkEncoding, chunk_encoding
from iltools_datasets.archive.codecs import codecs_of, has_checksum
from iltools_datasets.archive.foreign import open_foreign
from iltools_datasets.archive.held import HeldPlace
from iltools_datasets.archive.listing import read_array_metadata
from iltools_datasets.archive.schema import ArraySpec
from iltools_datasets.errors import ArchiveChangedError, ArchiveCorruptError, SourceError, StorageError

_SERIAL_BELOW = 1 << 19
"""Bytes below which a read stays on the calling thread: handing over costs more than decoding."""
_CACHE_BYTES = 32 << 20
_MAX_THREADS = 16
_LARGE_CHUNK = 256 << 20
_CHUNK_OF_ARRAY = 16
"""A large chunk that is so many times as large as its whole array was not made by anybody who had the array."""
_MOST_CHUNKS = 1 << 22
_LARGE_READ = 1 << 30
_SAMPLES = 64
_DAMAGE = (ValueError, RuntimeError, OSError, MemoryError, ArithmeticError, KeyError, TypeError)


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
    absent: list[tuple[RowRange, str]]
    """Where it notes a chunk that is not there."""


class RowReader:
    """Reads row ranges of many arrays of one archive; safe to use from several threads and after a fork.

    With `all_chunks_written` a chunk that is not there is damage; otherwise it stands for its fill value, as Zarr has
    it, and is counted in `missing`. Where the archive has been replaced meanwhile it is neither, but an error that says
    so. `is_consolidated` says that arrays need no metadata of their own beside that at the root.
    """

    def __init__(self, place: HeldPlace, all_chunks_written: bool = False, is_consolidated: bool = False) -> None:
        self.missing: dict[str, int] = {}
        self.all_chunks_written = all_chunks_written
        self._place = place
        self._is_consolidated = is_consolidated
        self._seen_missing: set[tuple[str, str]] = set()
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Forget threads, their locks and what they may have been in the middle of."""
        self._lock = Lock()
        self._cache: OrderedDict[tuple[str, tuple[int, ...]], NDArray[Any]] = OrderedDict()
        self._cached_bytes = 0
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """End the threads, let go of decoded chunks and of the place. Reading begins anew."""
        with self._lock:
            ahead, self._ahead = self._ahead, None
        if ahead is not None:
            # First, as what it is reading may need the others.
            ahead.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            pool, self._pool = self._pool, None
            self._cache.clear()
            self._cached_bytes = 0
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        self._place.close()

    def is_checked(self, metadata: Mapping[str, Any]) -> bool:
        """Tell whether what is read of an array is compared with a checksum, its own or the zip's it lies in."""
        try:
            return self._place.is_checked or has_checksum(codecs_of(metadata))
        except (KeyError, TypeError, AttributeError):
            return False  # damaged metadata, which reading the array will say

    def read(self, ranges: Sequence[RowRange]) -> list[NDArray[Any]]:
        """Return the rows of each range as fresh, writable arrays in native byte order.

        Raises:
            ArchiveCorruptError: a chunk is cut, altered, no plain file, or missing although all were written.
            ArchiveChangedError: the archive was replaced since it was opened, and what is asked for went with it.
            SourceError: the array cannot be read at all: its metadata is damaged, its codec is not there.
        """
        results: list[NDArray[Any]] = []
        jobs: list[_ChunkJob] = []
        foreign: list[tuple[RowRange, Any, NDArray[Any]]] = []
        absent: list[tuple[RowRange, str]] = []
        for rows in ranges:
            encoding = self._encoding(rows)
            if encoding is None:
                array = self._open_foreign(rows)
                out = self._allocate(rows)
                foreign.append((rows, array, out))
            else:
                self._refuse_impossible(rows, encoding)
                out = self._allocate(rows)
                jobs += [_ChunkJob(rows, encoding, index, out, absent) for index in _chunk_indices(rows, encoding)]
            results.append(out)
        if len(foreign) > 1:
            absent += chain.from_iterable(self._threads().map(self._read_foreign, *zip(*foreign, strict=True)))
        elif foreign:
            absent += self._read_foreign(*foreign[0])
        # A file in memory is read faster than a thread is woken; a request to a store is not.
        if len(jobs) > 1 and (self._place.is_remote or sum(out.nbytes for out in results) >= _SERIAL_BELOW):
            list(self._threads().map(self._run, jobs))
        else:
            for job in jobs:
                self._run(job)
        if absent:
            self._account(absent)
        return results

    def _account(self, absent: Sequence[tuple[RowRange, str]]) -> None:
        """Count chunks that stand for their fill value, unless they are missing because the archive was replaced."""
        for path, rows in {rows.path: rows for rows, _ in absent}.items():
            self._refuse_replaced(path, rows)
        with self._lock:
            for rows, key in absent:
                if (rows.path, key) not in self._seen_missing:
                    self._seen_missing.add((rows.path, key))
                    self.missing[rows.path] = self.missing.get(rows.path, 0) + 1

    def _refuse_replaced(self, path: str, rows: RowRange) -> None:
        if self._place.is_current():
            now = read_array_metadata(self._place, path)
            is_same = now is not None and _layout_of(now) == _layout_of(rows.metadata)
            if is_same:
                return
            if self._is_consolidated:
                raise ArchiveCorruptError(
                    f"{self._place}/{path}: its own metadata and the consolidated metadata at the root disagree"
                )
        raise ArchiveChangedError(f"{self._place}/{path}: the archive was replaced since it was opened; open it again")

    def _encoding(self, rows: RowRange) -> ChunkEncoding | None:
        try:
            encoding = chunk_encoding(rows.metadata)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError) as error:
            raise SourceError(f"{self._place}/{rows.path}: damaged array metadata: {error}") from error
        if encoding is not None:
            self._refuse_chunk_shape(rows, encoding.chunk_shape)
        return encoding

    def _refuse_chunk_shape(self, rows: RowRange, chunk_shape: tuple[int, ...]) -> None:
        where = f"{self._place}/{rows.path}: chunk shape {chunk_shape}"
        if len(chunk_shape) != len(rows.spec.shape) or any(size < 1 for size in chunk_shape):
            raise SourceError(f"{where} does not fit shape {rows.spec.shape}")
        chunk_bytes = prod(chunk_shape) * rows.spec.dtype.itemsize
        array_bytes = prod(rows.spec.shape) * rows.spec.dtype.itemsize
        if chunk_bytes > max(_LARGE_CHUNK, _CHUNK_OF_ARRAY * array_bytes):
            raise SourceError(f"{where} takes {chunk_bytes} bytes, the whole array {array_bytes}")

    def _refuse_impossible(self, rows: RowRange, encoding: ChunkEncoding) -> None:
        # Before memory is asked for: metadata that promises more than was written must not allocate terabytes.
        if 0 in rows.shape or prod(rows.shape) <= prod(encoding.chunk_shape):
            return
        if not self.all_chunks_written:
            self._refuse_nothing_but_claims(rows, encoding.chunk_shape, encoding.key)
            return
        ends = (rows.stop, *rows.spec.shape[1:])
        last = tuple((end - 1) // size for end, size in zip(ends, encoding.chunk_shape, strict=True))
        key = encoding.key(last)
        if not self._place.exists(f"{rows.path}/{key}"):
            raise self._missing_error(rows, key)

    def _refuse_nothing_but_claims(
        self, rows: RowRange, chunk_shape: tuple[int, ...], key_of: Callable[[tuple[int, ...]], str]
    ) -> None:
        """Raise SourceError for gigabytes of which nothing was written, where chunks may be missing."""
        axes = _chunk_axes(rows, chunk_shape)
        count = prod(axis.stop - axis.start for axis in axes)  # len() of a lie may not fit
        size = prod(rows.shape) * rows.spec.dtype.itemsize
        claim = f"{self._place}/{rows.path}: claims {size} bytes in {count} chunks"
        if count > _MOST_CHUNKS:
            raise SourceError(f"{claim}, which nobody wrote")
        if size > _LARGE_READ:
            spread = (tuple(axis[len(axis) * at // _SAMPLES] for axis in axes) for at in range(_SAMPLES))
            if not any(self._place.exists(f"{rows.path}/{key_of(index)}") for index in spread):
                raise SourceError(f"{claim}, of which none is there")

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
        key = job.encoding.key(job.index)
        where = f"{self._place}/{job.rows.path}/{key}"
        try:
            data = self._place.read(f"{job.rows.path}/{key}", job.encoding.file_bytes)
        except (ValueError, OSError) as error:
            if isinstance(error, SourceError | StorageError):
                raise
            raise ArchiveCorruptError(f"{where}: {error}") from error
        if data is None:
            if self.all_chunks_written:
                raise self._missing_error(job.rows, key)
            job.absent.append((job.rows, key))
            return None
        try:
            return job.encoding.decode(data)
        except _DAMAGE as error:
            self._refuse_replaced(job.rows.path, job.rows)
            raise ArchiveCorruptError(f"{where}: damaged chunk ({len(data)} bytes): {error}") from error

    def _missing_error(self, rows: RowRange, key: str) -> SourceError:
        try:
            self._refuse_replaced(rows.path, rows)
        except SourceError as error:
            return error
        return ArchiveCorruptError(
            f"{self._place}/{rows.path}/{key}: chunk is missing from an archive that was written with every chunk"
        )

    def _open_foreign(self, rows: RowRange) -> Any:
        """Return the array as zarr-python has it; what is only claimed is refused before memory is asked for."""
        with self._errors_of_zarr(rows):
            array = open_foreign(self._place, rows.path, rows.metadata)
            chunk_shape = array.metadata.chunk_grid.chunk_shape
            self._refuse_chunk_shape(rows, chunk_shape)
            self._refuse_nothing_but_claims(rows, chunk_shape, array.metadata.encode_chunk_key)
        return array

    def _read_foreign(self, rows: RowRange, array: Any, out: NDArray[Any]) -> list[tuple[RowRange, str]]:
        """Read by zarr-python; return the chunks, or shards, that were not there."""
        with self._errors_of_zarr(rows):
            out[...] = array[rows.start : rows.stop]
            indices = () if 0 in rows.shape else product(*_chunk_axes(rows, array.metadata.chunk_grid.chunk_shape))
            keys = map(array.metadata.encode_chunk_key, indices)  # of shards, where there are some
            absent = [(rows, key) for key in keys if not self._place.exists(f"{rows.path}/{key}")]
        self._refuse_replaced(rows.path, rows)
        if absent and self.all_chunks_written:
            raise self._missing_error(rows, absent[0][1])
        return absent

    @contextmanager
    def _errors_of_zarr(self, rows: RowRange) -> Iterator[None]:
        """Turn what zarr-python raises into one error: it trusts its metadata, and for hostile ones raises anything."""
        try:
            yield
        except SourceError:
            raise
        except Exception as error:
            self._refuse_replaced(rows.path, rows)
            raise ArchiveCorruptError(f"{self._place}/{rows.path}: zarr cannot read it: {error}") from error

    def submit_ahead(self, read: Callable[[], Any]) -> Future[Any]:
        """Have something read that is wanted next, by a thread for that; `close` cancels what it has not begun.

        The thread ends with the reader and not with who asks: an iterator that nobody holds any more is closed by the
        garbage collector, on any thread and in the middle of anything, also of starting one, and must not wait for
        threads.
        """
        with self._lock:
            if self._ahead is None:
                self._ahead = ThreadPoolExecutor(1, "iltools-read-ahead")
            return self._ahead.submit(read)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                count = _MAX_THREADS if self._place.is_remote else min(_MAX_THREADS, os.cpu_count() or 1)
                self._pool = ThreadPoolExecutor(count, "iltools-archive")
            return self._pool


def _layout_of(metadata: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what must not change under a reader: shape, type and chunks as both formats have them."""
    return tuple(metadata.get(name) for name in ("shape", "dtype", "chunks", "data_type", "chunk_grid"))


def _chunk_indices(rows: RowRange, encoding: ChunkEncoding) -> Iterable[tuple[int, ...]]:
    return () if 0 in rows.shape else product(*_chunk_axes(rows, encoding.chunk_shape))


def _chunk_axes(rows: RowRange, chunk_shape: tuple[int, ...]) -> list[range]:
    """Return the numbers of the chunks along each axis that a range of rows lies in."""
    first, *others = chunk_shape
    axes = [range(rows.start // first, -(-rows.stop // first))]
    return axes + [range(-(-extent // size)) for extent, size in zip(rows.spec.shape[1:], others, strict=True)]
