"""Telling whether an archive is still what it was, without reading it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from iltools_datasets.archive.place import Location, as_path_or_url

_TIMES = ("ETag", "etag", "LastModified", "mtime", "updated", "created")
"""What file systems of fsspec call that by which a file that was written again is known."""


def fingerprint(location: Location) -> str | None:
    """Return a digest of the name, size and time (or ETag) of every file of an archive.

    None where that would not tell: a zarr store, which says none of these, links inside a directory, and object stores
    that give no time. An archive that was copied has another one; a file written again with the same bytes, too.
    """
    if isinstance(location, Store):
        return None
    place = as_path_or_url(location)
    files = _local(place) if isinstance(place, Path) else _remote(place)
    digest = hashlib.sha256()
    for line in sorted(files):
        if line == _CANNOT_TELL:
            return None
        digest.update(line.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


_CANNOT_TELL = ""


def _local(root: Path) -> Iterator[str]:
    if not root.is_dir():
        status = root.stat()
        yield f"{status.st_size} {status.st_mtime_ns}"
        return
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield _CANNOT_TELL
                elif entry.is_dir():
                    waiting.append(Path(entry.path))
                else:
                    status = entry.stat()
                    yield f"{os.path.relpath(entry.path, root)} {status.st_size} {status.st_mtime_ns}"


def _remote(url: str) -> Iterator[str]:
    store = FsspecStore.from_url(url, read_only=True)
    for name, about in sync(store.fs._find(store.path, detail=True)).items():
        time = next((about[key] for key in _TIMES if about.get(key)), None)
        yield f"{name} {about['size']} {time}" if time is not None else _CANNOT_TELL
