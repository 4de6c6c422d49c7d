"""Where an archive lies: a local directory or an object store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.local_path import is_url, local_path
from iltools_datasets._base.object_storage import storage_errors
from iltools_datasets.errors import SourceError

Location: TypeAlias = str | os.PathLike[str] | Store
"""A path, a URL such as `s3://bucket/archive.zarr`, or a zarr store."""


class _UrlStore(FsspecStore):  # type: ignore[misc]
    """What lies at a URL; what its protocol refuses or fails is a StorageError with the URL of the file."""

    url = ""

    def __str__(self) -> str:
        return self.url

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        with storage_errors(f"{self.url}/{key}"):
            return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        with storage_errors(f"{self.url}/{key}"):
            await super().set(key, value, byte_range)

    async def exists(self, key: str) -> bool:
        with storage_errors(f"{self.url}/{key}"):
            return bool(await super().exists(key))

    async def delete(self, key: str) -> None:
        with storage_errors(f"{self.url}/{key}"):
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with storage_errors(f"{self.url}/{prefix}"):
            await super().delete_dir(prefix)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with storage_errors(f"{self.url}/{prefix}"):
            async for name in super().list_dir(prefix):
                yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with storage_errors(f"{self.url}/{prefix}"):
            async for name in super().list_prefix(prefix):
                yield name


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
        store = _UrlStore.from_url(place, read_only=read_only)
    except ImportError as error:
        raise missing_extra("s3", f"an archive at {place}") from error
    except ValueError as error:
        raise SourceError(f"{place}: expected a path or the URL of an object store, found no such protocol") from error
    store.url = place.rstrip("/")
    return store


def read_bytes(store: Store, key: str) -> bytes | None:
    """Return the content of a file in a store, or None if there is none."""
    buffer = sync(store.get(key, default_buffer_prototype()))
    return None if buffer is None else buffer.to_bytes()
