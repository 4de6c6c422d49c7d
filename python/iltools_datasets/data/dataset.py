"""What a data set is: something with a length that gives transitions by number."""

from __future__ import annotations

import multiprocessing
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets.data.transition import Transition
from iltools_datasets.errors import MissingKeyError, OutOfRangeError

__all__ = ["BatchDataset", "Dataset", "field_of"]


@runtime_checkable
class Dataset(Protocol):
    """Anything with these two methods is one, and goes into a `JaxDataLoader`."""

    def __len__(self) -> int:
        """Return the number of transitions."""

    def __getitem__(self, index: int) -> Transition:
        """Return one of them, of numpy or JAX arrays; all of them must agree in shapes and dtypes."""


class BatchDataset(ABC):
    """A data set that makes a batch at once, and several of them at the same time in as many threads."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of transitions."""

    @abstractmethod
    def batch(self, index: ArrayLike, *, extra: Sequence[Any] = ()) -> Any:
        """Return the transitions `index`, int `[B]`, as one of numpy arrays `[B, ...]` that nobody writes to again.

        With `extra`, `(transition, {name: [B, ...]})`.
        """

    @property
    @abstractmethod
    def identity(self) -> str:
        """Tells whether a saved place in the order of the transitions means the same here; at most 200 characters."""

    def check_extra(self, extra: Sequence[Any]) -> None:
        """Raise `MissingKeyError` if one of these is nothing that `batch` can add."""
        if extra:
            raise MissingKeyError(f"extra: {type(self).__name__} has nothing to add to a transition, not {extra[0]!r}")

    def frames(self, index: ArrayLike, keys: Sequence[str]) -> dict[str, Any]:
        """Return `{key: [B, ...]}` for fields of a transition and extras, without windows: what statistics are over."""
        fields = [key for key in keys if key.partition("/")[0] in Transition._fields]
        added = [key for key in keys if key not in fields]
        self.check_extra(added)
        batch, extras = self.batch(index, extra=added) if added else (self.batch(index), {})
        return {key: field_of(batch, key) if key in fields else extras[key] for key in keys}

    def __getitem__(self, index: int) -> Transition:
        """Return one transition: of JAX arrays, or of numpy's in a worker process or where there is no JAX.

        A negative index counts from the end. Raises `OutOfRangeError` (an IndexError) beyond it.
        """
        count = len(self)
        number = operator.index(index)
        if not -count <= number < count:
            raise OutOfRangeError(f"item {number} of {count}")
        item = _first(self.batch(np.array([number % count])))
        return item if multiprocessing.parent_process() is not None else _on_device(item)

    def __getitems__(self, indices: Sequence[int]) -> list[Transition]:
        """Return several transitions, of numpy arrays; torch's DataLoader asks for them so."""
        batch = self.batch(np.asarray(indices, dtype=np.int64))
        return [_first(batch, row) for row in range(len(indices))]


def field_of(batch: Transition, name: str) -> NDArray[Any]:
    """Return a field of a batch, or a part of one that is a dict, `field/KEY`; `MissingKeyError` if it is not there."""
    field, _, key = name.partition("/")
    value = getattr(batch, field) if field in Transition._fields else None
    if isinstance(value, dict):
        value = value.get(key)
    elif key:
        value = None
    if value is None:
        raise MissingKeyError(f"no quantity {name!r}; there are {list(Transition._fields)}, and obs/KEY of a dict")
    return np.asarray(value)


def _first(batch: Transition, row: int = 0) -> Transition:
    return Transition(
        *(
            {key: values[row] for key, values in field.items()} if isinstance(field, dict) else field[row]
            for field in batch
        )
    )


def _on_device(item: Transition) -> Transition:
    try:
        import jax
    except ImportError:
        return item
    on_device: Transition = jax.device_put(jax.tree.map(np.asarray, item))
    return on_device
