"""The checks: each looks at one clip for one kind of damage and yields what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.schema import is_per_state
from iltools_datasets.doctor.finding import Finding
from iltools_datasets.motion.clip import Floats, Motion
from iltools_datasets.motion.kinds import NAMES, VELOCITY_OF

Check = Callable[[Motion], Iterator[Finding]]

NORM_TOLERANCE = 1e-3
"""How far the norm of a quaternion may be from 1."""

_JUMP_RATIO = 6.0
_LEAST_JUMP = 0.1  # m or rad
_LEAST_JUMP_SPEED = 5.0  # m/s or rad/s
_FULL_TURN_TOLERANCE = 0.5  # rad
_REPEATED_SHARE = (0.2, 0.9)
_LEAST_STATES = 10
_JOINT_VELOCITIES = frozenset(VELOCITY_OF[key] for key, name in NAMES.items() if name.of == "joint" and name.velocity)


def check_length(motion: Motion) -> Iterator[Finding]:
    """Find clips of one frame: they have no transition, unless it is one by itself."""
    if motion.num_states < 2 and not motion.lacks_next:
        yield Finding("length", motion.clip, None, 0, f"has {motion.num_states} frame, a transition needs two")


def check_values(motion: Motion) -> Iterator[Finding]:
    """Find NaN and infinity."""
    for key, array in motion.arrays.items():
        if array.dtype.kind == "f" and is_per_state(array.dtype, array.shape):
            broken = ~np.isfinite(array.reshape(len(array), -1))
            if broken.any():
                frame, column = np.argwhere(broken)[0]
                value = array.reshape(len(array), -1)[frame, column]
                yield Finding(
                    "value",
                    motion.clip,
                    key,
                    int(frame),
                    f"{value} in column {column}; {int(broken.sum())} such values in "
                    f"{int(broken.any(axis=1).sum())} frames",
                )


def check_quaternions(motion: Motion) -> Iterator[Finding]:
    """Find quaternions that are off unit norm, and such that change sign from one frame to the next."""
    for rotations in motion.rotations:
        norms = np.linalg.norm(rotations.quaternions, axis=-1)
        off = np.nan_to_num(np.abs(norms - 1))
        if off.max(initial=0) > NORM_TOLERANCE:
            frame, which = np.unravel_index(int(off.argmax()), off.shape)
            count = int((off > NORM_TOLERANCE).any(axis=1).sum())
            yield Finding(
                "quaternion",
                motion.clip,
                rotations.key,
                int(frame),
                f"{rotations.labels[which]}: norm {norms[frame, which]:.4g}, expected 1; {count} frames are off",
            )
        products = (rotations.quaternions[1:] * rotations.quaternions[:-1]).sum(axis=-1)
        flips = np.argwhere(products < 0)
        if len(flips):
            frame, which = flips[0]
            yield Finding(
                "quaternion",
                motion.clip,
                rotations.key,
                int(frame) + 1,
                f"{rotations.labels[which]}: flips its sign; {len(flips)} flips in the clip. It is the same rotation, "
                "but not for a network or a difference",
            )


def check_jumps(motion: Motion) -> Iterator[Finding]:
    """Find teleports: a coordinate that moves several times further in one frame than in the frames around it."""
    floor = max(_LEAST_JUMP, _LEAST_JUMP_SPEED / motion.fps) if motion.fps is not None else _LEAST_JUMP
    for coordinates in motion.coordinates:
        steps = np.abs(np.diff(coordinates.values, axis=0))
        around = _largest_nearby(steps)
        ratio = np.where(steps > floor, steps / np.maximum(around, floor / (2 * _JUMP_RATIO)), 0.0)
        ratio = np.nan_to_num(ratio)
        if ratio.max(initial=0) > _JUMP_RATIO:
            frame, column = np.unravel_index(int(ratio.argmax()), ratio.shape)
            size = steps[frame, column]
            turn = " (a full turn: is the angle wrapped?)" if abs(size - 2 * np.pi) < _FULL_TURN_TOLERANCE else ""
            yield Finding(
                "jump",
                motion.clip,
                coordinates.key,
                int(frame) + 1,
                f"{coordinates.labels[column]} jumps by {size:.3g}{turn}, in the frames around it at most by "
                f"{around[frame, column]:.3g}; {int((ratio > _JUMP_RATIO).any(axis=1).sum())} such frames",
            )


def _largest_nearby(steps: Floats) -> Floats:
    """Return, for each step [T, C], the largest of the second and third steps before and after it.

    The direct neighbours are left out: a single displaced frame makes two steps in a row.
    """
    around = np.zeros_like(steps)
    for distance in (2, 3):
        around[distance:] = np.maximum(around[distance:], steps[:-distance])
        around[:-distance] = np.maximum(around[:-distance], steps[distance:])
    return around


def check_repeats(motion: Motion) -> Iterator[Finding]:
    """Find motion of a lower rate, stored at a higher one by repeating frames."""
    same = repeated_frames(motion)
    if same is not None:
        yield Finding(
            "repeat",
            motion.clip,
            None,
            int(same.argmax()) + 1,
            f"{int(same.sum())} of {motion.num_states} frames repeat the one before: motion of a lower rate? Its "
            "velocities were not looked at",
        )


def repeated_frames(motion: Motion) -> NDArray[np.bool_] | None:
    """Return which frames after the first, bool [T - 1], repeat the one before; None unless a good part does."""
    values = [coordinates.values for coordinates in motion.coordinates]
    values += [rotations.quaternions.reshape(motion.num_states, -1) for rotations in motion.rotations]
    if not values or motion.num_states < _LEAST_STATES:
        return None
    same: NDArray[np.bool_] = (np.diff(np.concatenate(values, axis=1), axis=0) == 0).all(axis=1)
    least, most = _REPEATED_SHARE
    return same if least <= same.mean() <= most else None


def check_names(motion: Motion) -> Iterator[Finding]:
    """Find joint and body names that are given twice, or whose number does not fit the arrays."""
    for attribute, of in (("joint_names", "joint"), ("body_names", "body")):
        names = motion.attributes.get(attribute)
        if not isinstance(names, list | tuple):
            continue
        twice = sorted({str(name) for name in names if list(names).count(name) > 1})
        if twice:
            yield Finding("names", motion.clip, None, None, f"{attribute} gives {', '.join(twice)} more than once")
        for key, array in motion.arrays.items():
            known = NAMES.get(key)
            if known is None or known.of != of or key in _JOINT_VELOCITIES or array.ndim < 2:
                continue
            if len(names) in _name_counts(attribute, array.shape[1]):
                continue
            message = f"has width {array.shape[1]}, but there are {len(names)} {attribute}"
            yield Finding("names", motion.clip, key, None, message)


def _name_counts(attribute: str, width: int) -> set[int]:
    # A free joint takes seven numbers and one name, or none where only the hinges are named.
    return {width} if attribute == "body_names" else {width, width - 7, width - 6}
