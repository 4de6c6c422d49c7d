"""Small JSON checkpoints: written so that a kill leaves the old or the new one, read with every field checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import StateError

UINT64_MAX = 2**64 - 1


class SavedState:
    """A saved state of `kind` whose fields are checked as they are read; every complaint is a `StateError`."""

    def __init__(self, content: Any, kind: str, version: int) -> None:
        self.kind = kind
        if not isinstance(content, Mapping):
            raise StateError(f"state of {kind}: expected a mapping, found {type(content).__name__}")
        self._content = content
        if (found := content.get("kind")) != kind:
            raise StateError(f"state of {kind}: expected kind {kind!r}, found {found!r}")
        if (found := content.get("version")) != version:
            raise StateError(f"state of {kind}: expected version {version}, found {found!r}")

    def refuse(self, name: str, expected: str) -> StateError:
        """Return the error that says what field `name` should have been."""
        found = repr(self._content.get(name, "nothing"))
        return StateError(f"state of {self.kind}: {name}: expected {expected}, found {found[:80]}")

    def integer(self, name: str, low: int = 0, high: int = UINT64_MAX) -> int:
        """Return an integer within low..=high."""
        value = self._content.get(name)
        if type(value) is not int or not low <= value <= high:
            raise self.refuse(name, f"an integer within {low}..={high}")
        return value

    def optional_integer(self, name: str, low: int = 0, high: int = UINT64_MAX) -> int | None:
        """Return an integer within low..=high, or None."""
        if name in self._content and self._content[name] is None:
            return None
        return self.integer(name, low, high)

    def flag(self, name: str) -> bool:
        """Return a bool."""
        value = self._content.get(name)
        if type(value) is not bool:
            raise self.refuse(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """Return a string."""
        value = self._content.get(name)
        if type(value) is not str:
            raise self.refuse(name, "a string")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a string or None."""
        if name in self._content and self._content[name] is None:
            return None
        return self.text(name)

    def integers(self, name: str, count: int) -> NDArray[np.int64]:
        """Return `count` integers that are not negative, int64 [count]."""
        value = self._content.get(name)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(type(item) is int and 0 <= item < 2**63 for item in value)
        ):
            raise self.refuse(name, f"{count} integers within 0..2^63")
        return np.array(value, dtype=np.int64)
