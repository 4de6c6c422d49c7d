"""Small JSON checkpoints: written so that a kill leaves the old or the new one, read with every field checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integer, checked_integers
from iltools_datasets.errors import StateError

UINT64_MAX = 2**64 - 1

TakeOver = Callable[[], object]
"""Takes over what was checked before."""


class Changes:
    """What a state of several parts changes: collected while all of it is checked, then made together or not at all."""

    def __init__(self) -> None:
        self._certain: list[TakeOver] = []
        self._undoable: list[tuple[TakeOver, TakeOver]] = []

    def add(self, change: TakeOver, undo: TakeOver | None = None) -> None:
        """Note a change of one part.

        Args:
            change: makes it.
            undo: brings back what was before, even where the change got stuck halfway. Without it the change has been
                checked so far that it will not fail; it comes after all that might.
        """
        if undo is None:
            self._certain.append(change)
        else:
            self._undoable.append((change, undo))

    def make(self) -> None:
        """Make the changes; one that raises leaves every part as it was.

        A warning that the program turns into an error is raised when all of them have been made.
        """
        begun: list[TakeOver] = []
        told: list[Warning] = []
        try:
            for change, undo in self._undoable:
                begun.append(undo)
                change()
            for change in self._certain:
                try:
                    change()
                except Warning as warning:
                    told.append(warning)
        except BaseException:
            for undo in reversed(begun):
                undo()
            raise
        if told:
            raise told[0]


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

    def __contains__(self, name: str) -> bool:
        return name in self._content

    def refuse(self, name: str, expected: str) -> StateError:
        """Return the error that says what field `name` should have been."""
        found = repr(self._content.get(name, "nothing"))
        return StateError(f"{self._named(name)}: expected {expected}, found {found[:80]}")

    def _named(self, name: str) -> str:
        return f"state of {self.kind}: {name}"

    def integer(self, name: str, low: int = 0, high: int = UINT64_MAX) -> int:
        """Return an integer within low..=high."""
        if name not in self._content:
            raise self.refuse(name, f"an integer within {low}..={high}")
        return checked_integer(self._named(name), self._content[name], low, high, outside=StateError, other=StateError)

    def optional_integer(self, name: str, low: int = 0, high: int = UINT64_MAX) -> int | None:
        """Return an integer within low..=high, or None."""
        if name in self._content and self._content[name] is None:
            return None
        return self.integer(name, low, high)

    def nothing(self, name: str) -> None:
        """Check that a field is there and empty."""
        if self._content.get(name, "nothing") is not None:
            raise self.refuse(name, "None")

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return a bool; `default` where earlier versions did not save the field."""
        value = self._content.get(name, default)
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

    def integers(self, name: str, count: int, low: int | None = 0, high: int | None = None) -> NDArray[np.int64]:
        """Return `count` integers within low..=high, int64 [count]."""
        value = self._content.get(name)
        if not isinstance(value, list | np.ndarray) or np.shape(value) != (count,):
            raise self.refuse(name, f"{count} integers")
        return checked_integers(self._named(name), value, low, high, outside=StateError, other=StateError)

    def entries(self, name: str) -> list[Mapping[str, Any]]:
        """Return a list of mappings."""
        value = self._content.get(name)
        if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
            raise self.refuse(name, "a list of mappings")
        return value
