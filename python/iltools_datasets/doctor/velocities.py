"""Velocities against the motion they belong to: the rate they imply, and where they disagree with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.doctor.checks import repeated_frames
from iltools_datasets.doctor.finding import Finding
from iltools_datasets.doctor.offsets import Offset, find_offsets, moved_to
from iltools_datasets.motion.clip import Floats, Motion
from iltools_datasets.motion.kinds import POSE_KEYS
from iltools_datasets.motion.rotations import quaternion_inverse, quaternion_product, rotation_vector

_LEAST_STATES = 5
_GOOD_CORRELATION = 0.9
_RATE_TOLERANCE = 0.1
_ERROR_SHARE = 0.5
_PEAK_RATIO = 10.0
_MOVING_SHARE = 0.1
_CERTAIN_COLUMNS = 3
_LEAST_SPEED = 1e-3  # m/s or rad/s


@dataclass(frozen=True, slots=True)
class _Pair:
    """Velocities [T, C] and the change per frame [T - 1, C] of what they are the velocities of."""

    key: str
    of: str
    labels: tuple[str, ...]
    velocities: Floats
    changes: Floats


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Velocities of a key that are not those of the motion: `columns`, bool [C], says which.

    Columns are those of `Motion.coordinates`, or, where it `turns`, the rotations of `Motion.rotations`, of `of`.
    """

    key: str
    of: str
    turns: bool
    columns: NDArray[np.bool_]


def certain_rate(motion: Motion) -> float | None:
    """Return the rate that velocities fit; None unless several columns do, all of them the same one."""
    if motion.num_states < _LEAST_STATES or repeated_frames(motion) is not None:
        return None
    rates = np.array(_fitted_rates([*_coordinate_pairs(motion), *_rotation_pairs(motion)]))
    if len(rates) < _CERTAIN_COLUMNS:
        return None
    rate = float(np.median(rates))
    return None if (np.abs(rates / rate - 1) > _RATE_TOLERANCE).any() else rate


def is_another_rate(fitted: float, declared: float) -> bool:
    """Whether a rate that fits is so far from the declared one that the doctor says so."""
    return abs(fitted / declared - 1) > _RATE_TOLERANCE


def disagreements(motion: Motion, rate: float) -> list[Disagreement]:
    """Return the velocities that disagree with finite differences at a rate, and that no fixed offset explains.

    Where they are those of another rate, for certain, all of them do.
    """
    if motion.num_states < _LEAST_STATES or repeated_frames(motion) is not None:
        return []
    certain = certain_rate(motion)
    all_do = certain is not None and is_another_rate(certain, rate)
    found = []
    for turns, pairs in ((False, _coordinate_pairs(motion)), (True, _rotation_pairs(motion))):
        for pair in pairs:
            wrong = _wrong_columns(pair, rate)[0] | all_do
            if wrong.any() and _explanation(motion, pair, rate) is None:
                found.append(Disagreement(pair.key, pair.of, turns, wrong))
    return found


def look_at_velocities(motion: Motion) -> tuple[list[Finding], list[Offset]]:
    """Find a rate that is not the declared one, and velocities that disagree with finite differences.

    A velocity may lie anywhere between the differences to the frame before and to the frame after, so forward, backward
    and central differences and anything smoother all pass. Angular velocities are compared by size, since formats give
    them in different frames. Without a declared rate the one that fits best is used. Velocities that a fixed offset in
    each body's frame explains are returned as such; they are right, and of another point.
    """
    if motion.num_states < _LEAST_STATES or repeated_frames(motion) is not None:
        return [], []
    findings: list[Finding] = []
    pairs = [*_coordinate_pairs(motion), *_rotation_pairs(motion)]
    fitted = _fitted_rate(pairs)
    rate = motion.fps if motion.fps is not None else fitted
    if rate is None:
        return [], []
    if fitted is not None and is_another_rate(fitted, rate):
        message = f"declares {rate:g} frames per second, its velocities fit {fitted:.4g}"
        findings.append(Finding("rate", motion.clip, None, None, message))
        rate = fitted
    explained: list[Offset] = []
    for pair in pairs:
        wrong = list(_disagreements(motion, pair, rate))
        if wrong and (offset := _explanation(motion, pair, rate)) is not None:
            explained.append(offset)
        else:
            findings += wrong
    return findings, explained


def _explanation(motion: Motion, pair: _Pair, rate: float) -> Offset | None:
    """Return the offsets in the bodies' frames that leave nothing of a pair to disagree, or None."""
    rotations = {entry.key: entry.quaternions for entry in motion.rotations}
    for offset in find_offsets(motion, rate):
        if (offset.velocity_key, offset.position_key) == (pair.key, pair.of):
            turning = next(rotations[turned] for key, turned in POSE_KEYS if key == offset.position_key)
            places = motion.arrays[offset.position_key].astype(np.float64)
            moved = np.diff(moved_to(places, turning, offset.points), axis=0).reshape(len(places) - 1, -1)
            if not list(_disagreements(motion, replace(pair, changes=moved), rate)):
                return offset
    return None


def _coordinate_pairs(motion: Motion) -> Iterator[_Pair]:
    for entry in motion.coordinates:
        if entry.velocities is not None and entry.velocity_key is not None:
            changes = np.diff(entry.values, axis=0)
            yield _Pair(entry.velocity_key, entry.key, entry.labels, entry.velocities, changes)


def _rotation_pairs(motion: Motion) -> Iterator[_Pair]:
    for entry in motion.rotations:
        if entry.velocities is not None and entry.velocity_key is not None:
            norms = np.linalg.norm(entry.quaternions, axis=-1, keepdims=True)
            unit = entry.quaternions / np.where(norms > 0, norms, 1)
            turns = rotation_vector(quaternion_product(quaternion_inverse(unit[:-1]), unit[1:]))
            sizes = np.linalg.norm(turns, axis=-1)
            labels = tuple(f"{label} (angular)" for label in entry.labels)
            yield _Pair(entry.velocity_key, entry.key, labels, np.linalg.norm(entry.velocities, axis=-1), sizes)


def _fitted_rate(pairs: list[_Pair]) -> float | None:
    """Return the median, over columns that follow their position closely, of the rate that fits best, or None."""
    rates = _fitted_rates(pairs)
    return float(np.median(rates)) if rates else None


def _fitted_rates(pairs: list[_Pair]) -> list[float]:
    """Return the rate that fits best of each column that follows its position closely."""
    rates: list[float] = []
    for pair in pairs:
        change = np.nan_to_num((pair.changes[1:] + pair.changes[:-1]) / 2)
        velocity = np.nan_to_num(pair.velocities[1:-1])
        product, power = (velocity * change).sum(axis=0), (change**2).sum(axis=0)
        scale = np.sqrt(power * (velocity**2).sum(axis=0))
        good = product > _GOOD_CORRELATION * scale
        good &= scale > 0
        rates += (product[good] / power[good]).tolist()
    return rates


def _wrong_columns(pair: _Pair, rate: float) -> tuple[NDArray[np.bool_], Floats, Floats, Floats]:
    """Return which columns disagree, bool [C], by how much of their speed in each frame, and between what they may lie.

    The latter three are [T - 2, C], of all frames but the first and the last.
    """
    before, after = pair.changes[:-1] * rate, pair.changes[1:] * rate
    low, high = np.minimum(before, after), np.maximum(before, after)
    velocity = pair.velocities[1:-1]
    excess = np.nan_to_num(np.maximum(np.maximum(low - velocity, velocity - high), 0))
    speed = np.sqrt((np.nan_to_num((before + after) / 2) ** 2).mean(axis=0))
    moving = speed > max(_LEAST_SPEED, _MOVING_SHARE * float(speed.max(initial=0)))
    scale = np.where(moving, speed, 1)
    wrong = np.where(moving, np.sqrt((excess**2).mean(axis=0)) / scale, 0) > _ERROR_SHARE
    peaks = np.where(moving, excess / scale, 0)
    wrong |= peaks.max(axis=0, initial=0) > _PEAK_RATIO
    return wrong, peaks, low, high


def _disagreements(motion: Motion, pair: _Pair, rate: float) -> Iterator[Finding]:
    wrong, peaks, low, high = _wrong_columns(pair, rate)
    if wrong.any():
        velocity = pair.velocities[1:-1]
        frame, column = np.unravel_index(int(np.where(wrong, peaks, 0).argmax()), peaks.shape)
        yield Finding(
            "velocity",
            motion.clip,
            pair.key,
            int(frame) + 1,
            f"{pair.labels[column]}: velocity {velocity[frame, column]:.3g}, finite differences of {pair.of} at "
            f"{rate:.4g} Hz give {low[frame, column]:.3g} to {high[frame, column]:.3g}; "
            f"{int(wrong.sum())} of {len(wrong)} columns disagree",
        )
