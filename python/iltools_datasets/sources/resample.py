"""Recordings at another rate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.schema import ROWS_ARE_TRANSITIONS, ROWS_ATTRIBUTE, TRANSITION_KEYS
from iltools_datasets.errors import SourceError
from iltools_datasets.motion.kinds import Pieces, known_pieces
from iltools_datasets.motion.kinematics import FREE_JOINT_DIFFERENCES, free_joint_velocity
from iltools_datasets.sources.protocol import Recording

FLAG_KEYS = frozenset({"terminated", "truncated", "done", "absorbing"})
_NEARLY_PARALLEL = 1 - 1e-9
_TIME_TOLERANCE = 1e-6
"""In source steps: a sample this close to a frame is that frame, so that rates which divide evenly copy frames."""


def resample(recording: Recording, fps: float, where: str) -> Recording:
    """Return a recording at `fps`, from its first state up to its last.

    Positions and velocities are interpolated linearly, quaternions along the shortest arc at constant speed; velocities
    that are finite differences of their positions are computed anew from the resampled positions. Integers, bools and
    whatever belongs to a step (actions, rewards) keep the value of the last frame before; a flag holds where it held at
    any frame since the last sample. Floats keep their dtype. The attributes say how it was done.

    Raises SourceError, with `where`, if the recording does not say its rate or where its quaternions are, or if its
    rows are transitions.
    """
    if recording.fps is None:
        raise SourceError(f"{where}: cannot be resampled: its rate is not known")
    if recording.quaternions is None:
        raise SourceError(f"{where}: cannot be resampled: it is not known which columns are quaternions")
    if not (np.isfinite(fps) and fps > 0):
        raise SourceError(f"{where}: fps must be a positive number, got {fps}")
    if fps == recording.fps:
        return recording
    if recording.attributes.get(ROWS_ATTRIBUTE) == ROWS_ARE_TRANSITIONS:
        raise SourceError(f"{where}: cannot be resampled: its rows are transitions, which need not follow each other")
    states = max(len(array) for array in recording.arrays.values())
    times = sample_times(states, recording.fps, fps)
    known = _pieces(recording)
    arrays = {}
    for key, array in recording.arrays.items():
        if key in FLAG_KEYS:
            arrays[key] = _any_since(array, times, states)
        elif key in TRANSITION_KEYS or array.dtype.kind != "f":
            held = np.minimum(np.floor(times).astype(np.int64), len(array) - 1)
            arrays[key] = array[held if len(array) == states else held[:-1]]
        else:
            arrays[key] = interpolate(array, times, known.get(key, ()))
    velocities = dict.fromkeys(recording.velocities, "interpolated linearly")
    if recording.velocities.get("qvel") == FREE_JOINT_DIFFERENCES and len(times) > 1:
        arrays["qvel"] = free_joint_velocity(arrays["qpos"], fps)
        velocities["qvel"] = FREE_JOINT_DIFFERENCES
    attributes = {
        **{key: value for key, value in recording.attributes.items() if key != "dt"},
        "resampled_from_fps": recording.fps,
        "resampling": "linear; quaternions slerp; integers and steps hold the frame before",
    }
    return Recording(arrays, fps, recording.quaternions, recording.quaternion_order, velocities, attributes)


def sample_times(states: int, source_fps: float, fps: float) -> NDArray[np.float64]:
    """Return when to sample, in source frames, float64 [new T]: every 1 / fps seconds while there is motion."""
    last = states - 1
    count = int(np.floor(last / source_fps * fps + _TIME_TOLERANCE)) + 1
    times = np.arange(count) * (source_fps / fps)
    nearest = np.rint(times)
    return np.minimum(np.where(np.abs(times - nearest) < _TIME_TOLERANCE, nearest, times), last)


def _pieces(recording: Recording) -> dict[str, Pieces]:
    """Return what is known of the recording's keys; all other floats are plain numbers."""
    shapes = {key: array.shape[1:] for key, array in recording.arrays.items()}
    declared = {**recording.attributes, "quaternions": recording.quaternions}
    return known_pieces(
        shapes, floats={key: recording.arrays[key].dtype.kind == "f" for key in shapes}, declared=declared
    )


def interpolate(array: NDArray[Any], times: NDArray[np.float64], pieces: Pieces = ()) -> NDArray[Any]:
    """Return `array [T, ...]` at fractional rows `times`: linear, slerp of quaternions, the short way for angles."""
    before = np.floor(times).astype(np.int64)
    after = np.minimum(before + 1, len(array) - 1)
    fraction = times - before
    part = fraction.reshape(-1, *(1,) * (array.ndim - 1))
    first, second = array[before].astype(np.float64), array[after].astype(np.float64)
    mixed = first + (second - first) * part
    column = 0
    for kind, width in pieces:
        place = (..., slice(column, column + width))
        if kind == "quaternion":
            rotations = (*first[place].shape[:-1], -1, 4)
            ends = first[place].reshape(rotations), second[place].reshape(rotations)
            mixed[place] = slerp(*ends, part[..., None]).reshape(first[place].shape)
        elif kind == "angle":
            turn = np.remainder(second[place] - first[place] + np.pi, 2 * np.pi) - np.pi
            mixed[place] = np.pi - np.remainder(np.pi - (first[place] + turn * part), 2 * np.pi)
        column += width
    mixed[fraction == 0] = first[fraction == 0]
    return mixed.astype(array.dtype)


def slerp(first: NDArray[np.float64], second: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return unit quaternions `[..., 4]` between two, the short way round, at `part` in [0, 1] of the angle."""
    cosine = (first * second).sum(axis=-1, keepdims=True)
    second = np.where(cosine < 0, -second, second)
    cosine = np.minimum(np.abs(cosine), 1.0)
    angle = np.arccos(cosine)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.sin((1 - part) * angle) / np.sin(angle), np.sin(part * angle) / np.sin(angle)
    parallel = cosine > _NEARLY_PARALLEL
    turned = np.where(parallel, 1 - part, weights[0]) * first + np.where(parallel, part, weights[1]) * second
    result: NDArray[np.float64] = turned / np.linalg.norm(turned, axis=-1, keepdims=True)
    return result


def _any_since(flags: NDArray[Any], times: NDArray[np.float64], states: int) -> NDArray[Any]:
    """A flag at sample i holds if it held at a frame after sample i - 1, up to i; frames after the last count too."""
    shift = states - len(flags)
    frames = np.arange(shift, states)
    sample = np.minimum(np.searchsorted(times, frames), len(times) - 1)
    held = np.zeros((len(times), *flags.shape[1:]), flags.dtype)
    np.maximum.at(held, sample, flags)
    return held[shift:]
