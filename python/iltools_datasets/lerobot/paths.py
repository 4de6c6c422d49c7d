"""Where a data set's files lie: path patterns of `info.json`, and nothing outside the set."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from iltools_datasets.errors import SourceError

_SPEC = re.compile(r"(?:0?([0-9])d?|d)?")
_LONGEST_PATTERN = 1000
_REFUSED_IN_KEYS = re.compile(r"[/\\\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class _Part:
    """Literal text, and the field behind it with its least number of digits, if there is one."""

    literal: str
    field: str | None
    width: int


class PathPattern:
    """A path with named numbers, such as `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet`.

    It is parsed, never handed to `str.format`, which would read attributes and pad to any width.

    Args:
        text: the pattern.
        numbers: names of the integers that it may hold.
        names: names of the strings that it may hold.
        where: what messages say of its origin.

    Raises SourceError for other fields, a conversion, a width above 9, an absolute path, or `..`.
    """

    def __init__(self, text: object, numbers: Iterable[str], names: Iterable[str], where: str) -> None:
        if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_PATTERN:
            raise SourceError(f"{where}: expected a path pattern, found {str(text)[:80]!r}")
        self.text = text
        self._where = where
        self._numbers, self._names = frozenset(numbers), frozenset(names)
        self._parts = self._parse(text)
        literal = "".join(part.literal + ("x" if part.field else "") for part in self._parts)
        self._refuse_outside(literal)

    def _parse(self, text: str) -> list[_Part]:
        parts = []
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise SourceError(f"{self._where}: {text!r} is no path pattern: {error}") from error
        for literal, field, spec, conversion in pieces:
            width = _SPEC.fullmatch(spec or "")
            known = field is None or field in self._numbers or (field in self._names and not spec)
            if not known or conversion or width is None:
                allowed = ", ".join(sorted(self._numbers | self._names))
                raise SourceError(
                    f"{self._where}: {text!r} may hold {allowed} with widths of up to 9 digits, found "
                    f"{{{field}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
                )
            parts.append(_Part(literal, field, int(width[1] or 0)))
        return parts

    def _refuse_outside(self, path: str) -> None:
        parts = PurePosixPath(path).parts
        if "\\" in path or "\0" in path or not parts or parts[0] == "/" or ".." in parts:
            raise SourceError(f"{self._where}: {self.text!r} must be a path within the data set")

    def format(self, **values: int | str) -> str:
        """Return the relative path for these values."""
        text = []
        for part in self._parts:
            text.append(part.literal)
            if part.field is not None:
                value = values[part.field]
                text.append(
                    value if isinstance(value, str) else f"{value:0{part.width}d}" if part.width else f"{value}"
                )
        path = "".join(text)
        self._refuse_outside(path)
        return path

    def find(self, root: Path) -> list[tuple[dict[str, int], str]]:
        """Return (numbers, relative path) of every file below `root` that the pattern describes, in number order.

        Directories are listed only as far as their names fit. The pattern must hold no names.
        """
        seen: set[str] = set()
        pieces = []
        for part in self._parts:
            pieces.append(re.escape(part.literal))
            if part.field in seen:
                pieces.append(f"(?P={part.field})")
            elif part.field is not None:
                seen.add(part.field)
                pieces.append(f"(?P<{part.field}>[0-9]{{{max(1, part.width)},18}})")
        levels = "".join(pieces).split("/")
        found: list[tuple[dict[str, int], str]] = []
        _walk(os.fspath(root), "", levels, 0, found)
        found.sort(key=lambda entry: (tuple(entry[0].values()), entry[1]))
        return found


def _walk(directory: str, prefix: str, levels: list[str], depth: int, found: list[tuple[dict[str, int], str]]) -> None:
    whole = re.compile("/".join(levels[: depth + 1]))
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise SourceError(f"{directory}: cannot be listed: {error}") from error
    for entry in entries:
        path = prefix + entry.name
        match = whole.fullmatch(path)
        if match is None:
            continue
        if depth + 1 < len(levels):
            _walk(entry.path, path + "/", levels, depth + 1, found)
        elif not entry.is_dir():
            found.append(({name: int(digits) for name, digits in match.groupdict().items()}, path))


class Inside:
    """The paths within a set.

    Args:
        root: the set.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._home = os.path.realpath(root)

    def path(self, relative: str, where: str) -> Path:
        """Return `root / relative`, which may be a link only into the set or into the hub cache's blobs.

        Raises SourceError for an absolute path, for `..`, and for a link that leads elsewhere.
        """
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts or "\0" in relative or "\\" in relative:
            raise SourceError(f"{where}: {relative!r} must be a path within the data set")
        # From the real root on: what is above it was followed once.
        real = os.path.realpath(f"{self._home}{os.sep}{path}")
        if not _below(real, self._home):
            blobs = _blobs(self._root)
            if blobs is None or not _below(real, blobs):
                raise SourceError(f"{where}: {relative!r} leads to {real}, outside the data set {self._home}")
        return self._root / path


def within(root: Path, relative: str, where: str) -> Path:
    """Return `Inside(root).path(relative, where)`."""
    return Inside(root).path(relative, where)


def _blobs(root: Path) -> str | None:
    """Return where a snapshot of the hub's cache (`<repo>/snapshots/<commit>`) keeps its files."""
    real = Path(os.path.realpath(root))
    return os.path.realpath(real.parents[1] / "blobs") if real.parent.name == "snapshots" else None


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def check_feature_key(key: str, where: str) -> str:
    """Return a feature's key, which takes part in paths; SourceError if it could leave its directory."""
    if not key or len(key) > 255 or key in (".", "..") or _REFUSED_IN_KEYS.search(key):
        raise SourceError(f"{where}: {key[:80]!r} cannot be the name of a feature")
    return key
