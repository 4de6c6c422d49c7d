"""What a picture of a clip shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.cli.looked_at import ClipInfo, Opened
from iltools_datasets.cli.opened_lerobot import OpenedLeRobot
from iltools_datasets.errors import MissingKeyError
from iltools_datasets.motion.kinds import VELOCITY_OF
from iltools_datasets.motion.root import find_root_body

_ROOT_COLUMNS, _ROOT_QUATERNION = 7, 3
_STRIP_PICTURES = 6


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows.

    One clip's array [T, C] with a name per column, its root path, all clip lengths, and by camera some pictures
    (seconds [n], uint8 [n, H, W, C]); `notes` say what could not be shown.
    """

    path: str
    clip: ClipInfo
    key: str
    names: list[str]
    values: NDArray[Any]
    root: NDArray[Any] | None
    lengths: NDArray[np.int64]
    strips: Mapping[str, tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def scene_of(opened: Opened, position: int, key: str | None = None, with_pictures: bool = False) -> Scene:
    """Return what there is to draw of a clip.

    Args:
        opened: what holds it.
        position: of the clip.
        key: the array; None = positions, as far as there are any.
        with_pictures: read some of its cameras' pictures, too.

    Raises:
        MissingKeyError: the clip has no such array, or one without numbers.
    """
    of_set = opened if isinstance(opened, OpenedLeRobot) else None
    name = key or default_key(opened)
    rows = opened.read(position, [name])[name]
    if rows.dtype.kind not in "fiub" or not rows.size:
        raise MissingKeyError(f"{opened.path}: {name!r} holds nothing to draw")
    values = rows.reshape(len(rows), -1)
    strips, notes = of_set.strips(position, _STRIP_PICTURES) if of_set and with_pictures else ({}, [])
    return Scene(
        path=opened.path,
        clip=opened.clips[position],
        key=name,
        names=(of_set and of_set.column_names(name)) or _names(opened, position, name, rows.shape[1:]),
        values=values,
        root=_root_path(opened, position),
        lengths=np.array([clip.num_states for clip in opened.clips]),
        strips=strips,
        notes=notes,
    )


def default_key(opened: Opened) -> str:
    """Return the array that is drawn where none is named: positions, else an observation, else the first of floats."""
    for key in (*VELOCITY_OF, "observation", *opened.keys):
        if key in opened.keys and opened.keys[key].dtype.startswith("float"):
            return key
    return next(iter(opened.keys))


def _names(opened: Opened, position: int, key: str, shape: tuple[int, ...]) -> list[str]:
    width = int(np.prod(shape))
    joints = opened.attributes(position).get("joint_names")
    if isinstance(joints, list) and len(shape) == 1:
        if len(joints) == width:
            return [str(name) for name in joints]
        if len(joints) == width - _ROOT_COLUMNS:
            return [*(f"root {axis}" for axis in ("x", "y", "z")), *(f"root q{i}" for i in range(4)), *map(str, joints)]
    return [
        f"{key}[{', '.join(map(str, np.unravel_index(column, shape)))}]" if shape else key for column in range(width)
    ]


def _root_path(opened: Opened, position: int) -> NDArray[Any] | None:
    """Return x and y of the root over time, [T, 2], where a clip has a root or bodies."""
    keys, attributes = opened.keys, opened.attributes(position)
    declared = attributes.get("quaternions") or {}
    if "qpos" in keys and "qvel" in keys and keys["qpos"].shape == (keys["qvel"].shape[0] + 1,):
        return opened.read(position, ["qpos"])["qpos"][:, :2]
    if "joint_pos" in keys and list(declared.get("joint_pos") or ()) == [_ROOT_QUATERNION]:
        return opened.read(position, ["joint_pos"])["joint_pos"][:, :2]
    for key in ("body_pos_w", "body_positions"):
        if key in keys:
            bodies = opened.read(position, [key])[key]
            root = find_root_body(bodies, attributes.get("body_names"))
            return bodies[:, root, :2] if bodies.ndim == 3 and bodies.shape[1] else None
    return None
