"""Rotations by quaternions in xyzw order, for arrays of any namespace (numpy, `jax.numpy`), jittable."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["euler_angles", "into_body_frame"]

Array = Any


def into_body_frame(vector: Array, quaternion: Array) -> Array:
    """Express world vectors in the frame of a body that `quaternion` turns into the world.

    Args:
        vector: `[..., 3]` in the world frame.
        quaternion: `[..., 4]` xyzw, body to world, not zero; its length does not matter. Leading dimensions broadcast.

    Returns:
        `[..., 3]`: `v - 2 w (u x v) + 2 u x (u x v)` for the unit quaternion `(u, w)`, which is Rodrigues' formula for
        the inverse rotation.
    """
    xp = quaternion.__array_namespace__()
    unit = quaternion / xp.linalg.vector_norm(quaternion, axis=-1, keepdims=True)
    axis, w = unit[..., :3], unit[..., 3:]
    turned = xp.linalg.cross(axis, vector)
    return vector + 2 * (xp.linalg.cross(axis, turned) - w * turned)


def euler_angles(quaternion: Array) -> Array:
    """Return roll, pitch and yaw in rad, `[..., 3]`, of quaternions `[..., 4]` xyzw of any length but zero.

    The rotation is roll about the world's x axis, then pitch about its y axis, then yaw about its z axis: `Rz(yaw)
    Ry(pitch) Rx(roll)`. Roll and yaw lie in [-pi, pi], pitch in [-pi/2, pi/2]. Where pitch is +-pi/2 only the
    sum or difference of roll and yaw is determined; it is halved between them, so the angles still give the rotation.

    From E. Bernardes and S. Viollet, "Quaternion to Euler angles conversion: a direct, general and computationally
    efficient method", PLoS ONE 17(11), 2022, for the axes x, y, z.
    """
    xp = quaternion.__array_namespace__()
    x, y, z, w = (quaternion[..., i] for i in range(4))
    pitch = 2 * xp.atan2(xp.hypot(y + w, z - x), xp.hypot(w - y, x + z)) - math.pi / 2
    half_sum, half_difference = xp.atan2(x + z, w - y), xp.atan2(z - x, y + w)
    roll, yaw = _wrapped(half_sum - half_difference), _wrapped(half_sum + half_difference)
    return xp.stack([roll, pitch, yaw], axis=-1)


def _wrapped(angle: Array) -> Array:
    xp = angle.__array_namespace__()
    # Not by a remainder: an angle that is within the range already stays as exact as it is.
    return xp.where(angle > math.pi, angle - math.tau, xp.where(angle < -math.pi, angle + math.tau, angle))
