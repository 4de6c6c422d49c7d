"""From (trajectory, first step, length) of slices to the rows of a batch, without a loop over the slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.torchrl.samplers.trajectory_table import TrajectoryTable

Span = bool | int


@dataclass(frozen=True, slots=True)
class Slices:
    """Slices to read: positions of trajectories, first steps within them and lengths, int64 [S] each."""

    trajectory: NDArray[np.int64]
    step: NDArray[np.int64]
    length: NDArray[np.int64] | int
    """One number where all slices have the length asked for."""


def place(
    table: TrajectoryTable,
    trajectory: NDArray[np.int64],
    fraction: NDArray[np.float64],
    length: NDArray[np.int64] | int,
    span: tuple[Span, Span],
) -> Slices:
    """Place one slice in each trajectory, uniformly over where it may begin.

    Args:
        table: the trajectories.
        trajectory: int64 [S], positions in the table.
        fraction: float64 [S] within [0, 1), where between the first and the last possible step a slice begins.
        length: steps asked for, one number or int64 [S]; at most what the trajectories have.
        span: how far a slice may begin before, and end after, its trajectory: False or 0 not at all, True as far as
            one step remains, a number of steps otherwise. What lies outside is cut off.

    Raises:
        ValueError: a span of as many steps as a slice has.
    """
    available = table.length[trajectory]
    for steps in span:
        if steps is not True and steps and steps >= np.min(length):
            raise ValueError("The right and left span must be strictly lower than the sequence length")
    # One past the last possible step, and the first one.
    behind = available - (length - 1 if not span[1] else 0 if span[1] is True else span[1])
    before = 0 if not span[0] else (1 - np.asarray(length) if span[0] is True else -span[0])
    step = np.floor(fraction * (behind - before)).astype(np.int64) + before
    if span[0] and (step < 0).any():
        length = np.where(step < 0, length + step, length)
        step = np.maximum(step, 0)
    if span[1] and (step + length > available).any():
        length = np.minimum(length, available - step)
    return Slices(trajectory, step, length)


def rows(
    table: TrajectoryTable, slices: Slices, count: int, padded_length: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Return the rows of slices, one slice after another.

    Args:
        table: the trajectories.
        slices: the slices.
        count: rows of the storage; trajectories go on at row 0 behind the last one.
        padded_length: repeat the last row of shorter slices up to this length.

    Returns:
        int64 [B], and with `padded_length` bool [B], which of them are not repeated.
    """
    first, length = table.start[slices.trajectory] + slices.step, slices.length
    real = None
    if isinstance(length, int):
        index = (first[:, None] + np.arange(length)).reshape(-1)
    elif padded_length is None:
        behind = length.cumsum()
        index = np.arange(behind[-1] if len(behind) else 0) + np.repeat(first - behind + length, length)
    else:
        offset = np.arange(padded_length)
        real = (offset < length[:, None]).reshape(-1)
        index = (first[:, None] + np.minimum(offset, length[:, None] - 1)).reshape(-1)
    if len(index) and index.max() >= count:
        index %= count
    return index, real
