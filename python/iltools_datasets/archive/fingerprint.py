"""Telling whether an archive is still what it was, without reading it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from iltools_datasets.archive.place import Location, open_place

_TIMES = ("ETag", "etag", "LastModified", "mtime", "updated", "created")
"""What file systems of fsspec call that by which a file that was written again is known."""


def fingerprint(location: Location) -> str | None:
    """Return a digest of the name, size and time (or ETag) of every file of an archive.

    None where that would not tell: a zarr store, which says none of these, links inside a directory, object stores that
    give no time, and what cannot be listed. An archive that was copied has another one; a file written again with the
    same bytes, too.

    Raises MissingExtraError and SourceError for a URL that nothing here opens.
    """
    if isinstance(location, Store):
        return None
    place = open_place(location, read_only=True)
    try:
        files = sorted(_local(place) if isinstance(place, Path) else _remote(place))
    except (OSError, NotImplementedError):
        return None
    if not files or _CANNOT_TELL in files:
        return None
    digest = hashlib.sha256()
    for line in files:
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


def _remote(store: Store) -> Iterator[str]:
    # A web server has no list of its files, and what fsspec reads out of its pages may be anything.
    if not isinstance(store, FsspecStore) or "http" in store.fs.protocol:
        yield _CANNOT_TELL
        return
    for name, about in sync(store.fs._find(store.path, detail=True)).items():
        time = next((about[key] for key in _TIMES if about.get(key)), None)
        yield f"{name} {about['size']} {time}" if time is not None else _CANNOT_TELL
