"""Robot motion in CSV, as Unitree's: a row per frame with the root's pose and the joint angles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.kinematics import FREE_JOINT_DIFFERENCES, free_joint_velocity
from iltools_datasets.motion.orders import find_evidence
from iltools_datasets.motion.rotations import as_wxyz
from iltools_datasets.sources.formats.csv_table import head_of_table, read_table
from iltools_datasets.sources.formats.robot_columns import ROOT_COLUMNS, RobotColumns, find_columns, unit_scale
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import Names, ToldSource

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

_G1 = "g1"
_RATE_IN_NAME = re.compile(r"(?<![0-9.])([0-9]+(?:\.[0-9]+)?)\s*(?:hz|fps)(?![a-z])", re.IGNORECASE)
_LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_ANGLES = {"rad": 1.0, "deg": np.pi / 180}


class UnitreeCsvSource(ToldSource):
    """Columns: root position xyz in metres, root quaternion **xyzw**, one angle in radians per joint.

    Each file becomes one trajectory with `qpos [T, 7 + joints]`, its root quaternion reordered to **wxyz**, and
    `qvel [T, 6 + joints]` by finite differences (`kinematics.free_joint_velocity`: linear velocity in the world's
    frame, angular velocity in the root's). Both are float64, so the numbers of the file come back exactly as parsed.

    A header may name the columns: of the root in any place and order, the joints by their names. Columns that count
    frames or tell the time are left out. Cells are separated by commas, semicolons, tabs, bars or blanks.

    Args:
        path: a CSV file, or a directory of them.
        motion, quaternion_order, body_names, skip: as `ToldSource` takes them. Without an order that of the header
            is taken, else xyzw; a file in which the robot then lies and otherwise stands is refused.
        fps: frames per second. By default what a column of times or the file's name (`walk_60hz.csv`) says; without
            any it is an error.
        joint_names: one per joint, or "g1" for those of a Unitree G1. By default those of the header; else those of the
            G1 for 29 joints in a file whose path says g1, which the attribute `joint_names_from` says; else none.
        lengths: unit of the root's position: "m", "cm" or "mm".
        angles: unit of the joints: "rad" or "deg".
    """

    format = "unitree-csv"
    summary = "robot CSV: root xyz, root quaternion xyzw (or as the header says), joint angles (G1: 36 columns)"
    suffixes = (".csv",)
    usual_order = "xyzw"

    def __init__(
        self,
        path: Path | str,
        *,
        motion: str | None = None,
        fps: float | None = None,
        quaternion_order: Literal["wxyz", "xyzw", "auto"] | None = None,
        joint_names: Names | None = None,
        body_names: Names | None = None,
        skip: Names = (),
        lengths: Literal["m", "cm", "mm"] = "m",
        angles: Literal["rad", "deg"] = "rad",
    ) -> None:
        g1 = isinstance(joint_names, str) and joint_names.strip().lower() == _G1
        super().__init__(
            path,
            motion=motion,
            fps=fps,
            quaternion_order=quaternion_order,
            joint_names=G1_JOINTS if g1 else joint_names,
            body_names=body_names,
            skip=skip,
        )
        self.lengths, self.angles = unit_scale("lengths", lengths, _LENGTHS), unit_scale("angles", angles, _ANGLES)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.suffix.lower() != ".csv" or not path.is_file():
            return False
        head = head_of_table(path)
        return head is not None and len(head) > ROOT_COLUMNS

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        path = file.path
        table = read_table(path)
        rows = table.values
        _refuse_unfit(path, rows)
        columns = find_columns(path, rows, table.names)
        for remark in (*table.remarks, *columns.remarks):
            self.about(path, remark)
        fps = self._fps_of(path, columns.fps)
        order = self.order(path, find_evidence(rows[:, columns.quaternion]), columns.order)
        rotation = as_wxyz(rows[:, columns.quaternion], order)
        position, joints = rows[:, columns.position], rows[:, columns.joints]
        if self.lengths != 1:
            position = position * self.lengths
        if self.angles != 1:
            joints = joints * self.angles
        qpos = np.concatenate([position, rotation, joints], axis=1)
        arrays = {"qpos": qpos, "qvel": free_joint_velocity(qpos, fps)}
        yield Recording(
            arrays={key: array for key, array in arrays.items() if key not in self.skip},
            fps=fps,
            quaternions={"qpos": (3,)},
            velocities={"qvel": FREE_JOINT_DIFFERENCES},
            attributes={
                "qpos_layout": "root xyz (m), root quaternion wxyz, joint angles (rad)",
                "quaternion_order_in_file": order,
                **self._names_of(path, columns),
            },
        )

    def _fps_of(self, path: Path, of_times: float | None) -> float:
        named = _RATE_IN_NAME.search(path.name)
        of_name = float(named[1]) if named is not None and float(named[1]) else None
        if None not in (of_times, of_name) and of_times != of_name and self.fps is None:
            self.about(path, f"its times say {of_times:g} frames per second, its name {of_name:g}; the times count")
        stated = of_name if of_times is None else of_times
        rate = stated if self.fps is None else self.fps
        return self.needed_rate(path, rate, "the format does not hold the rate and the name does not say it")

    def _names_of(self, path: Path, columns: RobotColumns) -> dict[str, Any]:
        joints = len(columns.joints)
        if self.joint_names is not None:
            if len(self.joint_names) != joints:
                raise SourceError(f"{path}: has {joints} joints, but {len(self.joint_names)} joint names were given")
            return {"joint_names": list(self.joint_names)}
        if columns.names is not None:
            return {"joint_names": list(columns.names)}
        if joints != len(G1_JOINTS):
            return {}
        if _says_g1(path, self.path):
            return {"joint_names": list(G1_JOINTS), "joint_names_from": "assumed: 29 joints, and the path says g1"}
        self.about(path, "29 joints without names, as a Unitree G1 has them; if it is one: pass joint_names=g1")
        return {}


def _says_g1(path: Path, root: Path) -> bool:
    """Tell whether the name of a file, of the path that was given, or of a directory between says G1."""
    parts = [path.name, *(parent.name for parent in path.parents if parent.is_relative_to(root)), root.resolve().name]
    if path == root:
        parts.append(path.resolve().parent.name)
    return any(re.search(rf"(?<![a-z0-9]){_G1}(?![0-9])", part.lower()) for part in parts)


def _refuse_unfit(path: Path, rows: NDArray[np.float64]) -> None:
    if len(rows) < 2:
        raise SourceError(f"{path}: has {len(rows)} rows, velocities need at least two")
    broken = np.argwhere(~np.isfinite(rows))
    if len(broken):
        row, column = broken[0]
        raise SourceError(f"{path}: row {row}, column {column} is {rows[row, column]}")
