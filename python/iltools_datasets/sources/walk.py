"""The files below a directory: each directory once, in an order every machine agrees on, nothing dropped unsaid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from iltools_datasets.archive.schema import natural_key

_HIDDEN = ("__MACOSX", "__pycache__")


def below(
    root: Path,
    is_one: Callable[[Path], bool] = lambda _: False,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[Path]:
    """Yield the files at or below a path, natural-sorted.

    A directory of which `is_one` is true is yielded itself and not entered. Hidden files and directories (`.git`,
    `.DS_Store`, macOS's `._*` and `__MACOSX`) are passed over. A directory is entered once, so links that lead in a
    circle, or up, end; what a link leads to that was entered already, and what cannot be listed or is not there, is
    said to `note`.
    """
    seen = {_identity(place) for place in (root.absolute(), *root.resolve().parents)} if root.is_dir() else set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        if not path.is_dir():
            if path.exists():
                yield path
            else:
                note(f"{path}: a link to nothing (is its content not downloaded?)")
        elif is_one(path):
            yield path
        else:
            try:
                waiting += _entries(path, seen, note)
            except OSError as error:
                note(f"{path}: cannot be listed: {error.strerror}")


def _entries(path: Path, seen: set[tuple[int, int]], note: Callable[[str], None]) -> list[Path]:
    """Return what lies in a directory, last first, without directories that were seen; those that are new are now."""
    entries = [entry for entry in path.iterdir() if not is_hidden(entry)]
    kept = []
    for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), natural_key(entry.name))):
        if entry.is_dir():
            identity = _identity(entry)
            if identity in seen:
                note(f"{entry}: a link to a directory that is looked through anyway, or lies above")
                continue
            seen.add(identity)
        kept.append(entry)
    return sorted(kept, key=lambda entry: natural_key(entry.name), reverse=True)


def is_hidden(path: Path) -> bool:
    """Tell whether a file's name says that it is not for people: macOS's resource forks, version control, caches."""
    return path.name.startswith(".") or path.name in _HIDDEN


def has_ending(path: Path, endings: tuple[str, ...]) -> bool:
    """Tell whether a file's name ends so, in upper or lower case."""
    return path.name.lower().endswith(endings)


def without_ending(path: Path, endings: tuple[str, ...]) -> str:
    """Return a file's name without the longest of these endings that it has."""
    found = max((ending for ending in endings if has_ending(path, (ending,))), key=len, default="")
    return path.name[: len(path.name) - len(found)] or path.name


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
