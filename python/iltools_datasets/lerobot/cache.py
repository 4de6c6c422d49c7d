"""The store of a set's numbers, built once into a cache; whoever finds a build in progress waits for it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iltools_datasets._base.cache_directory import default_cache, name_in_cache
from iltools_datasets._base.files import make_directory
from iltools_datasets.errors import SourceError, StoreBusyError, StoreError
from iltools_datasets.lerobot.build import ALIAS, build_store
from iltools_datasets.lerobot.episodes import TASKS_V2, TASKS_V3, episode_files, read_episodes
from iltools_datasets.lerobot.info import INFO, LeRobotInfo
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.trajectory_store import TrajectoryStore

_LAYOUT = 1
"""Counted up when the same files would give another store."""
_PAUSE = 0.05  # s between two looks at a build of another process


@dataclass(frozen=True, slots=True)
class CachedStore:
    """A set's open store.

    Attributes:
        store: the store.
        directory: where further files about the set may be kept, None where nothing can be written.
        notes: what the build found, and why there is no cache.
    """

    store: TrajectoryStore
    directory: Path | None
    notes: tuple[str, ...]

    @property
    def nan(self) -> Mapping[str, list[tuple[int, int, int]]]:
        """Feature -> (episode, first frame with NaN, number of such frames)."""
        found = self.store.attributes["lerobot"]["nan"]
        return {key: [(int(e), int(f), int(n)) for e, f, n in entries] for key, entries in found.items()}


def fingerprint(root: Path, info: LeRobotInfo) -> str:
    """Return a number of the names, sizes and times of the files that the store is made of, in hexadecimal.

    Raises SourceError for a file that is gone while they are looked at.
    """
    tasks = TASKS_V3 if info.many_episodes_per_file else TASKS_V2
    data = (relative for _, relative in info.data_path.find(root))
    digest = hashlib.blake2b(f"layout {_LAYOUT}".encode(), digest_size=16)
    for relative in (INFO, *episode_files(root, info), tasks, *data):
        digest.update(_stamp(root, relative, required=relative != tasks).encode())
    return digest.hexdigest()


def _stamp(root: Path, relative: str, required: bool) -> str:
    try:
        status = (root / relative).stat()
    except OSError as error:
        if required:
            raise SourceError(f"{root / relative}: cannot be read: {error}") from error
        return f"{relative}\0absent\n"
    return f"{relative}\0{status.st_size}\0{status.st_mtime_ns}\n"


def open_store(root: Path, info: LeRobotInfo, cache: Path | None, wanted: str) -> CachedStore:
    """Return the store of a set's numbers, from the cache or built now.

    Args:
        root: the set.
        info: its `info.json`.
        cache: directory of caches; None: the default one.
        wanted: the set's fingerprint.

    Raises SourceError if the set is wrong; then nothing is left behind.
    """
    directory = (cache or default_cache()) / "lerobot" / set_name(root)
    path = directory / "store"
    found = _current(path, wanted)
    if found is not None:
        return CachedStore(found, directory, _notes(found))
    try:
        make_directory(directory)
        store = _build_or_wait(root, info, path, wanted)
        return CachedStore(store, directory, _notes(store))
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        store = _private(root, info, wanted)
        why = f"the cache {directory} cannot be written ({error}): the numbers were read into this process's memory"
        return CachedStore(store, None, (*_notes(store), why))
    finally:
        _remove_empty(directory)


def set_name(root: Path) -> str:
    """Return the name of a set's directory in a cache: its own, and a number of where it lies."""
    real = os.path.realpath(root)
    return name_in_cache(Path(real).name, real, "set")


def _notes(store: TrajectoryStore) -> tuple[str, ...]:
    return tuple(store.attributes["lerobot"]["notes"])


def _current(path: Path, wanted: str) -> TrajectoryStore | None:
    """Return the store at a path if it is sound and of the set as it is now."""
    if not (path / "manifest.json").is_file():
        return None
    try:
        store = TrajectoryStore.open(path)
    except StoreError:
        return None
    of = store.attributes.get("lerobot")
    return store if isinstance(of, dict) and of.get("fingerprint") == wanted and "nan" in of else None


class _AlreadyBuiltError(Exception):
    """Somebody else has built the store meanwhile."""


def _build_or_wait(root: Path, info: LeRobotInfo, path: Path, wanted: str) -> TrajectoryStore:
    while True:
        try:
            _build(root, info, path, wanted)
        except StoreBusyError:
            time.sleep(_PAUSE)
        except _AlreadyBuiltError:
            pass
        else:
            return TrajectoryStore.open(path)
        found = _current(path, wanted)
        if found is not None:
            return found


def _build(root: Path, info: LeRobotInfo, path: Path, wanted: str) -> None:
    def begin() -> StoreBuilder:
        builder = StoreBuilder(path, overwrite=True, alias=ALIAS, attributes={"lerobot": about})
        # Another process may have published between the look and the lock; its handles name its build.
        if _current(path, wanted) is not None:
            builder.abort()
            raise _AlreadyBuiltError
        return builder

    about: dict[str, Any] = {"root": os.path.realpath(root), "fps": str(info.fps), "fingerprint": wanted}
    build_store(root, info, read_episodes(root, info), begin)
    if fingerprint(root, info) != wanted:
        raise SourceError(f"{root}: its files changed while they were read")


def _private(root: Path, info: LeRobotInfo, wanted: str) -> TrajectoryStore:
    """Build in memory, where the system has a file system for it, and keep only what was read."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="iltools-lerobot-", dir=place))
    try:
        _build(root, info, directory / "store", wanted)
        return TrajectoryStore.open(directory / "store", "ram")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_empty(directory: Path) -> None:
    """Leave no empty directory behind a build that failed."""
    try:
        directory.rmdir()
    except OSError:
        return
