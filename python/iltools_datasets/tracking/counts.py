"""Counts of all bins as they go between ranks: whole numbers, four per bin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What happened in each of B bins, as it goes from one sampler to another of the same clips and bins."""

    passes: NDArray[np.float64]
    """N, [B]: what is remembered of control steps spent in a bin, divided by those it has."""
    failures: NDArray[np.float64]
    """F, [B]: what is remembered of them."""
    since: Whole
    """Counts since the last sync, [B * 4]."""
    totals: Whole
    """Counts of all ranks up to then, [B * 4]."""

    def check(self, bins: int) -> None:
        """Raise ArgumentError for what cannot be statistics of so many bins."""
        for name, kinds, size in (
            ("passes", "f", bins),
            ("failures", "f", bins),
            ("since", "i", bins * len(KINDS)),
            ("totals", "i", bins * len(KINDS)),
        ):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype.kind != kinds or array.shape != (size,):
                found = f"{getattr(array, 'dtype', type(array).__name__)} {list(np.shape(array))}"
                raise ArgumentError(f"statistics: {name}: expected numbers {[size]}, found {found}")
            if not np.isfinite(array).all() or (array < 0).any():
                raise ArgumentError(f"statistics: {name}: expected finite numbers, none negative")
