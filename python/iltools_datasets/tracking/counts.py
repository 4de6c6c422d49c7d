"""Counts of all bins as they go between ranks: whole numbers, four per bin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import ArgumentError

KINDS = ("visits", "failures", "starts", "completions")

Whole = NDArray[np.int64]
AllReduce = Callable[[Whole], Any]


def by_kind(counts: Whole) -> tuple[Whole, ...]:
    """Return visits, failures, starts and completions, each [bins], of counts [bins * 4]."""
    return tuple(np.ascontiguousarray(counts.reshape(-1, len(KINDS)).T))


def summed(all_reduce: AllReduce, counts: Whole) -> Whole:
    """Return the sum over ranks of counts [n], by what a caller gives for it.

    Raises:
        ArgumentError: it returns something else, or less than what this rank counted.
    """
    given = counts.copy()
    returned = all_reduce(given)
    found = np.asarray(given if returned is None else returned)
    if found.shape != counts.shape or found.dtype.kind not in "iu":
        shape = f"{found.dtype} {list(found.shape)}"
        raise ArgumentError(f"all_reduce: expected integers {list(counts.shape)}, found {shape}")
    if (found < counts).any():
        raise ArgumentError("all_reduce: its sums are below this rank's own counts; a sum over all ranks is needed")
    return found.astype(np.int64)
