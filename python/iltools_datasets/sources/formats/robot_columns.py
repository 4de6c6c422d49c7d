"""Which column of a robot's table is what: root position, root quaternion, joints, and those that only count frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.description import QuaternionOrder

ROOT_COLUMNS = 7
_NORM_TOLERANCE = 1e-2
_BEFORE = r"(?:.*(?:^|[_ .]))?"
_QUATERNION = re.compile(_BEFORE + r"(?:q|quat|quaternion|rot|rotation|orientation|ori|wxyz|xyzw)[_ .]?([wxyz])")
_POSITION = re.compile(
    _BEFORE + r"(?:p|pos|position|t|trans|translation|translate|root|base|pelvis|torso|com)?[_ .]?([xyz])"
)
_COUNTING = re.compile(r"(?:|unnamed: ?0|index|idx|id|frames?|frame[_ ]?(?:id|idx|index|number|num|no|nr)|step|row|n)")
_TIME = re.compile(r"(?:t|time|times|timestamps?|seconds|secs?)(?:[_ ]?(?:s|secs?|seconds))?")


@dataclass(frozen=True, slots=True)
class RobotColumns:
    """Where a robot's coordinates stand in a table.

    Attributes:
        position: three columns, x, y, z.
        quaternion: four columns, in the order of the file.
        joints: the others, one per joint.
        order: of the quaternion, where the names say it.
        names: of the joints, where there is a header.
        fps: where a column of times says it.
        remarks: what was taken for what, where it is not plain.
    """

    position: tuple[int, ...]
    quaternion: tuple[int, ...]
    joints: tuple[int, ...]
    order: QuaternionOrder | None = None
    names: tuple[str, ...] | None = None
    fps: float | None = None
    remarks: tuple[str, ...] = ()


def find_columns(path: Path, values: NDArray[np.float64], names: Sequence[str] | None) -> RobotColumns:
    """Sort the columns of a table, by their names where there are any, else by their place and their numbers.

    Raises SourceError, with what the columns look like, if no unit quaternion follows a position.
    """
    lead, fps, remarks = _counting_columns(values, names)
    left = [column for column in range(values.shape[1]) if column not in lead]
    if len(left) <= ROOT_COLUMNS:
        raise SourceError(
            f"{path}: has {len(left)} columns{' besides those that count' if lead else ''}, expected 7 of the root and "
            "at least one joint"
        )
    by_name = None if names is None else _by_name(left, names)
    if by_name is not None:
        position, quaternion, order = by_name
    else:
        position, quaternion, order = tuple(left[:3]), tuple(left[3:ROOT_COLUMNS]), None
    joints = tuple(column for column in left if column not in (*position, *quaternion))
    _refuse_no_rotation(path, values, quaternion, left)
    called = None if names is None else tuple(names[column] for column in joints)
    if called is not None and (len(set(called)) < len(called) or not all(called)):
        called, remarks = None, [*remarks, "the header does not name each joint once, so they have no names"]
    return RobotColumns(position, quaternion, joints, order, called, fps, tuple(remarks))


def _counting_columns(
    values: NDArray[np.float64], names: Sequence[str] | None
) -> tuple[set[int], float | None, list[str]]:
    """Return the columns that count frames or tell the time, the rate that they tell, and what is to say of it."""
    lead: set[int] = set()
    fps, remarks = None, []
    for column in range(values.shape[1]):
        name = None if names is None else _plain(names[column])
        if name is not None:
            counts, tells = _COUNTING.fullmatch(name) is not None, _TIME.fullmatch(name) is not None
        else:
            # Without names only what stands before a unit quaternion, and makes room for it, can be anything else.
            is_shifted = column < 2 and column == len(lead) and _norms_fit(values, len(lead) + 3) is False
            helps = is_shifted and any(_norms_fit(values, column + shift) for shift in (4, 5))
            counts = helps and _is_counter(values[:, column])
            tells = helps and not counts and _is_clock(values[:, column])
        if not (counts or tells):
            if name is None:
                break
            continue
        lead.add(column)
        rate = _rate(values[:, column]) if tells else None
        fps = fps or rate
        what = f"tells the time ({rate:g} per second)" if rate else "counts frames" if counts else "tells the time"
        remarks.append(f"column {column}{f' ({names[column]!r})' if names is not None else ''} {what} and was left out")
    return lead, fps, remarks


def _norms_fit(values: NDArray[np.float64], first: int) -> bool:
    if first + 4 > values.shape[1]:
        return False
    return bool((np.abs(np.linalg.norm(values[:, first : first + 4], axis=1) - 1) <= _NORM_TOLERANCE).all())


def _is_counter(column: NDArray[np.float64]) -> bool:
    return len(column) > 1 and bool((np.diff(column) == np.diff(column)[0]).all()) and float(np.diff(column)[0]) >= 1


def _is_clock(column: NDArray[np.float64]) -> bool:
    return len(column) > 1 and bool((np.diff(column) > 0).all())


def _rate(column: NDArray[np.float64]) -> float | None:
    """Return the frames per second of a column of seconds, rounded where the text was; None unless they are even."""
    steps = np.diff(column)
    if not len(steps) or not (steps > 0).all():
        return None
    mean = float(column[-1] - column[0]) / len(steps)
    if np.abs(steps - mean).max() > 0.2 * mean:
        return None
    rate = 1 / mean
    if not 1 <= rate <= 10_000:
        return None  # no seconds
    return float(round(rate)) if abs(rate - round(rate)) < 1e-3 * rate and round(rate) else rate


def _by_name(
    columns: list[int], names: Sequence[str]
) -> tuple[tuple[int, ...], tuple[int, ...], QuaternionOrder | None] | None:
    plain = {column: _plain(names[column]) for column in columns}
    turning: dict[str, int] = {}
    for column in columns:
        if match := _QUATERNION.fullmatch(plain[column]):
            turning.setdefault(match[1], column)
    at: dict[str, int] = {}
    for column in columns:
        if column not in turning.values() and (match := _POSITION.fullmatch(plain[column])):
            at.setdefault(match[1], column)
    if set(turning) != set("wxyz") or set(at) != set("xyz"):
        return None
    order: QuaternionOrder = "wxyz" if turning["w"] < turning["x"] else "xyzw"
    return tuple(at[axis] for axis in "xyz"), tuple(turning[axis] for axis in order), order


def _plain(name: str) -> str:
    return re.sub(r"[\[\](){}]", "", name).strip().lower()


def _refuse_no_rotation(path: Path, values: NDArray[np.float64], quaternion: tuple[int, ...], left: list[int]) -> None:
    norms = np.linalg.norm(values[:, quaternion], axis=1)
    worst = int(np.abs(norms - 1).argmax())
    if abs(norms[worst] - 1) <= _NORM_TOLERANCE:
        return
    where = (
        f"columns {quaternion[0]} to {quaternion[-1]}"
        if np.array_equal(np.diff(quaternion), [1, 1, 1])
        else f"columns {', '.join(map(str, quaternion))}"
    )
    text = f"{path}: row {worst}: {where} should be a unit quaternion, their norm is {norms[worst]:.4f}"
    raise SourceError(text + _suspicion(values, left))


def _suspicion(values: NDArray[np.float64], left: list[int]) -> str:
    """Say what a table looks like whose columns 3 to 6 are no unit quaternion."""
    for first in range(values.shape[1] - 3):
        if first != left[3] and _norms_fit(values, first):
            extra = first - 3
            if extra > 0:
                what = "frame index" if _is_counter(values[:, 0]) else "time" if _is_clock(values[:, 0]) else "number"
                more = "" if extra == 1 else f" and {extra - 1} more"
                return (
                    f"; columns {first} to {first + 3} are one: column 0 looks like a {what}{more} before the root, "
                    "which has to go"
                )
            return f"; columns {first} to {first + 3} are one: is there no position before it?"
    if _is_counter(values[:, 0]):
        return "; column 0 looks like a frame index"
    largest = float(np.abs(values[:, left[3:6]]).max())
    if largest > 2 * np.pi:
        return "; are these Euler angles in degrees? A root is turned by a quaternion here"
    return "; are these Euler angles, or is it not a robot's table?"


def unit_scale(name: str, value: Any, units: dict[str, float]) -> float:
    """Return what a unit's numbers are multiplied by; SourceError names the units there are."""
    if value not in units:
        raise SourceError(f"option {name}: expected one of {', '.join(units)}, found {value!r:.40}")
    return units[value]
