"""Mending what can be computed: signs of quaternions, rates, velocities."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.place import Location
from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.archive.schema import Trajectory
from iltools_datasets.archive.writer import ArchiveWriter
from iltools_datasets.doctor.velocities import Disagreement, certain_rate, disagreements, is_another_rate
from iltools_datasets.errors import ArgumentError, SchemaError
from iltools_datasets.motion.clip import see_motion, walk_columns
from iltools_datasets.motion.description import declared_rate
from iltools_datasets.motion.kinds import NAMES, VELOCITY_OF, is_position_or_rotation, quaternion_columns
from iltools_datasets.motion.kinematics import body_angular_velocity, rate_of_change
from iltools_datasets.motion.rotations import as_wxyz, into_body_frame, quaternion_inverse

Arrays = dict[str, NDArray[Any]]

_ROUND = 0.01
"""A rate that fits this closely to a whole number is that number."""
_CHANGES = "doctor"
"""The attribute of a clip that has what was changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What was changed in a clip: the array, None for what the clip declares, and what."""

    clip: str
    key: str | None
    message: str


@dataclass(slots=True)
class Mended:
    """A mended archive, and what was changed, clip by clip in the archive's order."""

    path: str
    num_clips: int = 0
    changes: list[Change] = field(default_factory=list)


def fix_archive(
    path: Location,
    mended_path: Location,
    fps: float | None = None,
    overwrite: bool = False,
    progress: Callable[[], None] | None = None,
) -> Mended:
    """Write an archive in which what the doctor finds, and what can be computed, is mended; return what was changed.

    * A quaternion that flips its sign from one frame to the next gets the sign of the frame before: the same rotation,
      and no other bit is changed.
    * A declared rate that is more than 10 % off the one that the velocities fit becomes that one, if several columns
      fit it, and none another one.
    * Columns of velocities that disagree with the motion, and that no fixed offset explains, become central differences
      at the rate of the clip: linear and joint velocities as they are, angular ones in the root's own frame in a
      `qvel`, in the world's for bodies. Of other arrays nobody knows in which frame those are; they are left.

    All else stays as it was, to the bit. What cannot be computed (NaN, jumps, repeated frames, other names) is left,
    and found again by `examine`. A changed clip says in its attribute `doctor` what was changed. Files of clips that
    are not changed are hard links, as `combine_archives` makes them.

    Args:
        path: the archive.
        mended_path: where the mended one goes; `path` itself with `overwrite`.
        fps: the rate of every clip, whatever it declares; velocities are held against it.
        overwrite: replace an archive that is there.
        progress: called after each clip.

    Raises:
        ArgumentError: a rate that is none.
        SchemaError: arrays of a clip do not fit together.
        SourceError: the archive cannot be read.
        ArchiveExistsError: as `ArchiveWriter`. Nothing is left after an error.
    """
    if fps is not None and not 0 < fps < inf:
        raise ArgumentError(f"fps: expected a positive number, found {fps:g}")
    with ArchiveReader(path) as reader:
        return _fix(reader, mended_path, fps, overwrite, progress)


def _fix(
    reader: ArchiveReader,
    mended_path: Location,
    fps: float | None,
    overwrite: bool,
    progress: Callable[[], None] | None,
) -> Mended:
    mended = Mended(os.fspath(mended_path) if isinstance(mended_path, str | os.PathLike) else str(mended_path))
    for clip in reader.misfits:
        raise SchemaError(f"{reader.path}: trajectory {clip.path}: {clip.misfit}")
    layout: Literal["nested", "packed"] = "packed" if reader.is_packed else "nested"
    shares = reader.lends_files and layout == "nested"
    with ArchiveWriter(mended_path, overwrite, layout=layout, metadata=reader.metadata) as writer:
        for clip, arrays in reader.stream():
            attributes, changes = mend(clip, arrays, fps)
            mended.changes += changes
            mended.num_clips += 1
            if shares and not changes:
                writer.take_over(reader, reader.group_of(clip), [clip])
            else:
                writer.add(clip.dataset_source, clip.motion, clip.name, arrays, attributes)
            if progress is not None:
                progress()
    return mended


def mend(clip: Trajectory, arrays: Arrays, fps: float | None = None) -> tuple[dict[str, Any], list[Change]]:
    """Mend the arrays of a clip in place; return its attributes as they should be, and what was changed.

    Rows that do not follow each other (`Trajectory.lacks_next`) are left as they are.
    """
    if clip.lacks_next:
        return dict(clip.attributes), []
    changes = [Change(clip.path, key, message) for key, message in _one_sign(clip, arrays)]
    attributes = dict(clip.attributes)
    declared = declared_rate(attributes)
    rate = fps if fps is not None else declared
    fitted = None if fps is not None else certain_rate(see_motion(clip, arrays, fps))
    if fitted is not None and declared is not None and is_another_rate(fitted, declared):
        rate = float(round(fitted)) if abs(round(fitted) / fitted - 1) < _ROUND else float(f"{fitted:.4g}")
    if rate is not None and rate != declared:
        _declare(attributes, rate)
        was = "none" if declared is None else f"{declared:g}"
        why = "as asked for" if fps is not None else "which the velocities fit"
        changes.append(Change(clip.path, None, f"declares {rate:g} frames per second, {why}; it declared {was}"))
    held_against = rate if rate is not None else fitted
    if held_against is not None:
        motion = see_motion(clip, arrays, held_against)
        for wrong in disagreements(motion, held_against):
            if count := _recompute(clip, arrays, wrong, held_against):
                message = f"{count} columns are differences of {wrong.of} at {held_against:g} Hz"
                changes.append(Change(clip.path, wrong.key, message))
    if changes:
        told = [f"{change.key}: {change.message}" if change.key else change.message for change in changes]
        attributes[_CHANGES] = [*attributes.get(_CHANGES, []), *told]
    return attributes, changes


def _declare(attributes: dict[str, Any], rate: float) -> None:
    known = {"fps": rate, "frequency": rate, "dt": 1 / rate}
    attributes.update({name: value for name, value in known.items() if name in attributes} or {"fps": rate})


def _starts(clip: Trajectory, arrays: Mapping[str, NDArray[Any]], key: str) -> tuple[int, ...]:
    """Return the columns at which quaternions begin, as `see_motion` finds them."""
    declared = clip.attributes.get("quaternions", {})
    array, velocity = arrays[key], arrays.get(VELOCITY_OF.get(key, ""))
    if array.ndim < 2 or not (key in declared or is_position_or_rotation(key)):
        return ()
    shape = None if velocity is None else velocity.shape[1:]
    return quaternion_columns(key, array.shape[1:], shape, declared.get(key) or None)


def _one_sign(clip: Trajectory, arrays: Arrays) -> list[tuple[str, str]]:
    """Give each quaternion the sign of the one before."""
    changed = []
    for key in arrays:
        for start in _starts(clip, arrays, key):
            quaternions = arrays[key][..., start : start + 4]
            as_double = np.nan_to_num(quaternions.astype(np.float64))
            products = (as_double[1:] * as_double[:-1]).sum(axis=-1)
            signs = np.concatenate([np.ones((1, *products.shape[1:])), np.where(products < 0, -1.0, 1.0)])
            turned = np.cumprod(signs, axis=0) < 0
            if turned.any():
                quaternions[turned] = -quaternions[turned]
                flips = int((products < 0).sum())
                changed.append((key, f"sign of {int(turned.sum())} quaternions, which flipped {flips} times"))
    return changed


def _recompute(clip: Trajectory, arrays: Arrays, wrong: Disagreement, rate: float) -> int:
    """Write differences into the columns that are wrong; return how many columns."""
    positions = arrays[wrong.of].astype(np.float64)
    starts = _starts(clip, arrays, wrong.of)
    width = positions.shape[-1]
    positions = positions.reshape(len(positions), -1, width)
    target = arrays[wrong.key]
    velocities = target.reshape(len(target), positions.shape[1], -1)  # a view: arrays are fresh and contiguous
    groups, count = positions.shape[1], 0
    walked = list(walk_columns(width, starts))
    plain = [(column, rate_column) for column, rate_column, is_quaternion in walked if not is_quaternion]
    turning = [(column, rate_column) for column, rate_column, is_quaternion in walked if is_quaternion]
    if wrong.turns:
        if wrong.key != "qvel" and NAMES[wrong.key].kind != "vector":
            return 0  # nobody knows in which frame it is
        is_xyzw = clip.attributes.get("quaternion_order") == "xyzw"
        for number, (column, rate_column) in enumerate(turning):
            for group in np.flatnonzero(wrong.columns[number * groups : (number + 1) * groups]):
                quaternions = positions[:, group, column : column + 4]
                quaternions = as_wxyz(quaternions, "xyzw" if is_xyzw else "wxyz")
                norms = np.linalg.norm(quaternions, axis=-1, keepdims=True)
                unit = quaternions / np.where(norms > 0, norms, 1)
                angular = body_angular_velocity(unit, rate)
                if wrong.key != "qvel":
                    angular = into_body_frame(angular, quaternion_inverse(unit))
                velocities[:, group, rate_column : rate_column + 3] = angular
                count += 3
        return count
    for position in np.flatnonzero(wrong.columns):
        group, (column, rate_column) = position // len(plain), plain[position % len(plain)]
        velocities[:, group, rate_column] = rate_of_change(positions[:, group, column], rate)
        count += 1
    return count
