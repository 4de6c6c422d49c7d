"""Velocities of another point of a body than its position is of: a fixed offset in the body's frame explains them.

Isaac Lab's `body_lin_vel_w` is the velocity of the centre of mass, while `body_pos_w` is where the body's frame is. A
point r of a body moves by d/dt (p + R r), so r is what fits the difference between the velocities as stored and those
of p best, and if that leaves nothing unexplained, nothing is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.motion.clip import Floats, Motion
from iltools_datasets.motion.kinds import POSE_KEYS, VELOCITY_OF
from iltools_datasets.motion.rotations import into_body_frame, quaternion_inverse

_LEAST_STATES = 5
_LONGEST = 2.0  # m; a point further off than that is none of the body's
_SHORTEST = 1e-4  # m


@dataclass(frozen=True, slots=True)
class Offset:
    """Key of velocities, key of the positions they belong to, and per body where in its frame their point lies [B, 3].

    A body without such a point has NaN.
    """

    velocity_key: str
    position_key: str
    points: Floats


def find_offsets(motion: Motion, rate: float) -> list[Offset]:
    """Return what offsets fit the velocities of bodies best, whether or not they explain them."""
    rotations = {entry.key: entry.quaternions for entry in motion.rotations}
    found = []
    for position_key, rotation_key in POSE_KEYS:
        velocity_key = VELOCITY_OF.get(position_key, "")
        positions, velocities = motion.arrays.get(position_key), motion.arrays.get(velocity_key)
        turning = rotations.get(rotation_key)
        if positions is None or velocities is None or turning is None or motion.num_states < _LEAST_STATES:
            continue
        if positions.ndim != 3 or positions.shape != velocities.shape or turning.shape[:2] != positions.shape[:2]:
            continue
        found.append(Offset(velocity_key, position_key, _points(positions, velocities, turning, rate)))
    return found


def _points(positions: NDArray[np.generic], velocities: NDArray[np.generic], turning: Floats, rate: float) -> Floats:
    place, speed = positions.astype(np.float64), velocities.astype(np.float64)
    axes = _matrices(turning)
    moving = (axes[2:] - axes[:-2]) * (rate / 2)
    left = speed[1:-1] - (place[2:] - place[:-2]) * (rate / 2)
    points = np.full((place.shape[1], 3), np.nan)
    for body in range(len(points)):
        equations, values = moving[:, body].reshape(-1, 3), left[:, body].reshape(-1)
        sound = np.isfinite(equations).all(axis=1) & np.isfinite(values)
        if np.count_nonzero(sound) >= 3:
            point = np.linalg.lstsq(equations[sound], values[sound], rcond=None)[0]
            if _SHORTEST < np.linalg.norm(point) < _LONGEST:
                points[body] = point
    return points


def moved_to(positions: Floats, turning: Floats, points: Floats) -> Floats:
    """Return where the points of bodies are, `[T, B, 3]`; where there is none, where the body is."""
    there: Floats = np.einsum("tbij,bj->tbi", _matrices(turning), np.nan_to_num(points))
    return positions + there


def _matrices(quaternion: Floats) -> Floats:
    """Return rotation matrices `[..., 3, 3]`, body to world, of quaternions wxyz `[..., 4]`."""
    norms = np.linalg.norm(quaternion, axis=-1, keepdims=True)
    to_body = quaternion / np.where(norms > 0, norms, 1)
    to_world = quaternion_inverse(to_body)
    columns: Floats = np.stack(
        [into_body_frame(np.broadcast_to(axis, (*to_world.shape[:-1], 3)), to_world) for axis in np.eye(3)], axis=-1
    )
    return columns
