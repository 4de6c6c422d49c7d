"""Where an archive is written to: a directory that appears whole or not at all, or an object store."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store
from zarr.core.buffer import cpu
from zarr.core.sync import sync

from iltools_datasets._base.files import (
    Maker,
    link_or_copy,
    make_directory,
    remove_soon,
    swap,
    sync_directory,
    sync_tree,
)
from iltools_datasets.archive.place import read_bytes
from iltools_datasets.errors import ArchiveExistsError

ROOT_METADATA = "zarr.json"
_UPLOADS = 16


class Target(Protocol):
    """Takes the files of one archive; nothing is visible as an archive before `publish`."""

    def put(self, key: str, data: bytes) -> None:
        """Write the file at `key`, a path below the archive's root, replacing one that is there."""

    def get(self, key: str) -> bytes:
        """Return a file written before."""

    def link(self, key: str, file: Path) -> bool:
        """Take a file that nobody will write to as the one at `key`; tell whether it is shared and not copied."""

    def publish(self, root_metadata: bytes) -> None:
        """Write the root's metadata and make the archive visible."""

    def discard(self, at_once: bool = False) -> None:
        """Remove everything written; `at_once`, where somebody waits, as soon as can be and not by and by."""


class DirectoryTarget:
    """A directory, built beside its final place and renamed into it once every byte is on disk.

    What a killed writer left behind is removed by the next one: each holds a lock on its directory while it lives.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self._path, self._overwrite, self._maker = path, overwrite, Maker()
        self._refuse_existing()
        make_directory(path.parent)
        self._remove_leftovers()
        # Locked before it bears the name under which leftovers are looked for.
        fresh = path.parent / f".{path.name}.new-{uuid.uuid4().hex}"
        fresh.mkdir()
        self._lock = os.open(fresh, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._root = fresh.rename(path.parent / f".{path.name}.partial-{uuid.uuid4().hex}")
        self._made: set[str] = set()

    def put(self, key: str, data: bytes) -> None:
        self._maker.require(self._path)
        self._make_parent(key)
        with (self._root / key).open("wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def get(self, key: str) -> bytes:
        return (self._root / key).read_bytes()

    def link(self, key: str, file: Path) -> bool:
        self._maker.require(self._path)
        self._make_parent(key)
        return link_or_copy(file, self._root / key)

    def publish(self, root_metadata: bytes) -> None:
        self.put(ROOT_METADATA, root_metadata)
        sync_tree(self._root)
        self._refuse_existing()
        if self._path.exists():
            swap(self._root, self._path)
            sync_directory(self._path.parent)
            self._maker.remove_tree(self._root)
        else:
            self._root.rename(self._path)
            sync_directory(self._path.parent)
        self._unlock()

    def discard(self, at_once: bool = False) -> None:
        if at_once and self._maker.is_here:
            remove_soon(self._root)
        else:
            self._maker.remove_tree(self._root)
        self._unlock()

    def _make_parent(self, key: str) -> None:
        parent = key.rpartition("/")[0]
        if parent not in self._made:
            (self._root / parent).mkdir(parents=True, exist_ok=True)
            self._made.add(parent)

    def _unlock(self) -> None:
        # Processes that were forked meanwhile hold the same open file: closing it here would not release the lock.
        if self._maker.is_here:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)

    def _refuse_existing(self) -> None:
        if not self._path.exists():
            return
        if not self._overwrite:
            raise ArchiveExistsError(f"{self._path}: is there already; pass overwrite=True to replace it")
        # Whatever else lies at the path was not written by an archive writer and is not ours to delete.
        if not (self._path / ROOT_METADATA).is_file() and not (self._path / ".zgroup").is_file():
            raise ArchiveExistsError(f"{self._path}: is there already and is not a Zarr archive, so it is not replaced")

    def _remove_leftovers(self) -> None:
        for leftover in self._path.parent.glob(f".{glob.escape(self._path.name)}.partial-*"):
            with contextlib.suppress(OSError):
                descriptor = os.open(leftover, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(leftover, ignore_errors=True)
                finally:
                    os.close(descriptor)


class StoreTarget:
    """A zarr store, for instance a bucket: no renames there, so the root's metadata, written last, publishes it.

    With `overwrite` the old content is deleted first: until the new archive is complete there is none.
    """

    def __init__(self, store: Store, overwrite: bool) -> None:
        self._store, self._maker = store, Maker()
        if read_bytes(store, ROOT_METADATA) is not None:
            if not overwrite:
                raise ArchiveExistsError(f"{store}: holds an archive already; pass overwrite=True to replace it")
            sync(store.delete(ROOT_METADATA))
            sync(store.delete_dir(""))
        self._uploads = ThreadPoolExecutor(_UPLOADS, "iltools-upload")
        self._pending: dict[str, Future[None]] = {}

    def put(self, key: str, data: bytes) -> None:
        self._maker.require(self._store)
        if len(self._pending) >= 2 * _UPLOADS:
            self._wait()
        if key in self._pending:
            self._pending.pop(key).result()
        self._pending[key] = self._uploads.submit(self._upload, key, data)

    def get(self, key: str) -> bytes:
        self._wait()
        content = read_bytes(self._store, key)
        if content is None:
            raise FileNotFoundError(f"{self._store}: {key}")
        return content

    def link(self, key: str, file: Path) -> bool:
        self.put(key, file.read_bytes())
        return False

    def publish(self, root_metadata: bytes) -> None:
        self._maker.require(self._store)
        self._wait()
        self._uploads.shutdown()
        self._upload(ROOT_METADATA, root_metadata)

    def discard(self, at_once: bool = False) -> None:
        if not self._maker.is_here:
            return
        self._uploads.shutdown(cancel_futures=True)
        sync(self._store.delete_dir(""))

    def _upload(self, key: str, data: bytes) -> None:
        sync(self._store.set(key, cpu.Buffer.from_bytes(data)))

    def _wait(self) -> None:
        for upload in self._pending.values():
            upload.result()
        self._pending.clear()
