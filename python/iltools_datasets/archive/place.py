"""Where an archive lies: a local directory or an object store."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TypeAlias

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from iltools_datasets._base.extras import missing_extra

Location: TypeAlias = str | os.PathLike[str] | Store
"""A path, a URL such as `s3://bucket/archive.zarr`, or a zarr store."""

_FILE_SCHEME = "file://"


def as_path_or_url(location: str | os.PathLike[str]) -> Path | str:
    """Return a local location as a path, any other as the URL it is."""
    text = os.fspath(location)
    if text.startswith(_FILE_SCHEME):
        return Path(text.removeprefix(_FILE_SCHEME))
    return text if "://" in text else Path(text)


def open_place(location: Location, read_only: bool) -> Path | Store:
    """Return the directory or the open store; MissingExtraError if its protocol needs a package that is not there."""
    if isinstance(location, Store):
        return location
    place = as_path_or_url(location)
    if isinstance(place, Path):
        return place
    try:
        store: Store = FsspecStore.from_url(place, read_only=read_only)
    except ImportError as error:
        raise missing_extra("s3", f"an archive at {place}") from error
    return store


class OpenDirectory:
    """A directory held open: what is read through it is never that of another one which has taken its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def read(self, key: str) -> bytes:
        """Return the content of a file below the directory; FileNotFoundError if there is none."""
        with open(key, "rb", buffering=0, opener=self._open) as file:
            return file.read()

    def is_current(self) -> bool:
        """Tell whether the directory is still the one at its path."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return False

    def _open(self, key: str, flags: int) -> int:
        return os.open(key, flags, dir_fd=self._descriptor)


def read_bytes(place: OpenDirectory | Store, key: str) -> bytes | None:
    """Return the content of a file below the place, or None if there is none."""
    if isinstance(place, OpenDirectory):
        try:
            return place.read(key)
        except FileNotFoundError:
            return None
    buffer = sync(place.get(key, default_buffer_prototype()))
    return None if buffer is None else buffer.to_bytes()
