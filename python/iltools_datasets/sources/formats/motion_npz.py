"""Motion-tracking npz: joint and body motion of one clip, as trackers of whole-body motion are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.description import QuaternionOrder
from iltools_datasets.motion.orders import ORDERS, find_evidence, other_order
from iltools_datasets.motion.root import bodies_at, body_named_root, find_root_body
from iltools_datasets.motion.rotations import as_wxyz
from iltools_datasets.sources.formats.further import further_arrays, quaternion_keys
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource, refuse_no_rotations, turned

_REQUIRED = ("joint_pos", "joint_vel", "body_pos_w", "body_quat_w")
_BODY_WIDTHS = {"body_pos_w": 3, "body_quat_w": 4, "body_lin_vel_w": 3, "body_ang_vel_w": 3}
_ROOT_WIDTH = 7
_VELOCITIES: tuple[str, ...] = ("joint_vel", "body_lin_vel_w", "body_ang_vel_w")
_NAMES: tuple[Literal["joint_names", "body_names"], ...] = ("joint_names", "body_names")
_SAME_ROTATION = 1e-3

Arrays = dict[str, NDArray[Any]]


class MotionTrackingSource(ToldSource):
    """`joint_pos [T, J]`, `joint_vel`, `body_pos_w [T, B, 3]`, `body_quat_w [T, B, 4]`, body velocities, `fps`.

    Keys, values and dtypes are kept, and so is every further member with a row of numbers per state (an object's pose,
    contacts); all body quantities are in the world's frame. Quaternions are wxyz in the archive. They are taken for
    wxyz in the file, as Isaac Lab wrote them before 3.0; where the stored angular velocities, or a root that would lie,
    say xyzw, the file is refused until somebody says which.

    Some writers put the root before the joints, so that `joint_pos` is `[T, 7 + J]`: root xyz, root quaternion,
    joints. That is known from `joint_names`, or from `joint_pos` being 7 (or, of `joint_vel`, 1) columns wider than it
    would be. The order of that quaternion is found by comparing it with the body that is the root: the one at the same
    place, else the one whose name says so.
    """

    format = "motion-npz"
    summary = "motion-tracking npz: joint_pos, joint_vel, body_pos_w, body_quat_w, fps"
    suffixes = (".npz",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return member_names(path) >= set(_REQUIRED)

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        path = file.path
        with Npz(path, self.skip) as npz:
            npz.require(_REQUIRED)
            fps = self.needed_rate(path, self.rate_in(npz))
            told = {what: self.names(path, what, npz.names(what)) for what in _NAMES}
            names = {str(what): found for what, found in told.items() if found is not None}
            arrays = {key: npz.read(key) for key in ("joint_pos", "joint_vel", *_BODY_WIDTHS) if key in npz.arrays}
            _check(path, arrays, names)
            arrays |= further_arrays(self, npz, len(arrays["joint_pos"]), {*arrays, *_NAMES})
        quaternions: dict[str, tuple[int, ...]] = {}
        order = self._order_of_bodies(path, arrays, names)
        attributes: dict[str, Any] = {**names, "quaternion_order_in_file": order}
        for key in list(quaternion_keys(arrays)):
            arrays[key], quaternions[key] = turned(arrays[key], (0,), order), (0,)
        if _has_root(arrays, names.get("joint_names")):
            root_order = self._order_of_root(path, arrays, names, order)
            arrays["joint_pos"] = turned(arrays["joint_pos"], (3,), root_order)
            quaternions["joint_pos"] = (3,)
            attributes["joint_pos_layout"] = f"root xyz, root quaternion wxyz ({root_order} in the file), joints"
        velocities = {key: "as in the file" for key in _VELOCITIES if key in arrays}
        yield Recording(arrays, fps, quaternions, velocities=velocities, attributes=attributes)

    def _order_of_bodies(self, path: Path, arrays: Arrays, names: dict[str, list[str]]) -> QuaternionOrder:
        rotations = arrays["body_quat_w"]
        if not rotations.shape[1]:
            return self.usual_order
        root = find_root_body(arrays["body_pos_w"], names.get("body_names"))
        return self.order(path, find_evidence(rotations[:, root], rotations, arrays.get("body_ang_vel_w")))

    def _order_of_root(
        self, path: Path, arrays: Arrays, names: dict[str, list[str]], order: QuaternionOrder
    ) -> QuaternionOrder:
        """Return the order of the root's quaternion in `joint_pos`, after the bodies were brought to wxyz."""
        pose = arrays["joint_pos"]
        refuse_no_rotations(path, "'joint_pos' columns 3 to 6", pose[:, 3:7])
        candidates = bodies_at(arrays["body_pos_w"], pose[:, :3])
        named = body_named_root(names.get("body_names"))
        if named is not None and named < arrays["body_quat_w"].shape[1]:
            candidates.append(named)
        for body in candidates:
            fitting = [o for o in ORDERS if _is_same(as_wxyz(pose[:, 3:7], o), arrays["body_quat_w"][:, body])]
            if fitting:
                return order if order in fitting else other_order(order)
        self.about(
            path,
            "no body stands and turns as the root in 'joint_pos' does, so the order of its quaternion was not found by "
            "comparing",
        )
        return self.order(path, find_evidence(pose[:, 3:7]), None if order == self.usual_order else order)


def _is_same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    # |q . p| is 1 for the same rotation, whatever the signs.
    return bool((np.abs((one * other).sum(axis=1)) > 1 - _SAME_ROTATION).all())


def _check(path: Path, arrays: Arrays, names: dict[str, list[str]]) -> None:
    frames = arrays["joint_pos"].shape[:1]
    bodies = arrays["body_pos_w"].shape[1:2]
    for key, array in arrays.items():
        expected = (*frames, *bodies, _BODY_WIDTHS[key]) if key in _BODY_WIDTHS else (*frames, *array.shape[1:2])
        if array.dtype.kind != "f" or array.shape != expected or array.ndim != (3 if key in _BODY_WIDTHS else 2):
            raise SourceError(f"{path}: {key!r} is {array.dtype} {list(array.shape)}, expected floats {list(expected)}")
    if "body_names" in names and len(names["body_names"]) != bodies[0]:
        raise SourceError(f"{path}: {len(names['body_names'])} body names, but {bodies[0]} bodies")
    joints = arrays["joint_pos"].shape[1]
    if "joint_names" in names and len(names["joint_names"]) not in (joints, joints - _ROOT_WIDTH):
        raise SourceError(f"{path}: {len(names['joint_names'])} joint names, but 'joint_pos' has {joints} columns")


def _has_root(arrays: Arrays, joint_names: list[str] | None) -> bool:
    width = arrays["joint_pos"].shape[1]
    if joint_names is not None:
        return bool(len(joint_names) == width - _ROOT_WIDTH)
    moving = arrays["joint_vel"].shape[1]
    return bool(width > _ROOT_WIDTH and moving in (width - 1, width - _ROOT_WIDTH))
