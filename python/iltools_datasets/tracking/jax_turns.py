"""From where motion in JAX is seen: the robot's heading, the reference's, or its anchor."""

from __future__ import annotations

from typing import Any

from iltools_datasets._base.extras import missing_extra
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


def turn_of(data: MotionData, moment: Moment, now: Moment, anchor_pos: Array, anchor_quat: Array) -> rules.Turn:
    """Return the turn of each env, for moments [E, O] and now, [E]; see `MotionLookup` for the frames."""
    if data.frame == "anchor":
        return rules.seen_from(LIBRARY, *rules.poses(LIBRARY, data.anchor, *moment))
    robot = None
    if data.frame == "robot":
        robot = anchor_pos, rules.ordered(LIBRARY, anchor_quat, data.xyzw, False)
    return rules.heading_turn(LIBRARY, *rules.poses(LIBRARY, data.anchor, *now), robot, data.heading)
