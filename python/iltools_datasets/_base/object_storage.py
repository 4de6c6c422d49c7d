"""Directories on object storage: read through fsspec, its errors as ours with the URL that they are about.

What is tried again, how often and after how long is the affair of the protocol's client.
"""

from __future__ import annotations

import errno
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import ArgumentError, IltoolsError, MissingExtraError, StorageError

_STREAMS = 8
"""Files that are fetched at once."""
_BLOCK = 8 << 20
"""Bytes asked for at once: a failed request is tried again for so much, and an interrupt waits for no more."""


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Make a StorageError of what a protocol's client raises, with the URL.

    What is not there stays a FileNotFoundError: what it means depends on what was looked for.
    """
    try:
        yield
    except (IltoolsError, FileNotFoundError):
        raise
    except Exception as error:  # each client has a family of its own: botocore's, aiohttp's, asyncio's
        refused = isinstance(error, PermissionError)
        what = "access is refused" if refused else "cannot be read or written"
        raise StorageError(f"{url}: {what}: {type(error).__name__}: {error}") from error


class RemoteDirectory:
    """What lies below a URL.

    Args:
        url: of the directory, such as `s3://bucket/clips`.
        options: for the protocol's client, as fsspec takes them (`key`, `secret`, `endpoint_url`, `anon`, ...).

    Raises:
        MissingExtraError: the protocol's client is not installed.
        ArgumentError: there is no such protocol, or its client does not take these options.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url.rstrip("/")
        protocol = url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            self._files, root = url_to_fs(self.url, **(options or {}))
        except ImportError as error:
            if protocol == "s3" or error.name == "fsspec":
                raise missing_extra("s3", self.url) from error
            raise MissingExtraError(f"{self.url}: {error}") from error
        except (ValueError, TypeError) as error:
            raise ArgumentError(f"{self.url}: expected the URL of an object store, found: {error}") from error
        self._root = str(root).rstrip("/")

    def read(self, name: str, most: int) -> bytes:
        """Return the content of a file of at most so many bytes.

        Raises:
            FileNotFoundError: it is not there.
            StorageError: it cannot be read, or is longer.
        """
        place, url = f"{self._root}/{name}", f"{self.url}/{name}"
        with storage_errors(url):
            self._files.invalidate_cache()
            size = int(self._files.info(place)["size"])
            if size > most:
                raise StorageError(f"{url}: expected at most {most} bytes, found {size}")
            content: bytes = self._files.cat_file(place)
        if len(content) != size:
            raise StorageError(f"{url}: expected {size} bytes, found {len(content)}")
        return content

    def size_of_file(self) -> int | None:
        """Return the bytes of what the URL names if that is a file, else None; raises as `sizes` does."""
        with storage_errors(self.url):
            self._files.invalidate_cache()
            try:
                about = self._files.info(self._root)
            except FileNotFoundError:
                return None
        return int(about["size"]) if about["type"] == "file" else None

    def sizes(self, below: str = "") -> dict[str, int]:
        """Return bytes by name of all files below a directory, none if it is not there.

        Raises:
            StorageError: it cannot be listed, or has a name that leads out of it.
        """
        place = f"{self._root}/{below}".rstrip("/")
        with storage_errors(f"{self.url}/{below}".rstrip("/")):
            self._files.invalidate_cache()
            try:
                found: dict[str, dict[str, Any]] = self._files.find(place, detail=True)
            except FileNotFoundError:
                return {}
        sizes = {}
        for path, about in found.items():
            name = path.removeprefix(f"{self._root}/")
            if about["type"] != "file" or name.endswith("/"):  # a console makes an empty object of a folder
                continue
            if name == path or any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
                raise StorageError(f"{self.url}: the name {name!r} leads out of it")
            sizes[name] = int(about["size"])
        return sizes

    def fetch(self, wanted: Mapping[str, int], into: Path) -> None:
        """Copy files of known sizes to the same names below a directory of this machine, each whole or not at all.

        An error, or an interrupt, leaves those that have come.

        Raises:
            StorageError: one cannot be read, or has another size by now.
            OSError: this machine's disk is full, for instance.
        """
        for parent in {(into / name).parent for name in wanted}:
            parent.mkdir(parents=True, exist_ok=True)
        stopped = threading.Event()
        with ThreadPoolExecutor(_STREAMS, "iltools-fetch") as pool:
            try:
                running = [pool.submit(self._fetch, *entry, into, stopped) for entry in wanted.items()]
                for done in as_completed(running):
                    done.result()
            except BaseException:
                stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch(self, name: str, size: int, into: Path, stopped: threading.Event) -> None:
        url, final = f"{self.url}/{name}", into / name
        unfinished = final.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with unfinished.open("xb", buffering=0) as file:
                done = 0
                for block in self._blocks(name, size):
                    if stopped.is_set():
                        return
                    done += len(block)
                    view = memoryview(block)
                    while view:
                        view = view[file.write(view) :]
            if done != size:
                raise StorageError(f"{url}: expected {size} bytes, found {done}")
            unfinished.replace(final)
        finally:
            unfinished.unlink(missing_ok=True)

    def _blocks(self, name: str, size: int) -> Iterator[bytes]:
        url = f"{self.url}/{name}"
        try:
            with storage_errors(url):
                file = self._files.open(f"{self._root}/{name}", "rb", cache_type="none")
            with file:
                for _ in range(0, size, _BLOCK):
                    with storage_errors(url):
                        block: bytes = file.read(_BLOCK)
                    yield block
        except FileNotFoundError as error:
            raise StorageError(f"{url}: is not there any more") from error


def is_disk_full(error: OSError) -> bool:
    """Tell whether this machine's disk had no room, or no more for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
