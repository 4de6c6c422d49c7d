"""Transitions whose next is the following observation, found bit for bit and turned into states stored once."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.store.keys import Key

Parts = tuple[str, ...]
Arrays = Mapping[Parts, NDArray[Any]]


def shifted_keys(arrays: Arrays) -> set[Parts]:
    """Return the keys k for which `("next", k)[t]` is `k[t + 1]` bit for bit throughout the trajectory.

    `arrays` are [T, ...]. Bits are compared, so a NaN equals itself and 0.0 differs from -0.0.
    """
    return {key for key, array in arrays.items() if _is_shifted(array, arrays.get(("next", *key)))}


def _is_shifted(array: NDArray[Any], following: NDArray[Any] | None) -> bool:
    if following is None or array.dtype != following.dtype or array.shape != following.shape:
        return False
    return bool(np.array_equal(_bytes(array[1:]), _bytes(following[:-1])))


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def split(arrays: Arrays, stored_once: Set[Parts]) -> tuple[dict[Key, NDArray[Any]], dict[Key, NDArray[Any]]]:
    """Return (states [T + 1, ...], transitions [T, ...]) of a trajectory of T transitions.

    The keys in `stored_once`, which must be shifted, become states; everything else stays a transition as it is.
    """
    states: dict[Key, NDArray[Any]] = {
        key: np.concatenate([array, arrays["next", *key][-1:]]) for key, array in arrays.items() if key in stored_once
    }
    followers = {("next", *key) for key in stored_once}
    transitions: dict[Key, NDArray[Any]] = {
        key: array for key, array in arrays.items() if key not in stored_once and key not in followers
    }
    return states, transitions
