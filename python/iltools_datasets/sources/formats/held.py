"""What a file of named values holds, whatever container it came in: numbers by key, and words about them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.npz import RATE_KEYS
from iltools_datasets.sources.told import ToldSource, rate_in_file

_PERIODS = ("dt", "timestep", "motion_dt")
_MOST_KEPT = 256
_LONGEST_TEXT = 1000


def as_numbers(value: Any) -> NDArray[Any] | None:
    """Return an array of numbers or bools, also out of nested lists of them; None for anything else."""
    if isinstance(value, list | tuple):
        try:
            value = np.asarray(value)
        except ValueError:  # rows of several lengths
            return None
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8 else None


class Held:
    """Named values of one clip; those to `skip` are as if they were not there.

    Attributes:
        where: the file, and the clip within it, for messages.
        arrays: key -> numbers with at least one axis, in the machine's byte order.
        others: key -> what is no such array, and not None.
    """

    def __init__(self, where: str, values: Mapping[Any, Any], skip: Collection[str] = ()) -> None:
        self.where = where
        self.arrays: dict[str, NDArray[Any]] = {}
        self.others: dict[str, Any] = {}
        for key, value in values.items():
            if value is None or key in skip:
                continue
            array = as_numbers(value)
            if array is not None and array.ndim:
                self.arrays[str(key)] = array.astype(array.dtype.newbyteorder("="), copy=False)
            else:
                self.others[str(key)] = value

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first of these keys that is an array."""
        return next((name for name in names if name in self.arrays), None)

    def matrix(self, key: str, width: int | None, rows: int | None = None) -> NDArray[Any]:
        """Return floats `[T, width]`, without further axes of length 1; SourceError for another shape."""
        array = self.arrays[key]
        flat = array.reshape(len(array), -1) if array.ndim > 2 and 1 in array.shape[1:] else array
        fits = flat.ndim == 2 and width in (None, flat.shape[-1]) and rows in (None, len(flat))
        if not fits or array.dtype.kind != "f":
            expected = f"[{'T' if rows is None else rows}, {'joints' if width is None else width}]"
            raise SourceError(f"{self.where}: {key!r} is {array.dtype} {list(array.shape)}, expected floats {expected}")
        return flat

    def stated_rate(self) -> float | None:
        """Return the states per second that a value states, or None; SourceError for a value that is no rate."""
        for key in (*RATE_KEYS, "motion_fps", "motion_dt"):
            value = self.arrays.get(key, self.others.get(key))
            if value is None:
                continue
            if isinstance(value, np.ndarray) and value.size and (value == value.flat[0]).all():
                value = value.flat[0]
            rate = rate_in_file(f"{self.where}: ", key, value)
            return 1 / rate if key in _PERIODS else rate
        return None

    def names(self, *keys: str) -> list[str] | None:
        """Return the texts that the first of these keys holds, or None."""
        for key in keys:
            value = self.others.get(key)
            found = value.tolist() if isinstance(value, np.ndarray) else value
            if isinstance(found, list | tuple) and found and all(isinstance(name, str | bytes) for name in found):
                return [name.decode(errors="replace") if isinstance(name, bytes) else name for name in found]
        return None

    def rows(self, states: int, known: Collection[str]) -> dict[str, NDArray[Any]]:
        """Return the arrays with a row per state that are not `known`."""
        return {key: array for key, array in self.arrays.items() if key not in known and len(array) == states}

    def attributes(self, known: Collection[str]) -> dict[str, Any]:
        """Return the short texts, single numbers and short lists of numbers that are not `known`, as JSON has them."""
        found: dict[str, Any] = {}
        for key, value in {**self.others, **self.arrays}.items():
            if key in known or key in RATE_KEYS:
                continue
            plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
            is_word = isinstance(plain, bool | int | str) and len(str(plain)) <= _LONGEST_TEXT
            numbers = np.asarray(plain) if isinstance(plain, float) else as_numbers(value)
            is_short = numbers is not None and numbers.ndim < 2 and numbers.size <= _MOST_KEPT
            if is_word or (is_short and np.isfinite(plain).all()):
                found[key] = plain
        return found

    def say_what_is_left(self, source: ToldSource, path: Path, used: Collection[str]) -> None:
        """Have the source say which values are neither in the arrays nor in the attributes of a recording."""
        for key, value in {**self.others, **self.arrays}.items():
            if key not in used and key not in RATE_KEYS:
                what = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
                source.leave_out(path, [key], f", {what}: no row of numbers per state")
