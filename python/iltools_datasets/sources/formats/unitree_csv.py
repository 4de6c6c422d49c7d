"""Unitree-style CSV: a row per frame with the root's pose and the joint angles, no header."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.kinematics import FREE_JOINT_DIFFERENCES, free_joint_velocity
from iltools_datasets.sources.protocol import Recording, Source, SourceFile

G1_JOINTS = tuple(
    f"{name}_joint"
    for name in (
        *(f"left_{part}" for part in ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")),
        *(f"right_{part}" for part in ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")),
        *("waist_yaw", "waist_roll", "waist_pitch"),
        *(
            f"{side}_{part}"
            for side in ("left", "right")
            for part in (
                *("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow"),
                *("wrist_roll", "wrist_pitch", "wrist_yaw"),
            )
        ),
    )
)
"""The 29 joints of a Unitree G1 in the order of its motion files."""

_ROOT_COLUMNS = 7
_NORM_TOLERANCE = 1e-2
_RATE_IN_NAME = re.compile(r"(?<![0-9.])([0-9]+(?:\.[0-9]+)?)\s*(?:hz|fps)(?![a-z])", re.IGNORECASE)
_NUMBER = re.compile(rb"\s*[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?\s*")


class UnitreeCsvSource(Source):
    """Columns: root position xyz in metres, root quaternion **xyzw**, one angle in radians per joint.

    Each file becomes one trajectory with `qpos [T, 7 + joints]`, its root quaternion reordered to **wxyz**, and
    `qvel [T, 6 + joints]` by finite differences (`kinematics.free_joint_velocity`: linear velocity in the world's
    frame, angular velocity in the root's). Both are float64, so the numbers of the file come back exactly as parsed.

    Args:
        path: a CSV file, or a directory of them.
        motion: one name for all files; by default each file is a motion of its own.
        fps: frames per second. By default what the file's name says (`walk_60hz.csv`); without either it is an error.
        joint_names: one per joint; by default those of the G1 for 29 joints, else none.
    """

    format = "unitree-csv"
    summary = "Unitree-style CSV: root xyz, root quaternion xyzw, joint angles (G1: 36 columns)"
    suffixes = (".csv",)

    def __init__(
        self,
        path: Path | str,
        *,
        motion: str | None = None,
        fps: float | None = None,
        joint_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(path, motion=motion)
        if fps is not None and not (np.isfinite(fps) and fps > 0):
            raise SourceError(f"{self.path}: fps must be a positive number, got {fps}")
        self.fps = fps
        self.joint_names = joint_names

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.suffix.lower() != ".csv" or not path.is_file():
            return False
        with path.open("rb") as file:
            cells = file.readline(1 << 16).split(b",")
        return len(cells) > _ROOT_COLUMNS and all(_NUMBER.fullmatch(cell) for cell in cells)

    def read(self, file: SourceFile) -> Iterator[Recording]:
        fps = self._fps_of(file.path)
        rows = _parse(file.path)
        names = self._names_of(file.path, rows.shape[1] - _ROOT_COLUMNS)
        qpos = rows[:, [0, 1, 2, 6, 3, 4, 5, *range(_ROOT_COLUMNS, rows.shape[1])]]
        _check_quaternions(file.path, qpos[:, 3:7])
        yield Recording(
            arrays={"qpos": qpos, "qvel": free_joint_velocity(qpos, fps)},
            fps=fps,
            quaternions={"qpos": (3,)},
            velocities={"qvel": FREE_JOINT_DIFFERENCES},
            attributes={"qpos_layout": "root xyz (m), root quaternion wxyz, joint angles (rad)"}
            | ({} if names is None else {"joint_names": list(names)}),
        )

    def _fps_of(self, path: Path) -> float:
        if self.fps is not None:
            return float(self.fps)
        named = _RATE_IN_NAME.search(path.name)
        if named is None or not float(named[1]):
            raise SourceError(f"{path}: the format does not hold the rate and the name does not say it; pass fps=")
        return float(named[1])

    def _names_of(self, path: Path, joints: int) -> Sequence[str] | None:
        if self.joint_names is None:
            return G1_JOINTS if joints == len(G1_JOINTS) else None
        if len(self.joint_names) != joints:
            raise SourceError(f"{path}: has {joints} joints, but {len(self.joint_names)} joint names were given")
        return self.joint_names


def _parse(path: Path) -> NDArray[np.float64]:
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):  # loadtxt only warns of blank files
            rows: NDArray[Any] = np.loadtxt(path, delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    except (ValueError, UserWarning) as error:
        raise SourceError(f"{path}: not a table of numbers: {error}") from error
    if rows.shape[1] <= _ROOT_COLUMNS:
        raise SourceError(f"{path}: has {rows.shape[1]} columns, expected 7 of the root and at least one joint")
    if len(rows) < 2:
        raise SourceError(f"{path}: has {len(rows)} rows, velocities need at least two")
    broken = np.argwhere(~np.isfinite(rows))
    if len(broken):
        row, column = broken[0]
        raise SourceError(f"{path}: row {row}, column {column} is {rows[row, column]}")
    return rows


def _check_quaternions(path: Path, quaternions: NDArray[np.float64]) -> None:
    norms = np.linalg.norm(quaternions, axis=1)
    worst = int(np.abs(norms - 1).argmax())
    if abs(norms[worst] - 1) > _NORM_TOLERANCE:
        raise SourceError(
            f"{path}: row {worst}: columns 3 to 6 should be a unit quaternion, their norm is {norms[worst]:.4f}"
        )
