"""The one check of integers, for every door: numpy's are integers, bools and floats are none."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import ArgumentError, IltoolsError, NotAnIntegerError, OutOfRangeError

INT64_MAX = 2**63 - 1


def checked_integer(
    name: str,
    value: Any,
    low: int | None = None,
    high: int | None = None,
    *,
    outside: type[IltoolsError] = ArgumentError,
    other: type[IltoolsError] = NotAnIntegerError,
) -> int:
    """Return `value` as a plain int within low..=high.

    Args:
        name: what the message calls it.
        value: an int, one of numpy's, or whatever else has `__index__`; no bool.
        low: least value; None = -2^63.
        high: greatest value; None = 2^63 - 1.
        outside: what is raised for an integer out of bounds.
        other: what is raised for anything that is no integer.
    """
    number = _as_integer(value)
    if number is None:
        raise other(f"{name}: expected an integer{_bounds(low, high)}, found {value!r:.80}")
    if not (-(2**63) if low is None else low) <= number <= (INT64_MAX if high is None else high):
        beyond = INT64_MAX if high is None and number > INT64_MAX else high
        raise outside(f"{name}: expected an integer{_bounds(low, beyond)}, found {value!r:.80}")
    return number


def checked_integers(
    name: str,
    values: Any,
    low: int | None = None,
    high: int | None = None,
    *,
    outside: type[IltoolsError] = ArgumentError,
    other: type[IltoolsError] = NotAnIntegerError,
) -> NDArray[np.int64]:
    """Return integers as a fresh int64 array: of an array's own shape, [n] for any other iterable.

    Arguments as in `checked_integer`; bounds of more than 64 bits do not fit the result.
    """
    if hasattr(values, "__array__"):
        array = np.asarray(values)
        if not np.issubdtype(array.dtype, np.integer):
            raise other(f"{name}: expected integers{_bounds(low, high)}, found {array.dtype}")
        if array.size and (low is not None or high is not None or array.dtype == np.uint64):
            for extreme in (array.min(), array.max()):
                checked_integer(name, extreme, low, high, outside=outside, other=other)
        return array.astype(np.int64)
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise other(f"{name}: expected integers{_bounds(low, high)}, found {values!r:.80}")
    items = list(values)
    numbers = items if set(map(type, items)) <= {int} else list(map(_as_integer, items))
    if None in numbers:
        at = numbers.index(None)
        raise other(f"{name}: expected integers{_bounds(low, high)}, found {items[at]!r:.80} at position {at}")
    if numbers:
        for extreme in (min(numbers), max(numbers)):
            checked_integer(name, extreme, low, high, outside=outside, other=other)
    return np.array(numbers, dtype=np.int64)


def checked_env_ids(values: Any, num_envs: int) -> NDArray[np.int64]:
    """Return which envs are meant, int64 [n]: their ids, or a bool mask [num_envs] that is true for them.

    Raises as `checked_ids` does, and `ArgumentError` for a mask of another length.
    """
    if not isinstance(values, np.ndarray | range | str | bytes) and isinstance(values, Iterable):
        values = values if hasattr(values, "__array__") else list(values)
        if values and all(isinstance(value, bool | np.bool_) for value in values):
            values = np.array(values)
    if hasattr(values, "__array__") and (mask := np.asarray(values)).dtype == np.bool_:
        if mask.shape != (num_envs,):
            raise ArgumentError(f"env: expected a mask [{num_envs}], found {list(mask.shape)}")
        return np.flatnonzero(mask).astype(np.int64)
    return checked_ids("env", values, num_envs)


def checked_ids(name: str, values: Any, count: int) -> NDArray[np.int64]:
    """Return ids within 0..count-1, int64 [n].

    Raises:
        OutOfRangeError: an id is outside.
        NotAnIntegerError: floats, or whatever else is no integer.
        ArgumentError: an array of more than one dimension.
    """
    if isinstance(values, range) and (not values or (0 <= values[0] < count and 0 <= values[-1] < count)):
        return np.arange(values.start, values.stop, values.step, dtype=np.int64)
    ids = checked_integers(name, values, outside=OutOfRangeError)
    if ids.ndim != 1:
        raise ArgumentError(f"{name}: expected ids [n], found an array {list(ids.shape)}")
    if (bad := first_outside(ids, count)) is not None:
        raise OutOfRangeError(f"{name} {int(ids[bad])} is outside [0, {count})")
    return ids


def first_outside(values: NDArray[np.int64], count: int) -> int | None:
    """Return the position of the first value [n] outside [0, count), or None; one pass where all are inside."""
    if not values.size or int(values.view(np.uint64).max()) < count:  # a negative one is a huge one there
        return None
    return int(np.argmax((values < 0) | (values >= count)))


def _as_integer(value: Any) -> int | None:
    if type(value) is int:
        return value
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _bounds(low: int | None, high: int | None) -> str:
    if low is None:
        return "" if high is None else f" of at most {high}"
    return f" of at least {low}" if high is None else f" within {low}..={high}"
