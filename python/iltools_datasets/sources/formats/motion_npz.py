"""Motion-tracking npz: joint and body motion of one clip, as trackers of whole-body motion are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, Source, SourceFile

_REQUIRED = ("joint_pos", "joint_vel", "body_pos_w", "body_quat_w")
_BODY_WIDTHS = {"body_pos_w": 3, "body_quat_w": 4, "body_lin_vel_w": 3, "body_ang_vel_w": 3}
_ROOT_WIDTH = 7
_VELOCITIES: tuple[str, ...] = ("joint_vel", "body_lin_vel_w", "body_ang_vel_w")
_NORM_TOLERANCE = 1e-2
_SAME_ROTATION = 1e-3
_XYZW_TO_WXYZ = [3, 0, 1, 2]


class MotionTrackingSource(Source):
    """`fps`, `joint_pos [T, J]`, `joint_vel`, `body_pos_w [T, B, 3]`, `body_quat_w [T, B, 4]` wxyz, body velocities.

    Keys, values and dtypes are kept; all body quantities are in the world's frame.

    Some writers put the root before the joints, so that `joint_pos` is `[T, 7 + J]`: root xyz, root quaternion,
    joints. That is known from `joint_names`, or from `joint_pos` being 7 (or, of `joint_vel`, 1) columns wider than it
    would be. Its quaternion is compared with that of the first body to find its order, and stored as wxyz.

    Args:
        path: a file or a directory of files.
        motion: one name for all files; by default each file is a motion of its own.
    """

    format = "motion-npz"
    summary = "motion-tracking npz: joint_pos, joint_vel, body_pos_w, body_quat_w (wxyz), fps"
    suffixes = (".npz",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return member_names(path) >= {"fps", *_REQUIRED}

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        with Npz(file.path) as npz:
            npz.require(("fps", *_REQUIRED))
            fps = npz.rate("fps")
            names = {key: found for key in ("joint_names", "body_names") if (found := npz.names(key)) is not None}
            arrays = {key: npz.read(key) for key in ("joint_pos", "joint_vel", *_BODY_WIDTHS) if key in npz.arrays}
            extra = sorted(npz.arrays.keys() - arrays.keys() - names.keys() - {"fps"})
            self.notes += [f"{npz.path}: left out {key!r}" for key in (*extra, *npz.unreadable)]
        _check(file.path, arrays, names)
        quaternions: dict[str, tuple[int, ...]] = {"body_quat_w": (0,)}
        attributes: dict[str, Any] = dict(names)
        if _has_root(arrays, names.get("joint_names")):
            arrays["joint_pos"], order = _root_as_wxyz(file.path, arrays["joint_pos"], arrays["body_quat_w"])
            quaternions["joint_pos"] = (3,)
            attributes["joint_pos_layout"] = f"root xyz, root quaternion wxyz ({order} in the file), joints"
        velocities = {key: "as in the file" for key in _VELOCITIES if key in arrays}
        yield Recording(arrays, fps, quaternions, velocities=velocities, attributes=attributes)


def _check(path: Path, arrays: dict[str, NDArray[Any]], names: dict[str, list[str]]) -> None:
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


def _has_root(arrays: dict[str, NDArray[Any]], joint_names: list[str] | None) -> bool:
    width = arrays["joint_pos"].shape[1]
    if joint_names is not None:
        return bool(len(joint_names) == width - _ROOT_WIDTH)
    moving = arrays["joint_vel"].shape[1]
    return bool(width > _ROOT_WIDTH and moving in (width - 1, width - _ROOT_WIDTH))


def _root_as_wxyz(path: Path, joint_pos: NDArray[Any], body_quat: NDArray[Any]) -> tuple[NDArray[Any], str]:
    root, body = joint_pos[:, 3:7], body_quat[:, 0]
    norms = np.linalg.norm(root, axis=1)
    if len(norms) and np.abs(norms - 1).max() > _NORM_TOLERANCE:
        row = int(np.abs(norms - 1).argmax())
        raise SourceError(
            f"{path}: row {row}: 'joint_pos' columns 3 to 6 are no unit quaternion (norm {norms[row]:.4f})"
        )
    reordered = root[:, _XYZW_TO_WXYZ]
    # |q . p| is 1 for the same rotation, whatever the signs.
    as_wxyz, as_xyzw = (np.abs((candidate * body).sum(axis=1)) for candidate in (root, reordered))
    if (as_xyzw > 1 - _SAME_ROTATION).all() and not (as_wxyz > 1 - _SAME_ROTATION).all():
        columns = joint_pos.copy()
        columns[:, 3:7] = reordered
        return columns, "xyzw"
    return joint_pos, "wxyz"
