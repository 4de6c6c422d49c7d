"""JSON files of a data set somebody else wrote: their size is looked at before they are parsed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iltools_datasets.errors import SourceError, SourceNotFoundError

LARGEST_DOCUMENT = 256 << 20
"""Bytes of a JSON document; one that is larger is refused unread."""
LONGEST_LINE = 64 << 20
"""Bytes of a line of a `.jsonl` file."""


def read_document(path: Path) -> dict[str, Any]:
    """Return the one JSON object that a file holds.

    Raises:
        SourceNotFoundError: there is no file.
        SourceError: it is too large, no JSON, no object, or an object of it has a name twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_DOCUMENT + 1)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    if len(content) > LARGEST_DOCUMENT:
        raise SourceError(f"{path}: larger than the {LARGEST_DOCUMENT:,} bytes that a JSON document may have")
    return _parsed(content, str(path))


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a `.jsonl` file; blank lines are passed over. Raises as `read_document`."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    with file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise SourceError(f"{path}, line {number}: longer than the {LONGEST_LINE:,} bytes that a line may have")
            if not line.isspace():
                yield number, _parsed(line, f"{path}, line {number}")


def _parsed(content: bytes, where: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceError(f"{where}: {twice!r} is there twice")
        return found

    try:
        document = json.loads(content, object_pairs_hook=once)
    except SourceError:
        raise
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: no JSON: {error}") from error
    if not isinstance(document, dict):
        raise SourceError(f"{where}: expected a JSON object, found {type(document).__name__}")
    return document


def whole_number(value: Any, what: str, least: int = 0) -> int:
    """Return an integer of JSON; SourceError naming `what` if it is none, is below `least` or beyond 63 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise SourceError(f"{what}: expected an integer of at least {least}, found {shown(value)}")
    return value


def shown(value: Any) -> str:
    """Return what a message shows of a value of unknown size."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
