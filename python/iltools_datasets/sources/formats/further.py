"""Arrays of a file that its format does not name: those with a row per state are kept, the others are said."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from numpy.typing import NDArray

from iltools_datasets.motion.kinds import names_quaternion
from iltools_datasets.sources.formats.npz import RATE_KEYS, Npz
from iltools_datasets.sources.told import ToldSource

_QUATERNION = 4


def further_arrays(source: ToldSource, npz: Npz, states: int, known: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the members with a row of numbers per state that are not `known`; the source notes those left out."""
    found = {}
    for key, spec in npz.arrays.items():
        if key in known or key in RATE_KEYS:
            continue
        if spec.shape[:1] == (states,) and spec.dtype.kind in "biuf":
            found[key] = npz.read(key)
        else:
            source.leave_out(npz.path, [key], f", {spec.dtype} {list(spec.shape)}: no row of numbers per state")
    source.leave_out(npz.path, npz.unreadable, ", a pickled object, which is never read")
    return found


def quaternion_keys(arrays: dict[str, NDArray[Any]]) -> Iterator[str]:
    """Yield the keys whose name says quaternion and whose rows can be some."""
    for key, array in arrays.items():
        if names_quaternion(key) and array.ndim >= 2 and array.shape[-1] == _QUATERNION and array.dtype.kind == "f":
            yield key
