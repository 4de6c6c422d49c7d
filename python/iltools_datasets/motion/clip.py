"""A clip as the checks see it: its coordinates, its rotations and the velocities that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.schema import Trajectory
from iltools_datasets.motion.description import declared_rate
from iltools_datasets.motion.kinds import VELOCITY_OF, is_position_or_rotation, quaternion_columns

Floats = NDArray[np.float64]

_FREE_JOINT = (3,)


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Columns of one position array that are plain numbers (lengths or angles), and their velocities if there are any.

    `values` and `velocities` are [T, C]; `labels` name the columns.
    """

    key: str
    labels: tuple[str, ...]
    values: Floats
    velocity_key: str | None = None
    velocities: Floats | None = None


@dataclass(frozen=True, slots=True)
class Rotations:
    """Unit quaternions wxyz of one array, `quaternions` [T, Q, 4], and their angular velocities [T, Q, 3] if any."""

    key: str
    labels: tuple[str, ...]
    quaternions: Floats
    velocity_key: str | None = None
    velocities: Floats | None = None


@dataclass(frozen=True, slots=True)
class Motion:
    """One clip: its place, what it declares, and every array by what it is. `fps` is None where no rate is declared.

    `lacks_next` says that its rows are transitions, not states that follow each other.
    """

    clip: str
    num_states: int
    fps: float | None
    arrays: Mapping[str, NDArray[Any]]
    attributes: Mapping[str, Any]
    coordinates: tuple[Coordinates, ...]
    rotations: tuple[Rotations, ...]
    lacks_next: bool = False

    @property
    def has_velocities(self) -> bool:
        """Whether there are velocities to hold against the motion."""
        coordinates = any(entry.velocities is not None for entry in self.coordinates)
        return coordinates or any(entry.velocities is not None for entry in self.rotations)


def see_motion(trajectory: Trajectory, arrays: Mapping[str, NDArray[Any]], fps: float | None) -> Motion:
    """Sort a clip's arrays into coordinates and rotations; `fps` overrides the rate that its attributes declare."""
    declared = trajectory.attributes.get("quaternions", {})
    coordinates: list[Coordinates] = []
    rotations: list[Rotations] = []
    for key, array in arrays.items():
        if (key in declared or is_position_or_rotation(key)) and array.ndim >= 2:
            velocity_key = VELOCITY_OF.get(key)
            velocity = arrays.get(velocity_key) if velocity_key is not None else None
            velocity_shape = None if velocity is None else velocity.shape[1:]
            starts = quaternion_columns(key, array.shape[1:], velocity_shape, declared.get(key) or None)
            plain, turning = _split(key, array, velocity_key, velocity, starts, trajectory.attributes)
            coordinates += [plain] if plain.values.shape[1] else []
            rotations += [turning] if turning.quaternions.shape[1] else []
    rate = fps if fps is not None else declared_rate(trajectory.attributes)
    return Motion(
        trajectory.path,
        trajectory.num_states,
        rate,
        arrays,
        trajectory.attributes,
        tuple(coordinates),
        tuple(rotations),
        trajectory.lacks_next,
    )


def _split(
    key: str,
    array: NDArray[Any],
    velocity_key: str | None,
    velocity: NDArray[Any] | None,
    starts: tuple[int, ...],
    attributes: Mapping[str, Any],
) -> tuple[Coordinates, Rotations]:
    num_states, width = len(array), array.shape[-1]
    values = _numbers(array).reshape(num_states, -1, width)
    names = _column_names(key, array.shape[1:], starts, attributes)
    expected_width = width - len(starts)
    rates = None
    if velocity is not None and velocity.shape == (*array.shape[:-1], expected_width):
        rates = _numbers(velocity).reshape(num_states, -1, expected_width)
    walk = list(walk_columns(width, starts))
    plain_columns = [column for column, _, is_quaternion in walk if not is_quaternion]
    plain_rates = [rate for _, rate, is_quaternion in walk if not is_quaternion]
    turning = [(column, rate) for column, rate, is_quaternion in walk if is_quaternion]
    groups = values.shape[1]
    order = [3, 0, 1, 2] if attributes.get("quaternion_order") == "xyzw" else [0, 1, 2, 3]
    quaternions = [values[:, :, column : column + 4] for column, _ in turning]
    angular = [] if rates is None else [rates[:, :, column : column + 3] for _, column in turning]
    return (
        Coordinates(
            key,
            tuple(names[group, column] for group in range(groups) for column in plain_columns),
            values[:, :, plain_columns].reshape(num_states, -1),
            velocity_key,
            None if rates is None else rates[:, :, plain_rates].reshape(num_states, -1),
        ),
        Rotations(
            key,
            tuple(names[group, column] for column, _ in turning for group in range(groups)),
            np.concatenate(quaternions, axis=1)[..., order] if quaternions else np.empty((num_states, 0, 4)),
            velocity_key,
            np.concatenate(angular, axis=1) if angular else None,
        ),
    )


def _numbers(array: NDArray[Any]) -> Floats:
    """Return float64 with NaN for infinity: differences of NaN are NaN, those of infinities warn."""
    numbers = array.astype(np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def walk_columns(width: int, starts: tuple[int, ...]) -> Iterator[tuple[int, int, bool]]:
    """Yield (column, column of its velocity, whether a quaternion begins there) along the last axis."""
    column = rate_column = 0
    while column < width:
        is_quaternion = column in starts
        yield column, rate_column, is_quaternion
        column += 4 if is_quaternion else 1
        rate_column += 3 if is_quaternion else 1


def _column_names(
    key: str, shape: tuple[int, ...], starts: tuple[int, ...], attributes: Mapping[str, Any]
) -> dict[tuple[int, int], str]:
    width = shape[-1]
    groups = int(np.prod(shape[:-1]))
    joints, bodies = attributes.get("joint_names"), attributes.get("body_names")
    names = {}
    for group in range(groups):
        body = bodies[group] if groups > 1 and isinstance(bodies, list) and len(bodies) == groups else str(group)
        for column in range(width):
            names[group, column] = f"{key}[{column}]" if groups == 1 else f"{key}[{body}, {column}]"
    if groups == 1 and isinstance(joints, list):
        # Joint names cover the whole row, or what follows the root's pose.
        first = 7 if starts == _FREE_JOINT and len(joints) == width - 7 else 0
        if len(joints) == width - first and not (starts and first == 0):
            names.update({(0, first + number): str(name) for number, name in enumerate(joints)})
    return names
