"""How the root stands: one that lies or hangs upside down throughout has its quaternion in another order or frame."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from iltools_datasets.doctor.finding import Finding
from iltools_datasets.motion.clip import Motion, Rotations
from iltools_datasets.motion.kinds import POSE_KEYS
from iltools_datasets.motion.orders import uprightness
from iltools_datasets.motion.root import find_root_body

_LYING, _UPRIGHT = 0.3, 0.85
_FREE_JOINT = ("qpos", "joint_pos", "dof_positions")


def check_posture(motion: Motion) -> Iterator[Finding]:
    """Find a root whose z axis points sideways or down in most frames."""
    found = _root(motion)
    if found is None:
        return
    rotations, which = found
    quaternion = rotations.quaternions[:, which]
    if not len(quaternion) or not np.isfinite(quaternion).all():
        return
    up = uprightness(quaternion)
    if up >= _LYING:
        return
    # wxyz taken for xyzw, and xyzw taken for wxyz: which of the two it was does not matter here.
    other = max(uprightness(quaternion[:, order]) for order in ([1, 2, 3, 0], [3, 0, 1, 2]))
    looks = "hangs upside down" if up < -_LYING else "lies"
    if other > _UPRIGHT:
        why = f"with its numbers in the other order (wxyz, xyzw) it is upright ({other:.2f}): were they mixed up?"
    else:
        why = "is its world's z axis not up, or is its quaternion the inverse one?"
    worst = int(np.argmin(1 - 2 * (quaternion[:, 1] ** 2 + quaternion[:, 2] ** 2)))
    yield Finding(
        "orientation",
        motion.clip,
        rotations.key,
        worst,
        f"{rotations.labels[which]}: the root {looks}: its z axis points up by {up:.2f} in the median, 1 is upright; "
        f"{why} (nothing is wrong if the robot is on the ground all the time)",
    )


def _root(motion: Motion) -> tuple[Rotations, int] | None:
    """Return the rotations that hold the root's, and which of them it is."""
    by_key = {rotations.key: rotations for rotations in motion.rotations}
    for key in _FREE_JOINT:
        if key in by_key and by_key[key].labels[:1] == (f"{key}[3]",):
            return by_key[key], 0
    for position_key, rotation_key in POSE_KEYS:
        positions, rotations = motion.arrays.get(position_key), by_key.get(rotation_key)
        if rotations is None:
            continue
        if positions is None or positions.ndim != 3 or positions.shape[1] != rotations.quaternions.shape[1]:
            continue
        root = find_root_body(positions, motion.attributes.get("body_names"))
        return rotations, root
    return None
