"""Checking a store directory byte by byte, and removing what dead builds left in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iltools_datasets import _core
from iltools_datasets._base.local_path import local_path
from iltools_datasets.errors import StoreCorruptError

if TYPE_CHECKING:
    from iltools_datasets.store.keys import Key

__all__ = ["Damage", "repair_store", "verify_store"]


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong with a store.

    Attributes:
        file: the file concerned.
        key: the column, if the file is a column's.
        block: number of the damaged block within the file (`block_bytes` of the manifest each), None = all of it.
        what: what is wrong, with what was expected and what was found.
    """

    file: str
    key: Key | None
    block: int | None
    what: str


def verify_store(path: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """Compare every byte of a store with its checksum and return what is wrong, nothing if all is well.

    Goes by the manifest, so everything that is wrong is found at once, also where the store cannot be opened. A store
    that is rebuilt meanwhile is checked anew. Ctrl-C stops it; nothing is written in any case.

    Args:
        path: directory of the store.
        progress: called with (bytes done, bytes in all) after each block of 4 MiB; what it raises ends the check.

    Raises:
        StoreNotFoundError: there is no store.
        StoreVersionError: written in another format version.

    Examples:
        >>> verify_store("walks")
        []
    """
    try:
        return read_damages(_core.verify(str(local_path(path)), progress))
    except StoreCorruptError as error:
        manifest = str(Path(path) / "manifest.json")
        return [Damage(manifest, None, None, str(error).removeprefix(f"{manifest}: "))]


def repair_store(path: str | Path) -> list[Path]:
    """Remove what killed builds left in a store directory, and nothing else; return what was removed.

    Takes the build lock meanwhile. The next build does the same by itself. A store whose collector was killed while it
    grew is finished: what is in its journal goes into it, episodes that ran are cut, and the journal is what was
    removed. Damaged data is not repaired by this, or by anything: build the store again.

    Raises:
        StoreNotFoundError: there is neither a store nor anything a build left.
        StoreBusyError: a build is going on, or a collector records; the message has its pid.
        StoreCorruptError: the manifest cannot be read, so which data belongs to it is not known. Nothing was removed.
    """
    return [Path(removed) for removed in _core.repair(str(local_path(path)))]


def read_damages(found: Iterable[tuple[str, tuple[str, ...] | None, int | None, str]]) -> list[Damage]:
    """Return what the native check found, keys as callers see them."""
    return [
        Damage(file, None if key is None else key[0] if len(key) == 1 else tuple(key), block, what)
        for file, key, block, what in found
    ]
