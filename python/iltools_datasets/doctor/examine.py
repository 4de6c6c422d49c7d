"""Every check over every clip of an archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integer
from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.archive.schema import TRANSITION_KEYS, Trajectory
from iltools_datasets.doctor.checks import (
    Check,
    check_jumps,
    check_length,
    check_names,
    check_quaternions,
    check_repeats,
    check_values,
)
from iltools_datasets.doctor.finding import Finding
from iltools_datasets.doctor.offsets import Offset
from iltools_datasets.doctor.posture import check_posture
from iltools_datasets.doctor.velocities import look_at_velocities
from iltools_datasets.errors import ArgumentError
from iltools_datasets.motion.clip import see_motion
from iltools_datasets.motion.description import declared_rate
from iltools_datasets.motion.kinds import VELOCITY_OF

_T = TypeVar("_T", bound=Hashable)

_CHECKS: tuple[Check, ...] = (
    check_length,
    check_values,
    check_quaternions,
    check_jumps,
    check_repeats,
    check_names,
    check_posture,
)


@dataclass(slots=True)
class Diagnosis:
    """What was looked at and what was found.

    Attributes:
        findings: clip by clip in the archive's order.
        notes: what could not be checked, and why.
    """

    path: str
    num_clips: int = 0
    num_states: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def examine(
    path: str | os.PathLike[str],
    fps: float | None = None,
    progress: Callable[[], None] | None = None,
    most: int | None = None,
) -> Diagnosis:
    """Look at every clip of an archive, one at a time.

    Args:
        path: the archive, as `ArchiveReader` takes it.
        fps: the rate to hold velocities against, instead of what each clip declares.
        progress: called after each clip.
        most: clips whose values are read, evenly spread over the archive, with a note that says so; None = all.

    Raises:
        ArgumentError: a rate that is none, or fewer clips than one.
        SourceError: the archive cannot be read. A damaged chunk is such an error, not a finding.

    Examples:
        >>> diagnosis = examine("walks.zarr")
        >>> sorted({finding.check for finding in diagnosis.findings})
        ['orientation', 'quaternion', 'velocity']
    """
    if fps is not None and not 0 < fps < inf:
        raise ArgumentError(f"fps: expected a positive number, found {fps:g}")
    reader = ArchiveReader(path)
    chosen = [reader.trajectories[position] for position in evenly_spread(len(reader), most)]
    diagnosis = examine_clips(str(path), reader.stream(chosen), reader.trajectories, fps, progress)
    diagnosis.notes += [f"left out: {line}" for line in reader.skipped]
    return diagnosis


def evenly_spread(count: int, most: int | None) -> list[int]:
    """Return positions below `count`: all of them, or at most so many, from the first to the last."""
    if most is None or checked_integer("most", most, low=1) >= count:
        return list(range(count))
    return [int(position) for position in np.linspace(0, count - 1, most).round()]


def examine_clips(
    path: str,
    clips: Iterable[tuple[Trajectory, Mapping[str, NDArray[Any]]]],
    known_clips: Sequence[Trajectory],
    fps: float | None = None,
    progress: Callable[[], None] | None = None,
) -> Diagnosis:
    """Look at the values of some clips, and at what all of them declare.

    Args:
        path: what they belong to, for the diagnosis.
        clips: those to read, with their arrays [T, ...] or [T - 1, ...].
        known_clips: all of them.
        fps: the rate to hold velocities against, instead of what each clip declares.
        progress: called after each clip.
    """
    diagnosis = Diagnosis(path)
    known = {*VELOCITY_OF, *VELOCITY_OF.values()}
    recognised = unrated = 0
    explained: list[tuple[str, Offset]] = []
    for trajectory, arrays in clips:
        if trajectory.misfit is not None:
            message = f"{trajectory.misfit}; what does not fit was not looked at"
            diagnosis.findings.append(Finding("length", trajectory.path, None, None, message))
            arrays = {key: rows for key, rows in arrays.items() if _fits(key, len(rows), trajectory.num_states)}
        motion = see_motion(trajectory, arrays, fps)
        diagnosis.num_clips += 1
        diagnosis.num_states += trajectory.num_states
        recognised += bool(known & set(arrays))
        unrated += motion.fps is None and motion.has_velocities
        findings, offsets = look_at_velocities(motion)
        diagnosis.findings += findings
        explained += [(trajectory.path, offset) for offset in offsets]
        for check in _CHECKS:
            diagnosis.findings += check(motion)
        if progress is not None:
            progress()
    diagnosis.findings += _compare_clips(known_clips, fps)
    diagnosis.findings += _compare_rows(known_clips)
    if diagnosis.num_clips < len(known_clips):
        diagnosis.notes.append(
            f"{diagnosis.num_clips:,} of {len(known_clips):,} clips, evenly spread, were looked at; what the others "
            "declare was compared, their values were not read"
        )
    if recognised < diagnosis.num_clips:
        diagnosis.notes.append(
            f"{diagnosis.num_clips - recognised} clips hold no positions or velocities under a known name "
            f"({', '.join(VELOCITY_OF)}): only values, lengths and declared quaternions were checked"
        )
    if unrated:
        diagnosis.notes.append(f"{unrated} clips declare no rate: velocities were held against the rate that fits them")
    diagnosis.notes += _explanations(explained)
    return diagnosis


def _explanations(explained: list[tuple[str, Offset]]) -> list[str]:
    """Say of which velocities a fixed offset in the bodies' frames explains that they disagree with the positions."""
    notes = []
    for key in dict.fromkeys(offset.velocity_key for _, offset in explained):
        offsets = [offset for _, offset in explained if offset.velocity_key == key]
        furthest = max(float(np.nanmax(np.linalg.norm(offset.points, axis=-1))) for offset in offsets)
        notes.append(
            f"{len(offsets)} clips: {key} are velocities of another point of each body than {offsets[0].position_key} "
            f"gives, at a fixed offset in the body's frame (up to {furthest:.3f} m): its centre of mass, as Isaac Lab "
            "writes them. They are right; whoever compares them with differences of the positions has to know"
        )
    return notes


def _fits(key: str, rows: int, num_states: int) -> bool:
    return rows == num_states or (key in TRANSITION_KEYS and rows == num_states - 1)


def _compare_clips(trajectories: Sequence[Trajectory], fps: float | None) -> list[Finding]:
    """Find groups of clips whose joint and body names, or whose rate, are not those of the first clip with any."""
    findings = []
    for attribute in ("joint_names", "body_names", "site_names"):
        named = {clip.path: tuple(map(str, clip.attributes.get(attribute) or ())) for clip in trajectories}
        for (path, names), (first_path, first), count in _variants(named):
            kind = "order" if sorted(names) == sorted(first) else "names"
            message = f"{attribute} differ in {kind} from those of {first_path}; so they do in {count} clips"
            findings.append(Finding("names", path, None, None, message))
    if fps is None:
        rated = {clip.path: declared_rate(clip.attributes) for clip in trajectories}
        for (path, rate), (first_path, first_rate), count in _variants(rated):
            message = f"declares {rate:g} frames per second, but {first_path} {first_rate:g}; so do {count} clips"
            findings.append(Finding("rate", path, None, None, message))
    return findings


def _compare_rows(trajectories: Sequence[Trajectory]) -> list[Finding]:
    """Find keys whose rows have another shape than in the first clip that has them: no store takes both."""
    findings = []
    for key in dict.fromkeys(key for clip in trajectories for key in clip.keys):
        rows = {clip.path: ("row", *clip.keys[key].shape[1:]) for clip in trajectories if key in clip.keys}
        for (path, found), (first_path, first), count in _variants(rows):
            message = f"a row is {list(found[1:])}, but {list(first[1:])} in {first_path}; so it is in {count} clips"
            findings.append(Finding("width", path, key, None, f"{message}. Is it another robot? A store takes one"))
    return findings


def _variants(declared: Mapping[str, _T]) -> Iterator[tuple[tuple[str, _T], tuple[str, _T], int]]:
    """Yield (first clip, value) of each value but the first clip's, that one, and how many clips have the value."""
    clips: dict[_T, list[str]] = {}
    for path, value in declared.items():
        if value:
            clips.setdefault(value, []).append(path)
    groups = [(paths[0], value, len(paths)) for value, paths in clips.items()]
    for path, value, count in groups[1:]:
        yield (path, value), groups[0][:2], count
