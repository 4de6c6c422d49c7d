"""Transitions of somebody else's data set side by side, in numpy alone: what a worker process does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.aligned import aligned_empty
from iltools_datasets.data.dataset import Dataset
from iltools_datasets.data.transition import Transition
from iltools_datasets.errors import SchemaError

__all__ = ["collate", "fetch"]


def fetch(dataset: Dataset, numbers: Sequence[int]) -> Transition:
    """Return items of a data set as one, as `collate` does; what an item raises gets a note that says which it was."""
    items = []
    for number in numbers:
        try:
            items.append(dataset[number])
        except Exception as error:
            error.add_note(f"at item {number} of {type(dataset).__name__}")
            raise
    return collate(items, numbers)


def collate(items: Sequence[Any], numbers: Sequence[int] | None = None) -> Transition:
    """Return transitions as one, of numpy arrays `[len(items), ...]` that begin at multiples of 64 bytes.

    Args:
        items: anything with the five fields of a `Transition`; each an array, a number, or dicts or tuples of them.
        numbers: what the items are called in errors; None = 0, 1, ...

    Raises:
        SchemaError: an item is no transition, or differs from the first one in its containers, shapes or dtypes.
    """
    names = list(range(len(items)) if numbers is None else numbers)
    return Transition(*(_stack(_all(items, field, names), names, field) for field in Transition._fields))


def _all(items: Sequence[Any], field: str, names: list[int]) -> list[Any]:
    try:
        return [getattr(item, field) for item in items]
    except AttributeError:
        name, item = next((n, i) for n, i in zip(names, items, strict=True) if not hasattr(i, field))
        raise SchemaError(
            f"item {name}: expected a Transition, found {type(item).__name__} without {field!r}"
        ) from None


def _stack(values: list[Any], names: list[int], what: str) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        _refuse_unlike(values, _keys, names, what)
        return {key: _stack([value[key] for value in values], names, f"{what}/{key}") for key in first}
    if _is_container(first):
        _refuse_unlike(values, _length, names, what)
        parts = [_stack(list(part), names, f"{what}/{n}") for n, part in enumerate(zip(*values, strict=True))]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    arrays = [np.asarray(value) for value in values]
    dtype = arrays[0].dtype
    if all(isinstance(value, bool | int | float) for value in values):
        dtype = np.result_type(*{array.dtype for array in arrays})  # of plain numbers, 0 and 0.5 are alike
    else:
        _refuse_unlike(arrays, _spec, names, what)
    if dtype.kind in "OSUMm" or dtype.names:
        raise SchemaError(f"item {names[0]}: {what}: expected numbers, found dtype {dtype}")
    return np.stack(arrays, out=aligned_empty((len(arrays), *arrays[0].shape), dtype))


def _is_container(value: Any) -> bool:
    """Whether this is a tuple of arrays, rather than one that spells out an array."""
    return isinstance(value, tuple) and any(isinstance(v, Mapping | tuple) or hasattr(v, "shape") for v in value)


def _keys(value: Any) -> Any:
    return set(value) if isinstance(value, Mapping) else type(value)


def _length(value: Any) -> Any:
    return (tuple, len(value)) if isinstance(value, tuple) else type(value)


def _spec(array: NDArray[Any]) -> Any:
    return array.dtype, array.shape


def _refuse_unlike(values: Sequence[Any], look: Callable[[Any], Any], names: list[int], what: str) -> None:
    expected = look(values[0])
    for value, name in zip(values, names, strict=True):
        found = look(value)
        if found != expected:
            raise SchemaError(
                f"item {name}: {what}: expected {_said(expected)} as in item {names[0]}, found {_said(found)}"
            )


def _said(looks: Any) -> str:
    if isinstance(looks, set):
        return f"the keys {sorted(map(str, looks))}"
    if isinstance(looks, type):
        return f"a {looks.__name__}"
    kind, rest = looks
    return f"a tuple of {rest}" if kind is tuple else f"{kind} {list(rest)}"
