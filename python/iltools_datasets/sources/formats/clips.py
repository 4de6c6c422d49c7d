"""Cutting arrays of many clips back to back into one recording per clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.npz import Npz

SPLIT_POINTS = "split_points"


def read_split_points(npz: Npz, states: int) -> NDArray[np.int64]:
    """Return where each clip begins and the last one ends, int64 [clips + 1]; without the member it is one clip.

    Raises SourceError unless they begin at 0, rise, and end at the number of states.
    """
    if npz.is_empty(SPLIT_POINTS):
        return np.array([0, states])
    points = npz.read(SPLIT_POINTS)
    if points.ndim != 1 or len(points) < 2 or points.dtype.kind not in "iuf" or (points != np.floor(points)).any():
        raise SourceError(f"{npz.path}: split_points must be two or more integers, found {points}")
    points = points.astype(np.int64)
    if points[0] != 0 or points[-1] != states or (np.diff(points) <= 0).any():
        raise SourceError(f"{npz.path}: split_points must rise from 0 to the {states} states, found {points.tolist()}")
    return points


def clip_ranges(points: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (first state, state after the last) of each clip."""
    yield from zip(points[:-1].tolist(), points[1:].tolist(), strict=True)


def transition_starts(npz: Npz, key: str, rows: int, points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of each clip's first transition, int64 [clips], in an array of transitions.

    Writers disagree: some have T - 1 rows per clip, some one row between any two successive states, those from one clip
    to the next (which mean nothing) included. The number of rows tells which; SourceError if it fits neither.
    """
    clips, states = len(points) - 1, int(points[-1])
    if rows == states - clips:
        return points[:-1] - np.arange(clips)
    if rows == states - 1:
        return points[:-1]
    raise SourceError(
        f"{npz.path}: {key!r} has {rows} rows; {states} states in {clips} clips have {states - clips} transitions, "
        f"or {states - 1} with those between clips"
    )


def per_clip(array: NDArray[Any], starts: NDArray[np.int64], clip: int, rows: int) -> NDArray[Any]:
    """Return a clip's rows as an array of its own, so that the whole file is not kept alive by one of them."""
    return array[starts[clip] : starts[clip] + rows].copy()
