"""The algebra of rotations: quaternions wxyz, for arrays of any namespace (numpy, `jax.numpy`), jittable.

A unit quaternion `(w, u)` turns a body's vectors into the world's. What comes in another order is brought to this one
first, by `as_wxyz`.
"""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace

__all__ = [
    "as_wxyz",
    "euler_angles",
    "into_body_frame",
    "quaternion_inverse",
    "quaternion_product",
    "rotation_vector",
]

Array = Any

_SMALL_ANGLE = 1e-8


def as_wxyz(quaternion: Array, order: str) -> Array:
    """Return quaternions `[..., 4]` of an order, "wxyz" or "xyzw", as wxyz."""
    if order not in ("wxyz", "xyzw"):
        raise ValueError(f"order of a quaternion: expected 'wxyz' or 'xyzw', found {order!r}")
    xp = array_namespace(quaternion)
    return quaternion if order == "wxyz" else xp.concat([quaternion[..., 3:], quaternion[..., :3]], axis=-1)


def quaternion_product(left: Array, right: Array) -> Array:
    """Return the Hamilton product of quaternions `[..., 4]`: first `right`, then `left`."""
    xp = array_namespace(left)
    w1, x1, y1, z1 = (left[..., i] for i in range(4))
    w2, x2, y2, z2 = (right[..., i] for i in range(4))
    return xp.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        axis=-1,
    )


def quaternion_inverse(quaternion: Array) -> Array:
    """Return the inverse of unit quaternions `[..., 4]`."""
    xp = array_namespace(quaternion)
    return quaternion * xp.asarray([1, -1, -1, -1], dtype=quaternion.dtype)


def rotation_vector(quaternion: Array) -> Array:
    """Return the rotation vectors `[..., 3]` in radians, of length at most pi, of quaternions `[..., 4]`."""
    xp = array_namespace(quaternion)
    shortest = xp.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    axis = shortest[..., 1:]
    sine = xp.linalg.vector_norm(axis, axis=-1, keepdims=True)
    angle = 2 * xp.atan2(sine, shortest[..., :1])
    is_small = sine <= _SMALL_ANGLE
    return axis * xp.where(is_small, 2.0, angle / xp.where(is_small, 1.0, sine))


def into_body_frame(vector: Array, quaternion: Array) -> Array:
    """Express world vectors in the frame of a body that `quaternion` turns into the world.

    Args:
        vector: `[..., 3]` in the world frame.
        quaternion: `[..., 4]` body to world, not zero; its length does not matter. Leading dimensions broadcast.

    Returns:
        `[..., 3]`: `v - 2 w (u x v) + 2 u x (u x v)` for the unit quaternion `(w, u)`, which is Rodrigues' formula for
        the inverse rotation.
    """
    xp = array_namespace(quaternion)
    w, axis = quaternion[..., :1], quaternion[..., 1:]
    length = xp.sqrt(axis[..., :1] ** 2 + axis[..., 1:2] ** 2 + axis[..., 2:] ** 2 + w**2)
    axis, w = axis / length, w / length
    turned = xp.linalg.cross(axis, vector)
    return vector + 2 * (xp.linalg.cross(axis, turned) - w * turned)


def euler_angles(quaternion: Array) -> Array:
    """Return roll, pitch and yaw in rad, `[..., 3]`, of quaternions `[..., 4]` of any length but zero.

    The rotation is roll about the world's x axis, then pitch about its y axis, then yaw about its z axis: `Rz(yaw)
    Ry(pitch) Rx(roll)`. Roll and yaw lie in [-pi, pi], pitch in [-pi/2, pi/2]. Where pitch is +-pi/2 only the
    sum or difference of roll and yaw is determined; it is halved between them, so the angles still give the rotation.

    From E. Bernardes and S. Viollet, "Quaternion to Euler angles conversion: a direct, general and computationally
    efficient method", PLoS ONE 17(11), 2022, for the axes x, y, z.
    """
    xp = array_namespace(quaternion)
    w, x, y, z = (quaternion[..., i : i + 1] for i in range(4))  # numbers without a shape are float64 in numpy 1
    pitch = 2 * xp.atan2(xp.hypot(y + w, z - x), xp.hypot(w - y, x + z)) - math.pi / 2
    half_sum, half_difference = xp.atan2(x + z, w - y), xp.atan2(z - x, y + w)
    roll, yaw = _wrapped(half_sum - half_difference), _wrapped(half_sum + half_difference)
    return xp.concat([roll, pitch, yaw], axis=-1)


def _wrapped(angle: Array) -> Array:
    xp = array_namespace(angle)
    # Not by a remainder: an angle that is within the range already stays as exact as it is.
    return xp.where(angle > math.pi, angle - math.tau, xp.where(angle < -math.pi, angle + math.tau, angle))
