"""From where motion in JAX is seen: the robot's heading, the reference's, or its anchor."""

from __future__ import annotations

from typing import Any

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.motion.kinds import Piece, Pieces
from iltools_datasets.tracking import array_motion as rules
from iltools_datasets.tracking.jax_data import MotionData

try:
    import jax.numpy as jnp
except ImportError as error:
    raise missing_extra("jax", "motion in JAX") from error

Array = Any
Moment = tuple[Array, Array, Array]
"""Row before, row behind, and how far between them."""
LIBRARY = rules.Library(jnp, lambda array, of: array.astype(of.dtype))
_POSE: tuple[Pieces, Pieces] = ((Piece("position", 3),), (Piece("quaternion", 4),))


def turn_of(data: MotionData, moment: Moment, now: Moment, anchor_pos: Array, anchor_quat: Array) -> rules.Turn:
    """Return the turn of each env, for moments [E, O] and now, [E]; see `MotionLookup` for the frames."""
    if data.frame == "anchor":
        return rules.seen_from(LIBRARY, *_poses(data, moment))
    position, rotation = _poses(data, now)
    cosine, sine, there = rules.heading_of(LIBRARY, rotation)
    origin = position[..., :2]
    if data.frame == "heading":
        turn = rules.about_the_vertical(LIBRARY, cosine, -sine, origin, jnp.zeros_like(origin))
    else:
        robot = rules.ordered(LIBRARY, anchor_quat, data.xyzw, False)
        if data.heading == "relative":
            between = rules.product(LIBRARY, robot, rules.conjugate(LIBRARY, rotation))
            along, across, _ = rules.heading_of(LIBRARY, between)
        else:
            a, b, seen = rules.heading_of(LIBRARY, robot)
            both = there & seen
            along = jnp.where(both, a * cosine + b * sine, 1)
            across = jnp.where(both, b * cosine - a * sine, 0)
        # The robot's height is the simulation's business, unless it is not a number: then nothing is.
        place = anchor_pos[..., :2] + 0 * anchor_pos[..., 2:]
        turn = rules.about_the_vertical(LIBRARY, along, across, origin, place)
    return rules.Turn(*(part[:, None] for part in (turn.matrix, turn.quaternion, turn.origin, turn.place)))


def _poses(data: MotionData, moment: Moment) -> tuple[Array, Array]:
    """Return the anchor's positions and rotations wxyz."""
    row, after, fraction = moment
    position, rotation = (
        rules.between(LIBRARY, pieces, rows[row], rows[after], fraction)
        for pieces, rows in zip(_POSE, data.anchor, strict=True)
    )
    return position, rotation
