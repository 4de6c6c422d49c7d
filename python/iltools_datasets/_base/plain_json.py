"""JSON that says what it was given, or names the entry that it cannot say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from iltools_datasets.errors import SchemaError


def as_json(content: Mapping[str, Any], what: str) -> str:
    """Return content as JSON from which the same numbers are read, bit for bit.

    Raises:
        SchemaError: a NaN, an infinity, or something endless; the message begins with `what` and names the entry.
        TypeError: something that JSON does not know, named likewise.
    """
    try:
        return json.dumps(dict(content), allow_nan=False)
    except RecursionError as error:
        raise SchemaError(f"{what}: nested too deep: {error}") from error
    except (TypeError, ValueError) as error:
        place, found = _culprit(content, what)
        message = f"{place}: {found!r:.80} cannot be kept as JSON: {error}"
        raise (TypeError(message) if isinstance(error, TypeError) else SchemaError(message)) from error


_DEEPEST = 50
"""Levels down to which an entry is named: what contains itself has no innermost one."""


def _culprit(value: Any, place: str, depth: int = 0) -> tuple[str, Any]:
    """Return where the innermost entry that has no JSON is, and the entry."""
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        entries = list(value.items())
    elif isinstance(value, list | tuple):
        entries = list(enumerate(value))
    for key, entry in entries if depth < _DEEPEST else []:
        try:
            json.dumps(entry, allow_nan=False)
        except (TypeError, ValueError):
            return _culprit(entry, f"{place}[{key!r}]", depth + 1)
    return place, value
