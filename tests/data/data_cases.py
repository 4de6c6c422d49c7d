"""What the tests of this room share: a store whose values say where they come from, and others' data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from iltools_datasets import StoreBuilder, TrajectoryStore
from iltools_datasets.data import Transition

LENGTHS = [5, 40, 2, 17, 96, 33]
"""Transitions per trajectory of `make_store`."""
TOTAL = sum(LENGTHS)


def make_store(path: Path, lengths: list[int] = LENGTHS, name: str = "observation") -> TrajectoryStore:
    """A store in which element c of an observation is 16 * (number of the state) + c, and of an action half of that."""
    first = 0
    with StoreBuilder(path) as builder:
        for number, length in enumerate(lengths):
            rows = 16 * np.arange(first, first + length + 1, dtype=np.float32)[:, None]
            states = {name: rows + np.arange(5, dtype=np.float32)}
            transitions = {"action": rows[:-1] / 2 + np.arange(3, dtype=np.float32)}
            builder.add(0, number, states, transitions)
            first += length + 1
    return TrajectoryStore.open(path)


def expected(rows: np.ndarray, lengths: list[int] = LENGTHS) -> Transition:
    """The transitions at these rows of `make_store`, in plain numpy."""
    trajectory = np.repeat(np.arange(len(lengths)), lengths)[rows]
    state = (rows + trajectory).astype(np.float32)[:, None]
    is_last = np.isin(rows, np.cumsum(lengths) - 1)
    return Transition(
        16 * state + np.arange(5, dtype=np.float32),
        8 * state + np.arange(3, dtype=np.float32),
        np.zeros(len(rows), np.float32),
        16 * (state + 1) + np.arange(5, dtype=np.float32),
        is_last,
    )


def assert_same(found: Any, wanted: Any) -> None:
    """Assert that two transitions hold the same arrays: values, dtypes and shapes."""
    assert type(found).__name__ == "Transition"
    for field, values in wanted._asdict().items():
        array = np.asarray(getattr(found, field))
        assert (array.dtype, array.shape) == (values.dtype, values.shape), field
        np.testing.assert_array_equal(array, values, err_msg=field)


class Numbered:
    """A data set as anybody would write it: item i holds i. Those in `bad` raise."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self.count = count
        self.bad = bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Transition:
        if index in self.bad:
            raise LookupError(f"nothing at {index}")
        state = np.full(4, index, np.float32)
        return Transition(state, state[:2] / 2, float(index), state + 1, index == self.count - 1)


def numbers_of(batch: Any) -> list[int]:
    """Which items of `Numbered` are in a batch."""
    return np.asarray(batch.obs).reshape(-1, 4)[:, 0].astype(int).tolist()


class JaxItems(Numbered):
    """Items made by JAX, which say on which platform, and in which process."""

    def __getitem__(self, index: int) -> Transition:
        import os

        import jax.numpy as jnp

        item = super().__getitem__(index)
        on_cpu = next(iter(jnp.zeros(1).devices())).platform == "cpu"
        return item._replace(obs=jnp.asarray(item.obs), action=np.array([os.getpid(), on_cpu]))


class Raises(Numbered):
    """Raises an error that cannot be pickled."""

    def __getitem__(self, index: int) -> Transition:
        if index == 5:
            raise Stubborn(lambda: None)
        return super().__getitem__(index)


class Stubborn(Exception):  # noqa: N818
    """Holds what no pickle can."""


class Dies(Numbered):
    """Kills the process it is read in."""

    deadly = 5

    def __getitem__(self, index: int) -> Transition:
        import multiprocessing
        import os

        if index == self.deadly and multiprocessing.parent_process() is not None:
            os._exit(3)
        return super().__getitem__(index)
