"""Motion of people, retargeted to a robot: a root and joints; as GMR, TWIST, PHC, ASAP, PBHC and OmniH2O keep it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.description import QuaternionOrder
from iltools_datasets.motion.kinds import names_quaternion
from iltools_datasets.motion.kinematics import FREE_JOINT_DIFFERENCES, free_joint_velocity
from iltools_datasets.motion.orders import find_evidence
from iltools_datasets.sources.formats.held import Held
from iltools_datasets.sources.protocol import Recording
from iltools_datasets.sources.told import ToldSource, refuse_no_rotations, turned

POSITIONS = ("root_pos", "root_trans_offset", "root_trans", "root_translation", "base_pos")
ROTATIONS = ("root_rot", "root_quat", "root_rotation", "base_quat", "base_rot")
JOINTS = ("dof_pos", "dof", "dof_positions", "joint_pos")
_BODY_MODEL = (("pose_quat_global", "pose_quat", "pose_aa"), ("trans_orig", *POSITIONS))
"""A motion library of PHC without a robot: rotations of a body, and where its root is."""
_JOINT_NAMES, _BODY_NAMES = ("joint_names", "dof_names"), ("link_body_list", "body_names")


def is_retargeted(keys: Iterable[str]) -> bool:
    """Tell by its keys whether a clip has a root and joints."""
    names = set(keys)
    return all(names & set(group) for group in (POSITIONS, ROTATIONS, JOINTS))


def is_body_model(keys: Iterable[str]) -> bool:
    """Tell by its keys whether a clip is of a motion library of PHC without joints of a robot."""
    names = set(keys)
    return all(names & set(group) for group in _BODY_MODEL)


def read_retargeted(source: ToldSource, path: Path, clips: dict[str | None, Held]) -> Iterator[Recording]:
    """Yield a recording per clip: `qpos [T, 7 + joints]` with the root's quaternion wxyz, `qvel` by finite differences.

    Further arrays with a row per state keep their names; those whose name says quaternion are in the order of the root.
    The order is the file's: the evidence is that of all its clips.
    """
    roots = [rotation for clip in clips.values() if (rotation := _root_rotation(clip)) is not None]
    order = source.order(path, find_evidence(np.concatenate(roots))) if roots else None
    for name, clip in clips.items():
        yield _recording(source, path, name, clip, order or source.usual_order)


def _recording(source: ToldSource, path: Path, name: str | None, clip: Held, order: QuaternionOrder) -> Recording:
    arrays: dict[str, NDArray[Any]] = {}
    used: list[str] = []
    quaternions: dict[str, tuple[int, ...]] = {}
    fps = source.needed_rate(Path(clip.where), source.rate_of(path, clip.stated_rate))
    if is_retargeted(clip.arrays):
        keys = [str(clip.first(group)) for group in (POSITIONS, ROTATIONS, JOINTS)]
        position = clip.matrix(keys[0], 3)
        states = len(position)
        rotation, joints = clip.matrix(keys[1], 4, states), clip.matrix(keys[2], None, states)
        if states < 2:
            raise SourceError(f"{clip.where}: has {states} states, velocities need at least two")
        qpos = np.concatenate([position, turned(rotation, (0,), order), joints], axis=1)
        arrays = {"qpos": qpos, "qvel": free_joint_velocity(qpos.astype(np.float64), fps).astype(qpos.dtype)}
        quaternions, used = {"qpos": (3,)}, keys
    elif not is_body_model(clip.arrays):
        raise SourceError(f"{clip.where}: root position, root rotation and joints should be numbers")
    else:
        states = len(clip.arrays[str(clip.first(_BODY_MODEL[0]))])
        source.about(path, "a motion library of a human body, without joints of a robot; it is kept as it is")
    for key, array in clip.rows(states, {*used, "qpos", "qvel"} if used else ()).items():
        arrays[key] = array
        if names_quaternion(key) and array.shape[-1] == 4 and array.ndim > 1 and array.dtype.kind == "f":
            arrays[key], quaternions[key] = turned(array, (0,), order), (0,)
    attributes: dict[str, Any] = {} if name is None else {"clip": name}
    attributes |= source.all_names(path, clip.names(*_JOINT_NAMES), clip.names(*_BODY_NAMES))
    _check_names(clip, arrays, attributes)
    known = {*used, *arrays, *_JOINT_NAMES, *_BODY_NAMES}
    more = clip.attributes(known)
    clip.say_what_is_left(source, path, {*known, *more})
    if "qpos" in arrays:
        attributes["qpos_layout"] = "root xyz (m), root quaternion wxyz, joint angles (rad)"
    return Recording(
        {key: array for key, array in arrays.items() if key not in source.skip},
        fps=fps,
        quaternions=quaternions,
        velocities={"qvel": FREE_JOINT_DIFFERENCES} if "qvel" in arrays else {},
        attributes={**more, **attributes, "quaternion_order_in_file": order},
    )


def _root_rotation(clip: Held) -> NDArray[Any] | None:
    key = clip.first(ROTATIONS)
    if key is not None and is_retargeted(clip.arrays):
        rotation = clip.matrix(key, 4, len(clip.arrays[str(clip.first(POSITIONS))]))
        refuse_no_rotations(Path(clip.where), repr(key), rotation)
        return rotation
    key = clip.first(("pose_quat_global", "pose_quat"))
    array = None if key is None else clip.arrays[key]
    if array is None or array.ndim != 3 or not array.shape[1] or array.shape[2] != 4 or array.dtype.kind != "f":
        return None
    return array[:, 0]


def _check_names(clip: Held, arrays: dict[str, NDArray[Any]], attributes: dict[str, Any]) -> None:
    joints = arrays["qpos"].shape[1] - 7 if "qpos" in arrays else None
    names = attributes.get("joint_names")
    if joints is not None and names is not None and len(names) != joints:
        raise SourceError(f"{clip.where}: has {joints} joints, but {len(names)} joint names")
