"""Members of an `.npz` file, without trusting it: nothing is unpickled, no size is believed unchecked."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from iltools_datasets.archive.schema import ArraySpec
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.sources.formats.npy_header import read_npy_header

_PERIODS = ("dt", "timestep")
RATE_KEYS = ("fps", "frequency", "framerate", "frame_rate", "mocap_framerate", "mocap_frame_rate", *_PERIODS)
"""Members that state a rate, the last ones in seconds per state."""

_DEFLATE_LIMIT = 1032
"""Deflate cannot shrink data further than this, so an entry that claims more is lying."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError, KeyError)


class Npz:
    """An open `.npz` file; use it as a context manager. Members to `skip` are as if they were not there.

    Headers are read, and compared with the sizes of their entries, when the file is opened; values when asked for.

    Attributes:
        arrays: key -> shape and dtype of every member that holds plain values.
        unreadable: members that hold pickled Python objects, which are never read.

    Raises:
        SourceNotFoundError: there is no file.
        SourceError: the file is no zip, is cut, or a member's header asks for more or less than the member holds.
    """

    def __init__(self, path: Path, skip: Collection[str] = ()) -> None:
        self.path = path
        self._skip = skip
        self.arrays: dict[str, ArraySpec] = {}
        self.unreadable: list[str] = []
        if not path.is_file():
            raise SourceNotFoundError(f"{path}: no such file")
        with self._naming("not a readable npz"):
            self._zip = zipfile.ZipFile(path)
        try:
            self._entries = self._list()
        except BaseException:
            self._zip.close()
            raise

    def read(self, key: str) -> NDArray[Any]:
        """Return a member's values, writable and in native byte order; SourceError if it is missing or damaged."""
        if key in self.unreadable:
            raise SourceError(f"{self.path}: {key!r} is a pickled object, which is never read")
        if key not in self.arrays:
            raise SourceError(f"{self.path}: no member {key!r}, there are {sorted(self.arrays)}")
        with self._naming(f"member {key!r} is damaged"), self._zip.open(self._entries[key]) as member:
            values: NDArray[Any] = npy.read_array(member, allow_pickle=False)
            if member.read(1):
                raise ValueError("more bytes than its header says")
        if values.dtype.byteorder == ">":
            values = values.astype(values.dtype.newbyteorder("="))
        return values

    def require(self, keys: Iterable[str]) -> None:
        """Raise SourceError naming the first key that is not there."""
        for key in keys:
            if key not in self.arrays:
                raise SourceError(f"{self.path}: no member {key!r}, there are {sorted(self.arrays)}")

    def number(self, key: str) -> float:
        """Return the one number that a member holds, whatever its shape: a text of one, or one for every state, too."""
        values = self.read(key)
        if values.dtype.kind in "US" and values.size == 1:
            with suppress(ValueError):
                values = values.astype(np.float64)
        if not values.size or values.dtype.kind not in "biuf" or (values != values.flat[0]).any():
            raise SourceError(f"{self.path}: {key!r} should be one number, found {values.dtype} {list(values.shape)}")
        return float(values.flat[0])

    def rate(self, key: str) -> float:
        """Return the one number that a member holds, which must be positive and finite."""
        value = self.number(key)
        if not (np.isfinite(value) and value > 0):
            raise SourceError(f"{self.path}: {key!r} should be a positive rate, found {value}")
        return value

    def stated_rate(self) -> float | None:
        """Return the states per second that a member states, by any of the names writers give it, or None.

        Raises SourceError for one that is no rate.
        """
        for key in RATE_KEYS:
            if not self.is_empty(key):
                return 1 / self.rate(key) if key in _PERIODS else self.rate(key)
        return None

    def names(self, key: str) -> list[str] | None:
        """Return the strings that a member holds, or None if it is missing, empty or holds something else."""
        if key not in self.arrays or self.arrays[key].dtype.kind not in "US" or len(self.arrays[key].shape) != 1:
            return None
        return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in self.read(key)]

    def is_empty(self, key: str) -> bool:
        """Tell whether a member is missing or holds no values, as some writers mark what they have not."""
        return key not in self.arrays or 0 in self.arrays[key].shape

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()

    def _list(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            key = entry.filename.removesuffix(".npy")
            if key == entry.filename:
                continue
            if key in self._skip:
                continue
            if key in entries:
                raise SourceError(f"{self.path}: member {key!r} is there twice")
            entries[key] = entry
            with self._naming(f"member {key!r} is damaged"):
                self._check(key, entry)
        return entries

    def _check(self, key: str, entry: zipfile.ZipInfo) -> None:
        size_on_disk = self.path.stat().st_size
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"is packed by method {entry.compress_type} of zip, only deflate is read")
        limit = entry.compress_size * (1 if entry.compress_type == zipfile.ZIP_STORED else _DEFLATE_LIMIT)
        if entry.compress_size > size_on_disk or entry.file_size > limit:
            raise ValueError(f"claims {entry.file_size} bytes, the file has {size_on_disk}")
        with self._zip.open(entry) as member:
            shape, dtype = read_npy_header(member)
            header_bytes = member.tell()
        if dtype.hasobject:
            self.unreadable.append(key)
            return
        needed = prod(shape) * dtype.itemsize
        if any(extent < 0 for extent in shape) or header_bytes + needed != entry.file_size:
            raise ValueError(
                f"its header asks for {dtype} {list(shape)}, {needed} bytes; it holds {entry.file_size - header_bytes}"
            )
        self.arrays[key] = ArraySpec(shape, dtype.newbyteorder("="))

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        try:
            yield
        except SourceError:
            raise
        except _DAMAGE as error:
            raise SourceError(f"{self.path}: {what}: {error or type(error).__name__}") from error


def member_names(path: Path) -> frozenset[str]:
    """Return the keys of an `.npz` from its directory alone, none if it is no readable zip; for telling formats."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return frozenset()
    status = path.stat()
    return _member_names(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _member_names(path: Path, size: int, changed: int) -> frozenset[str]:
    # A dozen formats ask for the same file one after the other.
    try:
        with zipfile.ZipFile(path) as file:
            return frozenset(name.removesuffix(".npy") for name in file.namelist())
    except _DAMAGE:
        return frozenset()
