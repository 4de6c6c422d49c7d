"""Motion in JSON: DeepMimic's, and that of motion_imitation and AMP for legged robots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.description import QuaternionOrder
from iltools_datasets.motion.kinematics import FREE_JOINT_DIFFERENCES, free_joint_velocity
from iltools_datasets.motion.orders import ORDERS, find_evidence
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource, rate_in_file, refuse_no_rotations, turned
from iltools_datasets.sources.walk import below

_FIRST, _HEAD = 1 << 8, 1 << 16
_FRAMES, _DURATION = "Frames", "FrameDuration"
_ROOT = 7
_HUMANOID = (43, (3, 7, 11, 15, 20, 24, 29, 34, 38))
"""Columns of DeepMimic's humanoid without the duration, and where its quaternions begin: root, chest, neck, right hip,
right ankle, right shoulder, left hip, left ankle, left shoulder; knees and elbows are single angles."""
_QUADRUPED = {
    "qpos": 19, "toe_pos_local": 12, "root_lin_vel": 3, "root_ang_vel": 3, "joint_vel": 12, "toe_vel_local": 12
}  # fmt: skip
"""Columns of AMP_for_hardware's frames."""
_SAME_DURATION = 1e-4


class MotionJsonSource(ToldSource):
    """A dictionary with `Frames`, a row of numbers per state.

    With `FrameDuration` (motion_imitation, AMP_for_hardware): root position, root quaternion **xyzw**, joints; the
    archive gets `qpos`, its quaternion wxyz, and `qvel` by finite differences as `unitree-csv` does. Rows of 61 numbers
    go on with feet and velocities, which keep the names of AMP_for_hardware.

    Without it (DeepMimic) each frame begins with its own duration; then root position, root quaternion **wxyz** and
    joints, of which spherical ones are quaternions, too: `qpos`, as it is, y upwards. Of the humanoid (43 numbers) it
    is known where they are; of other characters only the root's.

    Further entries are attributes. Values are what JSON's decimals are as float64.
    """

    format = "motion-json"
    summary = "JSON of DeepMimic, motion_imitation, AMP for legged robots: Frames, FrameDuration"
    suffixes = (".json", ".txt")
    owns_suffixes = False
    usual_order = "xyzw"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_FIRST)
            if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return False
            head += file.read(_HEAD)
            file.seek(max(0, path.stat().st_size - _HEAD))
            ends = head + file.read(_HEAD)
        return f'"{_FRAMES}"'.encode() in ends

    def _below(self) -> list[Path]:
        return [path for path in below(self.path, note=self.note) if self.recognises(path)]

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        path = file.path
        document = _read(path)
        frames = _frames(path, document)
        attributes: dict[str, Any] = {
            key: value
            for key, value in document.items()
            if key not in (_FRAMES, _DURATION)
            and isinstance(value, bool | int | float | str)
            and len(str(value)) < 1000
        }
        self.leave_out(path, document.keys() - attributes.keys() - {_FRAMES, _DURATION}, ": no single value")
        attributes |= self.all_names(path)
        if _DURATION in document:
            yield self._legged(path, frames, document[_DURATION], attributes)
        else:
            yield self._deep_mimic(path, frames, attributes)

    def _legged(self, path: Path, frames: NDArray[np.float64], duration: Any, attributes: dict[str, Any]) -> Recording:
        if frames.shape[1] <= _ROOT or len(frames) < 2:
            raise SourceError(
                f"{path}: {_FRAMES} is {list(frames.shape)}; root position, root quaternion and joints of two or more "
                "frames are expected"
            )
        fps = self.rate_of(path, lambda: _rate(path, duration))
        assert fps is not None
        widths = _QUADRUPED if frames.shape[1] == sum(_QUADRUPED.values()) else {"qpos": frames.shape[1]}
        arrays: dict[str, NDArray[Any]] = dict(
            zip(widths, np.split(frames, np.cumsum(list(widths.values()))[:-1], axis=1), strict=True)
        )
        rotation = arrays["qpos"][:, 3:7]
        refuse_no_rotations(path, f"{_FRAMES}, columns 3 to 6", rotation)
        order = self.order(path, find_evidence(rotation))
        arrays["qpos"] = turned(arrays["qpos"], (3,), order)
        arrays["qvel"] = free_joint_velocity(arrays["qpos"], fps)
        return Recording(
            {key: np.ascontiguousarray(array) for key, array in arrays.items() if key not in self.skip},
            fps=fps,
            quaternions={"qpos": (3,)},
            velocities={"qvel": FREE_JOINT_DIFFERENCES},
            attributes={
                **attributes,
                "qpos_layout": "root xyz (m), root quaternion wxyz, joint angles (rad)",
                "quaternion_order_in_file": order,
            },
        )

    def _deep_mimic(self, path: Path, frames: NDArray[np.float64], attributes: dict[str, Any]) -> Recording:
        if frames.shape[1] <= 1 + _ROOT:
            raise SourceError(
                f"{path}: {_FRAMES} is {list(frames.shape)}; without {_DURATION} each begins with its duration, root "
                "position, root quaternion and joints"
            )
        durations, qpos = frames[:, 0], np.ascontiguousarray(frames[:, 1:])
        known = qpos.shape[1] == _HUMANOID[0]
        columns = _HUMANOID[1] if known else (3,)
        for column in columns:
            refuse_no_rotations(path, f"{_FRAMES}, columns {column + 1} to {column + 4}", qpos[:, column : column + 4])
        order: QuaternionOrder = next((order for order in ORDERS if order == self.quaternion_order), "wxyz")
        if not known:
            self.about(path, "of its joints it is not known which are quaternions; the root's is at qpos[3:7]")
        return Recording(
            {"qpos": turned(qpos, columns, order)},
            fps=self.rate_of(path, lambda: _rate_of_all(path, durations)),
            quaternions={"qpos": columns} if known else None,
            attributes={**attributes, "up_axis": "y", "quaternion_order_in_file": order},
        )


def _rate(path: Path, duration: Any) -> float:
    return 1 / rate_in_file(f"{path}: ", _DURATION, duration)


def _rate_of_all(path: Path, durations: NDArray[np.float64]) -> float:
    # The last frame's duration leads nowhere, and is 0 in some files.
    lasting = durations[:-1] if len(durations) > 1 else durations
    if (np.abs(lasting - lasting[0]) > _SAME_DURATION * abs(lasting[0])).any():
        raise SourceError(f"{path}: its frames last {lasting.min():g} to {lasting.max():g} s, which is no rate")
    return _rate(path, float(lasting[0]))


def _read(path: Path) -> Mapping[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=refuse)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SourceError(f"{path}: damaged JSON: {error or type(error).__name__}") from error
    if not isinstance(document, dict):
        raise SourceError(f"{path}: a dictionary with {_FRAMES!r} is expected, found {type(document).__name__}")
    return document


def _frames(path: Path, document: Mapping[str, Any]) -> NDArray[np.float64]:
    frames = document.get(_FRAMES)
    if not isinstance(frames, list) or not frames or not all(isinstance(row, list) for row in frames):
        raise SourceError(f"{path}: {_FRAMES!r} should be rows of numbers")
    for number, row in enumerate(frames):
        if len(row) != len(frames[0]):
            raise SourceError(f"{path}: row {number} of {_FRAMES!r} has {len(row)} numbers, the first {len(frames[0])}")
        for column, value in enumerate(row):
            if type(value) not in (int, float):
                raise SourceError(f"{path}: row {number}, column {column} of {_FRAMES!r} is {value!r:.40}")
    try:
        array = np.array(frames, dtype=np.float64)
    except OverflowError as error:
        raise SourceError(f"{path}: {_FRAMES!r}: {error}") from error
    broken = np.argwhere(~np.isfinite(array))
    if len(broken):
        row, column = broken[0]
        raise SourceError(f"{path}: row {row}, column {column} of {_FRAMES!r} is {array[row, column]}")
    return array
