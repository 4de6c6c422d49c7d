"""What appears on disk whole or not at all, and goes away by the hand of the process that made it alone."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from iltools_datasets.errors import StateError

_SYNC_ALL_ABOVE = 256
"""Files above which one sync of the whole system is cheaper than one of each (a tenth of a millisecond per file)."""

_PATIENCE = 0.1
"""Seconds that who has interrupted is kept waiting for what is being removed."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


_UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
"""Another file system, one without links, or a file that has as many as it may."""


class Maker:
    """The process that makes something on disk.

    A forked copy of it ends like any program: finalisers run, `with` blocks are left, exceptions pass. What these would
    finish or clear away is the other's, so they ask here first.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is that process, and no copy of it."""
        return self._pid == os.getpid()

    def require(self, what: object) -> None:
        """Raise ValueError in a copy."""
        if not self.is_here:
            raise ValueError(f"{what}: is being written by process {self._pid}, of which this one is a copy")

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with all below it, as far as that is possible; in a copy, nothing."""
        if self.is_here:
            shutil.rmtree(path, ignore_errors=True)


def remove_soon(path: Path, seconds: float = _PATIENCE) -> None:
    """Remove a directory with all below it, for so long; what is left by then goes by a process of its own.

    For whoever is interrupted: a hundred thousand files take longer to remove than anybody waits for.
    """
    deadline = time.monotonic() + seconds
    for directory, below, names in os.walk(path, topdown=False):
        here = Path(directory)
        for entry in (*(here / name for name in names), *(here / name for name in below)):
            if time.monotonic() > deadline:
                _begin(["rm", "-rf", "--", os.fspath(path)])
                return
            with suppress(OSError):
                entry.unlink()  # of a directory it is refused, and of a link to one it is the link
        with suppress(OSError):
            here.rmdir()


def _begin(command: list[str]) -> int:
    """Begin a process that an interrupt of this one leaves alone, and that keeps no stream open; return its id."""
    nowhere = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    return os.posix_spawnp(command[0], command, os.environ, file_actions=nowhere, setpgroup=0)


def bytes_below(directory: Path) -> int:
    """Return the bytes of all files below a directory; those that go meanwhile have none."""
    found, waiting = 0, [os.fspath(directory)]
    while waiting:
        with suppress(FileNotFoundError, PermissionError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return found


def link_or_copy(file: Path, target: Path) -> bool:
    """Make a file that nobody will write to appear at `target`, too; tell whether it is shared and not copied.

    It is copied where the file system has no links, or is another one. Any other error is raised.
    """
    try:
        os.link(file, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        shutil.copy2(file, target, follow_symlinks=False)
        return False
    return True


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, so that their names survive a crash of the machine."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_directory(made.parent)


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of the one at `path` when the block ends well; an error leaves the old one.

    A kill leaves the old file or the new one, and after a crash of the machine it is one of them, too. The directory is
    made if it is missing.
    """
    maker = Maker()
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        maker.require(path)
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        if maker.is_here:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    """Replace the file at `path` by content as JSON, as `replaced_file` does."""
    with replaced_file(path) as file:
        file.write(json.dumps(content, indent=indent).encode())


def swap(one: Path, other: Path) -> None:
    """Exchange two directories of one file system.

    In one step where Linux can; elsewhere in three, between which `other` is missing for an instant.
    """
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        paths = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
        if renameat2 is not None and renameat2(*paths, _RENAME_EXCHANGE) == 0:
            return
    aside = other.with_name(f"{one.name}-swap")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a crash of the machine."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(path: Path) -> None:
    """Bring a directory with all below it to disk: what is in files first, then their names."""
    found = list(_walk(path))
    if len(found) > _SYNC_ALL_ABOVE and sys.platform == "linux":
        _sync_all()
        return
    for each in found:
        _sync(each, os.O_RDONLY)


def _walk(directory: Path) -> Iterator[Path]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
    yield directory


def _sync_all() -> None:
    """Bring all that was written on this machine to disk; Linux returns only when everything is there.

    No signal gets through to a process that waits for that, so one of its own does, which an interrupt leaves behind.
    """
    try:
        is_done = os.waitpid(_begin(["sync"]), 0)[1] == 0
    except OSError:  # there is no such command, or a process that ignores SIGCHLD is not told how its own ended
        is_done = False
    if not is_done:
        os.sync()


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """Return the content of a file written by `write_json`; `StateError` if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StateError(f"{path}: there is no saved state") from error
    except ValueError as error:
        raise StateError(f"{path}: damaged saved state: {error}") from error
