"""What lies between two frames, and from where it is seen: the core's rules for any library with numpy's names.

Used by what keeps motion on a device. Rows come as `[..., W]`, cut into pieces as `MotionLayout` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Any

from iltools_datasets.motion.kinds import Kind, Piece, Pieces

TOLERANCE = 1e-6
"""In frames: so close to a frame is that frame, and so far beyond an end is still within."""
_LEAST_HORIZONTAL = 1e-6
_DEGREE = 14
_LAST = (0.282_897, 3.423_101)
"""Factors of the last two terms of the slerp's series; see the core's `slerp.rs` for where they come from."""

_TURN = 6.2831854820251465
"""A whole turn as float32 holds it."""
_REST = 2 * pi - _TURN

Array = Any


_POSE: tuple[Pieces, Pieces] = ((Piece("position", 3),), (Piece("quaternion", 4),))


@dataclass(frozen=True, slots=True)
class Library:
    """A module with numpy's names, and how it converts an array to the dtype of another."""

    xp: Any
    like: Callable[[Array, Array], Array]


@dataclass(frozen=True, slots=True)
class Turn:
    """Rotation matrices `[..., 3, 3]`, the same as quaternions wxyz `[..., 4]`, what is turned about and where it goes.

    Points are `[..., 3]`; None for both = vectors and rotations alone are turned.
    """

    matrix: Array
    quaternion: Array
    origin: Array
    place: Array


def moments(lib: Library, seconds: Array, fps: Array, last: Array) -> tuple[Array, Array, Array]:
    """Return the frame before each time, how far it is to the next, and whether the time is within its clip."""
    xp = lib.xp
    place = seconds * fps
    valid = (place >= -TOLERANCE) & (place <= last + TOLERANCE)
    held = xp.minimum(xp.maximum(place, xp.zeros_like(place)), last)
    frame = xp.minimum(xp.floor(held + TOLERANCE), last)
    fraction = held - frame
    return frame, xp.where(fraction < TOLERANCE, xp.zeros_like(fraction), fraction), valid


def between(lib: Library, pieces: Pieces, first: Array, second: Array, fraction: Array) -> Array:
    """Return rows `[..., W]` that lie a fraction `[...]` of the way from the first to the second.

    At 0 they are the first, bit for bit.
    """
    xp = lib.xp
    if all(piece.kind == "hold" for piece in pieces):
        return first
    part = lib.like(fraction, first)[..., None]
    mixed = []
    column = 0
    for kind, width in pieces:
        one, other = first[..., column : column + width], second[..., column : column + width]
        column += width
        mixed.append(_mix(lib, kind, one, other, part))
    found = mixed[0] if len(mixed) == 1 else xp.concatenate(mixed, -1)
    return xp.where(part == 0, first, found)


def _mix(lib: Library, kind: Kind, one: Array, other: Array, part: Array) -> Array:
    if kind == "hold":
        return one
    if kind == "quaternion":
        shape = (*one.shape[:-1], -1, 4)
        return slerp(lib, one.reshape(shape), other.reshape(shape), part).reshape(one.shape)
    if kind == "angle":
        return _wrapped(lib, one + part * _wrapped(lib, other - one))
    return one + part * (other - one)


def _wrapped(lib: Library, angle: Array) -> Array:
    turns = lib.xp.ceil((angle - pi) / (2 * pi))
    return angle - turns * _TURN - turns * _REST


def slerp(lib: Library, first: Array, second: Array, part: Array) -> Array:
    """Return unit quaternions `[..., n, 4]` a part `[..., 1]` of the shorter arc from the first, on its side.

    Weights are a polynomial in cosine - 1 (Eberly, 2011), so there is no acos and no branch for small angles.
    """
    xp = lib.xp
    cosine = (first * second).sum(-1)
    y = xp.minimum(xp.abs(cosine), xp.ones_like(cosine)) - 1
    near = _weight(1 - part, y)
    far = _weight(part, y)
    far = xp.where(cosine < 0, -far, far)
    mixed = near[..., None] * first + far[..., None] * second
    return mixed / xp.sqrt((mixed * mixed).sum(-1))[..., None]


def _weight(part: Array, y: Array) -> Array:
    square = part * part
    coefficients = [part]
    for k in range(1, _DEGREE + 1):
        coefficients.append(coefficients[-1] * (square * (1 / (k * (2 * k + 1))) - k / (2 * k + 1)))
    for k, factor in zip((_DEGREE - 1, _DEGREE), _LAST, strict=True):
        coefficients[k] = coefficients[k] * factor
    found = coefficients[-1] * y + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        found = found * y + coefficient
    return found


def turned(lib: Library, pieces: Pieces, rows: Array, turn: Turn, xyzw: bool) -> Array:
    """Return rows `[..., W]` as they are seen after a turn, whose arrays lead with the same axes."""
    xp = lib.xp
    if not any(piece.kind in ("position", "vector", "quaternion") for piece in pieces):
        return rows
    found = []
    column = 0
    for kind, width in pieces:
        part = rows[..., column : column + width]
        column += width
        if kind in ("position", "vector"):
            points = part.reshape((*part.shape[:-1], -1, 3))
            if kind == "position":
                points = points - lib.like(turn.origin, rows)[..., None, :]
            matrix = lib.like(turn.matrix, rows)[..., None, :, :]
            points = (matrix * points[..., None, :]).sum(-1)
            if kind == "position":
                points = points + lib.like(turn.place, rows)[..., None, :]
            part = points.reshape(part.shape)
        elif kind == "quaternion":
            rotations = part.reshape((*part.shape[:-1], -1, 4))
            by = lib.like(turn.quaternion, rows)[..., None, :]
            part = ordered(lib, product(lib, by, ordered(lib, rotations, xyzw, False)), False, xyzw).reshape(part.shape)
        found.append(part)
    return found[0] if len(found) == 1 else xp.concatenate(found, -1)


def moved(pieces: Pieces, rows: Array, by: Array, lib: Library) -> Array:
    """Return rows `[..., W]` with all positions moved by `[..., 3]`."""
    found = []
    column = 0
    for kind, width in pieces:
        part = rows[..., column : column + width]
        column += width
        if kind == "position":
            points = part.reshape((*part.shape[:-1], -1, 3)) + lib.like(by, rows)[..., None, :]
            part = points.reshape(part.shape)
        found.append(part)
    return found[0] if len(found) == 1 else lib.xp.concatenate(found, -1)


def ordered(lib: Library, quaternions: Array, found_xyzw: bool, wanted_xyzw: bool) -> Array:
    """Return quaternions `[..., 4]` in another order."""
    if found_xyzw == wanted_xyzw:
        return quaternions
    at = (3, 0, 1, 2) if found_xyzw else (1, 2, 3, 0)
    return lib.xp.stack([quaternions[..., place] for place in at], -1)


def product(lib: Library, left: Array, right: Array) -> Array:
    """Return the Hamilton product of quaternions wxyz `[..., 4]`."""
    w, x, y, z = (left[..., at] for at in range(4))
    a, b, c, d = (right[..., at] for at in range(4))
    parts = (
        w * a - x * b - y * c - z * d,
        w * b + x * a + y * d - z * c,
        w * c - x * d + y * a + z * b,
        w * d + x * c - y * b + z * a,
    )
    return lib.xp.stack(parts, -1)


def conjugate(lib: Library, rotation: Array) -> Array:
    """Return the inverse of unit quaternions wxyz `[..., 4]`."""
    return lib.xp.stack([rotation[..., 0], *(-rotation[..., at] for at in (1, 2, 3))], -1)


def heading_of(lib: Library, rotation: Array) -> tuple[Array, Array, Array]:
    """Return cosine and sine of the heading of rotations wxyz `[..., 4]`, and whether there is one; 1 and 0 if not."""
    xp = lib.xp
    w, x, y, z = (rotation[..., at] for at in range(4))
    square = w * w + x * x + y * y + z * z
    along, across = (w * w + x * x - y * y - z * z) / square, 2 * (x * y + w * z) / square
    length = xp.sqrt(along * along + across * across)
    # NaN is no heading that is missing: it stays.
    there = ~(length < _LEAST_HORIZONTAL)
    safe = xp.where(there, length, xp.ones_like(length))
    cosine = xp.where(there, along / safe, xp.ones_like(length))
    return cosine, xp.where(there, across / safe, xp.zeros_like(length)), there


def about_the_vertical(lib: Library, cosine: Array, sine: Array, origin: Array, place: Array) -> Turn:
    """Return the turn about the vertical through a point `[..., 2]`, which comes to lie at another; heights stay."""
    xp = lib.xp
    zero, one = xp.zeros_like(cosine), xp.ones_like(cosine)
    matrix = xp.stack(
        [xp.stack([cosine, -sine, zero], -1), xp.stack([sine, cosine, zero], -1), xp.stack([zero, zero, one], -1)], -2
    )
    w = xp.sqrt(xp.maximum((1 + cosine) / 2, zero))
    z = xp.where(sine < 0, -one, one) * xp.sqrt(xp.maximum((1 - cosine) / 2, zero))
    # The larger half first: the other one is then exact, too.
    forward = cosine >= 0
    w = xp.where(forward, w, sine / (2 * xp.where(forward, one, z)))
    z = xp.where(forward, sine / (2 * xp.where(forward, w, one)), z)
    flat = [xp.stack([point[..., 0], point[..., 1], xp.zeros_like(point[..., 0])], -1) for point in (origin, place)]
    return Turn(matrix, xp.stack([w, zero, zero, z], -1), *flat)


def seen_from(lib: Library, position: Array, rotation: Array) -> Turn:
    """Return what an observer at poses `[..., 3]` and wxyz `[..., 4]` sees, who looks along its axes."""
    xp = lib.xp
    unit = rotation / xp.sqrt((rotation * rotation).sum(-1))[..., None]
    inverse = conjugate(lib, unit)
    w, x, y, z = (inverse[..., at] for at in range(4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    matrix = xp.stack([xp.stack(row, -1) for row in rows], -2)
    return Turn(matrix, inverse, position, xp.zeros_like(position))


def poses(lib: Library, anchor: tuple[Array, ...], row: Array, after: Array, fraction: Array) -> tuple[Array, Array]:
    """Return positions and rotations wxyz of an anchor between its rows, which are [S, 3] and [S, 4]."""
    position, rotation = (
        between(lib, pieces, rows[row], rows[after], fraction) for pieces, rows in zip(_POSE, anchor, strict=True)
    )
    return position, rotation


def heading_turn(
    lib: Library, position: Array, rotation: Array, robot: tuple[Array, Array] | None, heading: str
) -> Turn:
    """Return the turn [E, 1] of references, posed [E, 3] and wxyz [E, 4]: to their own heading, or to a robot's."""
    xp = lib.xp
    cosine, sine, there = heading_of(lib, rotation)
    origin = position[..., :2]
    if robot is None:
        turn = about_the_vertical(lib, cosine, -sine, origin, xp.zeros_like(origin))
    else:
        place, facing = robot
        if heading == "relative":
            along, across, _ = heading_of(lib, product(lib, facing, conjugate(lib, rotation)))
        else:
            a, b, seen = heading_of(lib, facing)
            both = there & seen
            along = xp.where(both, a * cosine + b * sine, xp.ones_like(cosine))
            across = xp.where(both, b * cosine - a * sine, xp.zeros_like(cosine))
        # The robot's height is the simulation's business, unless it is not a number: then nothing is.
        turn = about_the_vertical(lib, along, across, origin, place[..., :2] + 0.0 * place[..., 2:])
    return Turn(*(part[:, None] for part in (turn.matrix, turn.quaternion, turn.origin, turn.place)))
