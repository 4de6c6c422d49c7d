"""Which body of a clip is the root: not the first one by itself, which may be the world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = ("pelvis", "root", "base", "base_link", "torso", "trunk", "hips", "floating_base", "body")
_SAME_PLACE = 1e-3  # m
_STILL = 1e-6


def bodies_at(positions: NDArray[Any], root: NDArray[Any]) -> list[int]:
    """Return the bodies of positions `[T, B, 3]` that stand where the root `[T, 3]` does, the closest one first."""
    if not len(positions):
        return []
    distance = np.abs(positions.astype(np.float64) - root[:, None].astype(np.float64)).max(axis=(0, 2))
    order = np.argsort(distance, kind="stable")
    return [int(body) for body in order if distance[body] < _SAME_PLACE]


def body_named_root(names: Sequence[str] | None) -> int | None:
    """Return the body that is called what a root is called, or None."""
    plain = [str(name).lower().replace("-", "_").rsplit("/", 1)[-1] for name in names or ()]
    for wanted in _NAMES:
        for test in (str.__eq__, str.endswith, str.startswith):
            found = [body for body, name in enumerate(plain) if test(name, wanted)]
            if len(found) == 1:
                return found[0]
    return None


def find_root_body(positions: NDArray[Any], names: Sequence[str] | None, root: NDArray[Any] | None = None) -> int:
    """Return the body of positions `[T, B, 3]` that is the root.

    It is the one that stands where the root `[T, 3]` is known to be, else the one whose name says so, else the first
    one that moves, else the first.
    """
    if root is not None and (here := bodies_at(positions, root)):
        return here[0]
    named = body_named_root(names)
    if named is not None and named < positions.shape[1]:
        return named
    moves = np.ptp(positions, axis=0).max(axis=1, initial=0) > _STILL if len(positions) else np.zeros(0, np.bool_)
    return int(moves.argmax()) if moves.any() else 0
