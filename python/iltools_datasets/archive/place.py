"""Where an archive lies: a local directory or an object store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.local_path import is_url, local_path
from iltools_datasets.errors import SourceError

Location: TypeAlias = str | os.PathLike[str] | Store
"""A path, a URL such as `s3://bucket/archive.zarr`, or a zarr store."""


def as_path_or_url(location: str | os.PathLike[str]) -> Path | str:
    """Return a local location as a path, any other as the URL it is."""
    return os.fspath(location) if is_url(location) else local_path(location)


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
    except ValueError as error:
        raise SourceError(f"{place}: expected a path or the URL of an object store, found no such protocol") from error
    return store


def read_bytes(store: Store, key: str) -> bytes | None:
    """Return the content of a file in a store, or None if there is none."""
    buffer = sync(store.get(key, default_buffer_prototype()))
    return None if buffer is None else buffer.to_bytes()
