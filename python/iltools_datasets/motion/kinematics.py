"""Velocities by finite differences, in MuJoCo's conventions: quaternions wxyz, angular velocity in the body's frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.motion.rotations import quaternion_inverse, quaternion_product, rotation_vector

Floats = NDArray[np.floating[Any]]

FREE_JOINT_DIFFERENCES = "central differences of qpos; root: linear in the world's frame, angular in the root's frame"
"""What the attributes say of a velocity made by `free_joint_velocity`."""


def body_angular_velocity(quaternion: Floats, fps: float) -> Floats:
    """Return angular velocities `[T, ..., 3]` in rad/s, in the rotating body's own frame, of unit quaternions wxyz.

    Central differences over two steps, one-sided over one step at both ends; at least two rows. Each step is taken the
    short way round, so the sign of a quaternion does not matter.
    """
    before, after = _neighbours(len(quaternion))
    turn = quaternion_product(quaternion_inverse(quaternion[before]), quaternion[after])
    seconds = (after - before) / fps
    angular: Floats = rotation_vector(turn) / seconds.reshape(-1, *(1,) * (quaternion.ndim - 1))
    return angular


def rate_of_change(values: Floats, fps: float) -> Floats:
    """Return time derivatives `[T, ...]`: central differences over two steps, one-sided at both ends; T >= 2."""
    before, after = _neighbours(len(values))
    seconds = (after - before) / fps
    change: Floats = (values[after] - values[before]) / seconds.reshape(-1, *(1,) * (values.ndim - 1))
    return change


def free_joint_velocity(qpos: Floats, fps: float) -> Floats:
    """Return MuJoCo's qvel `[T, 6 + joints]` of qpos `[T, 7 + joints]` with a free joint first.

    qpos is root position in metres, root quaternion wxyz, then joint angles; qvel is the root's linear velocity in the
    world's frame (m/s), its angular velocity in the root's own frame (rad/s), then joint velocities. By finite
    differences as in `rate_of_change` and `body_angular_velocity`.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # numbers beyond all measure have velocities that are infinite
        angular = body_angular_velocity(qpos[:, 3:7], fps)
        return np.concatenate([rate_of_change(qpos[:, :3], fps), angular, rate_of_change(qpos[:, 7:], fps)], axis=1)


def _neighbours(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    steps = np.arange(count)
    return np.maximum(steps - 1, 0), np.minimum(steps + 1, count - 1)
