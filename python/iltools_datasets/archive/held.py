"""An archive held open: a directory, a zip or an object store, of which files are read and never another's.

What is read here is what lay at the place when it was opened. A directory is held by a descriptor, so once another
archive has been renamed into its place nothing of that is read; `is_current` tells a file that is missing because the
archive was replaced from one that was never written.
"""

from __future__ import annotations

import hashlib
import os
import stat
import weakref
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from iltools_datasets._base.forks import renew_in_child
from iltools_datasets.archive.place import Location, open_place
from iltools_datasets.errors import ArchiveChangedError, SourceError, SourceNotFoundError

ROOT_FILES = ("zarr.json", ".zmetadata", ".zgroup")
"""Files of which one at least lies at the root of a Zarr hierarchy; a new archive brings new ones."""

_DEFLATE_LIMIT = 1032
"""Deflate cannot shrink data further than this, so an entry that claims more is lying."""
_ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    KeyError,
)


class HeldPlace(Protocol):
    """Reads the files of one archive; safe to use from several threads and after a fork."""

    is_remote: bool
    """Whether each file takes a request over a network."""
    is_checked: bool
    """Whether the place itself compares what is read with a checksum."""

    def read(self, key: str, most: int | None = None) -> bytes | None:
        """Return the content of a file below the root, or None if there is none.

        Raises ValueError, before anything is read, for what is no plain file (links are not followed) or has more than
        `most` bytes.
        """

    def read_range(self, key: str, start: int, length: int | None) -> bytes | None:
        """Return `length` bytes of a file from `start` on, to its end if None; a negative `start` counts from there."""

    def exists(self, key: str) -> bool:
        """Tell whether there is such a file."""

    def children(self, path: str) -> tuple[list[str], list[str]]:
        """Return the names of the files and of the directories directly below a directory of the archive."""

    def is_current(self) -> bool:
        """Tell whether the archive held is still the one at its place, with the same root metadata."""

    def close(self) -> None:
        """Let go of it; reading opens it again, or raises ArchiveChangedError if it is another one by then."""


def hold(location: Location) -> HeldPlace:
    """Hold a directory, a zip or a store open.

    Raises SourceNotFoundError if there is nothing at the place, and SourceError if it is neither.
    """
    place = open_place(location, read_only=True)
    if isinstance(place, Store):
        return HeldStore(place)
    if not place.exists():
        raise SourceNotFoundError(f"{place}: no such archive")
    return HeldDirectory(place) if place.is_dir() else HeldZip(place)


class HeldDirectory:
    """A directory held open by its descriptor."""

    is_remote, is_checked = False, False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor, self._close = self._open()
        self._status = os.fstat(self._descriptor)
        self._mark = self._root_mark()

    def __str__(self) -> str:
        return str(self.path)

    def read(self, key: str, most: int | None = None) -> bytes | None:
        return self._read(key, most, 0, None)

    def read_range(self, key: str, start: int, length: int | None) -> bytes | None:
        return self._read(key, None, start, length)

    def exists(self, key: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(key, dir_fd=self._held(), follow_symlinks=False).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def children(self, path: str) -> tuple[list[str], list[str]]:
        descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._held())
        try:
            with os.scandir(descriptor) as entries:
                found = [(entry.name, entry.is_dir()) for entry in entries if not self._leads_up(path, entry)]
        finally:
            os.close(descriptor)
        return [name for name, is_dir in found if not is_dir], [name for name, is_dir in found if is_dir]

    def _leads_up(self, path: str, entry: os.DirEntry[str]) -> bool:
        """Tell whether an entry is a link to a directory above it, which would be gone round without end."""
        if not entry.is_symlink():
            return False
        here = self.path.resolve() / path
        return (here / entry.name).resolve() in (here.resolve(), *here.resolve().parents)

    def is_current(self) -> bool:
        try:
            return os.path.samestat(self._status, self.path.stat()) and self._root_mark() == self._mark
        except OSError:
            return False

    def close(self) -> None:
        self._close()
        self._descriptor = -1

    def _held(self) -> int:
        if self._descriptor < 0:
            self._descriptor, self._close = self._open()
            if not os.path.samestat(self._status, os.fstat(self._descriptor)) or self._root_mark() != self._mark:
                self.close()
                raise ArchiveChangedError(f"{self.path}: was replaced since it was opened; open it again")
        return self._descriptor

    def _open(self) -> tuple[int, Callable[[], object]]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return descriptor, weakref.finalize(self, os.close, descriptor)

    def _root_mark(self) -> tuple[tuple[int, int, int] | None, ...]:
        marks: list[tuple[int, int, int] | None] = []
        for name in ROOT_FILES:
            try:
                status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                marks.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                marks.append(None)
        return tuple(marks)

    def _read(self, key: str, most: int | None, start: int, length: int | None) -> bytes | None:
        # Not through a link, and not waiting for the other end of a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(key, flags, dir_fd=self._held())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if Path(self.path, key).is_symlink():
                raise ValueError("is a link; links inside an archive are not followed") from error
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("is no plain file")
            if most is not None and status.st_size > most:
                raise ValueError(f"has {status.st_size} bytes, expected at most {most}")
            first = max(0, status.st_size + start) if start < 0 else start
            wanted = max(0, status.st_size - first)
            return _pread(descriptor, first, wanted if length is None else min(length, wanted))
        finally:
            os.close(descriptor)


def _pread(descriptor: int, at: int, length: int) -> bytes:
    data = os.pread(descriptor, length, at)
    if len(data) == length:
        return data
    pieces = [data]  # one call returns 2 GiB at most
    while data and (rest := length - sum(map(len, pieces))):
        data = os.pread(descriptor, rest, at + length - rest)
        pieces.append(data)
    return b"".join(pieces)


class HeldZip:
    """A Zarr hierarchy inside a zip, at its top or below the one directory that was zipped."""

    is_remote, is_checked = False, True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._status = path.stat()
        names = self._held().namelist()
        roots = {name[: -len(file)] for file in ROOT_FILES for name in names if f"/{name}".endswith(f"/{file}")}
        self._prefix = min(roots, key=lambda root: (root.count("/"), root), default="")
        self._names = {name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)}
        renew_in_child(self)

    def __str__(self) -> str:
        return str(self.path)

    def read(self, key: str, most: int | None = None) -> bytes | None:
        if key not in self._names:
            return None
        archive = self._held()
        entry = archive.getinfo(self._prefix + key)
        if most is not None and entry.file_size > most:
            raise ValueError(f"has {entry.file_size} bytes, expected at most {most}")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"is packed by method {entry.compress_type} of zip, only deflate is read")
        if entry.file_size > entry.compress_size * (1 if entry.compress_type == zipfile.ZIP_STORED else _DEFLATE_LIMIT):
            raise ValueError(f"claims {entry.file_size} bytes out of {entry.compress_size}")
        try:
            return archive.read(entry)
        except _ZIP_DAMAGE as error:
            raise ValueError(f"cannot be unpacked: {error or type(error).__name__}") from error

    def read_range(self, key: str, start: int, length: int | None) -> bytes | None:
        data = self.read(key)
        if data is None:
            return None
        first = max(0, len(data) + start) if start < 0 else start
        return data[first:] if length is None else data[first : first + length]

    def exists(self, key: str) -> bool:
        return key in self._names

    def children(self, path: str) -> tuple[list[str], list[str]]:
        start = f"{path}/" if path else ""
        below = [name.removeprefix(start).split("/") for name in self._names if name.startswith(start)]
        files = {parts[0] for parts in below if len(parts) == 1 and parts[0]}
        return sorted(files), sorted({parts[0] for parts in below if len(parts) > 1} - files)

    def is_current(self) -> bool:
        try:
            return _same_file(self._status, self.path.stat())
        except OSError:
            return False

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()
        self._zip = None

    def renew(self) -> None:
        self._zip = None  # another thread may have held its lock

    def _held(self) -> zipfile.ZipFile:
        if self._zip is None:
            try:
                self._zip = zipfile.ZipFile(self.path)
            except _ZIP_DAMAGE as error:
                what = f"neither a directory nor a zip that can be read ({error or type(error).__name__})"
                raise SourceError(f"{self.path}: not a Zarr archive: {what}") from error
            if not self.is_current():
                raise ArchiveChangedError(f"{self.path}: was replaced since it was opened; open it again")
        return self._zip


def _same_file(one: os.stat_result, other: os.stat_result) -> bool:
    return os.path.samestat(one, other) and (one.st_mtime_ns, one.st_size) == (other.st_mtime_ns, other.st_size)


class HeldStore:
    """A zarr store, for instance a bucket; that it was replaced is known by its root metadata."""

    is_remote, is_checked = True, False

    def __init__(self, store: Store) -> None:
        self.store = store
        self._mark = self._root_mark()

    def __str__(self) -> str:
        return str(self.store)

    def read(self, key: str, most: int | None = None) -> bytes | None:
        buffer = sync(self.store.get(key, default_buffer_prototype()))
        if buffer is None:
            return None
        if most is not None and len(buffer) > most:
            raise ValueError(f"has {len(buffer)} bytes, expected at most {most}")
        content: bytes = buffer.to_bytes()
        return content

    def read_range(self, key: str, start: int, length: int | None) -> bytes | None:
        raise NotImplementedError("zarr reads ranges of its own stores itself")

    def exists(self, key: str) -> bool:
        return bool(sync(self.store.exists(key)))

    def children(self, path: str) -> tuple[list[str], list[str]]:
        raise NotImplementedError("a store is listed by many requests at once, see listing")

    def is_current(self) -> bool:
        return self._root_mark() == self._mark

    def close(self) -> None:
        """Nothing to let go of: the store is its owner's."""

    def _root_mark(self) -> bytes | None:
        found = (self.read(name) for name in ROOT_FILES)
        return next((hashlib.sha256(content).digest() for content in found if content is not None), None)
