"""In which order a quaternion's numbers are, by what the motion itself shows.

Nothing in four numbers says whether they are wxyz or xyzw, and files of both kinds carry the same names. Two things in
a recording of a robot tell, measured on 34 real clips:

* A robot stands up most of the time. The median of (body z . world z) is 0.87 to 1.00 in the right order, of clips
  that fall and get up 0.99; wxyz read as xyzw gives -0.99 to -0.05. It cannot tell the other way round, for there the
  identity becomes a half turn about z, which is upright, too.
* Where angular velocities are stored, their direction follows the rotation: their correlation with finite differences
  is 0.6 to 1.00 in the right order and -0.36 to 0.21 in the wrong one. Their size alone tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.motion.description import QuaternionOrder
from iltools_datasets.motion.rotations import as_wxyz, quaternion_inverse, quaternion_product, rotation_vector

Floats = NDArray[np.floating[Any]]

ORDERS: tuple[QuaternionOrder, ...] = ("wxyz", "xyzw")

_LYING, _UPRIGHT = 0.3, 0.85
_AGAINST, _ALONG = 0.3, 0.6
_LEAST_TURN = 0.05  # rad/s, root mean square: below it there is no direction to compare
_LEAST_STATES = 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for one order and against the other; numbers are None where nothing can be told.

    `up` is the median of (body z . world z), `along` the correlation of stored with actual angular velocities, both by
    order.
    """

    up: dict[QuaternionOrder, float]
    along: dict[QuaternionOrder, float | None]

    def against(self, order: QuaternionOrder) -> str | None:
        """Say what shows that the order is the other one, or return None: nothing does."""
        other = other_order(order)
        here, there = self.along[order], self.along[other]
        if here is not None and there is not None and here < _AGAINST and there > _ALONG:
            return (
                f"read as {order} it turns against its own angular velocities (correlation {here:.2f}), as {other} "
                f"along with them ({there:.2f})"
            )
        decided = here is not None and there is not None and here > _ALONG and there < _AGAINST
        if not decided and self.up[order] < _LYING and self.up[other] > _UPRIGHT:
            return (
                f"read as {order} the root lies or hangs upside down (its z axis points up by {self.up[order]:.2f} in "
                f"the median), as {other} it stands ({self.up[other]:.2f})"
            )
        return None

    def best(self, otherwise: QuaternionOrder) -> QuaternionOrder:
        """Return the order that nothing speaks against, `otherwise` where that is so of both."""
        return other_order(otherwise) if self.against(otherwise) is not None else otherwise


def other_order(order: QuaternionOrder) -> QuaternionOrder:
    """Return xyzw for wxyz and the reverse."""
    return "xyzw" if order == "wxyz" else "wxyz"


def uprightness(quaternion: Floats) -> float:
    """Return the median over time of (body z . world z) of quaternions wxyz `[T, 4]`: 1 is upright, -1 upside down."""
    _, x, y, _ = np.moveaxis(quaternion.astype(np.float64), -1, 0)
    return float(np.nanmedian(1 - 2 * (x * x + y * y))) if len(quaternion) else 1.0


def find_evidence(
    root: Floats,
    rotations: Floats | None = None,
    angular: Floats | None = None,
    *,
    frame: Literal["world", "body"] = "world",
) -> Evidence:
    """Look at a clip in both orders.

    Args:
        root: the root's quaternions as the file has them, `[T, 4]`.
        rotations: quaternions `[T, ..., 4]` whose angular velocities are known, as the file has them.
        angular: those velocities `[T, ..., 3]`, in any unit, turned with the `frame`.
        frame: "world", or each body's own.
    """
    along: dict[QuaternionOrder, float | None] = dict.fromkeys(ORDERS)
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged file may hold any numbers; they are no evidence
        up = {order: uprightness(as_wxyz(root, order)) for order in ORDERS}
        if rotations is not None and angular is not None and len(rotations) >= _LEAST_STATES:
            for order in ORDERS:
                along[order] = _correlation(as_wxyz(rotations.astype(np.float64), order), angular[1:-1], frame)
    return Evidence(up, along)


def _correlation(rotations: Floats, angular: Floats, frame: str) -> float | None:
    before, after = rotations[:-2], rotations[2:]
    if frame == "world":
        turn = quaternion_product(after, quaternion_inverse(before))
    else:
        turn = quaternion_product(quaternion_inverse(before), after)
    turns = rotation_vector(turn)
    given = angular.astype(np.float64)
    sound = np.isfinite(turns).all(axis=-1) & np.isfinite(given).all(axis=-1)
    turns, given = turns[sound], given[sound]
    strength = np.sqrt((turns**2).sum() * (given**2).sum())
    if not given.size or np.sqrt((given**2).sum(axis=-1).mean()) < _LEAST_TURN or not strength:
        return None
    return float((turns * given).sum() / strength)
