"""Every check over every clip of an archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

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
from iltools_datasets.doctor.velocities import check_velocities
from iltools_datasets.motion.clip import see_motion
from iltools_datasets.motion.description import declared_rate
from iltools_datasets.motion.kinds import VELOCITY_OF

_T = TypeVar("_T", bound=Hashable)

_CHECKS: tuple[Check, ...] = (
    check_length,
    check_values,
    check_quaternions,
    check_velocities,
    check_jumps,
    check_repeats,
    check_names,
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
    path: str | os.PathLike[str], fps: float | None = None, progress: Callable[[], None] | None = None
) -> Diagnosis:
    """Look at every clip of an archive, one at a time.

    Args:
        path: the archive, as `ArchiveReader` takes it.
        fps: the rate to hold velocities against, instead of what each clip declares.
        progress: called after each clip.

    Raises:
        SourceError, SchemaError: the archive cannot be read. A damaged chunk is such an error, not a finding.
    """
    reader = ArchiveReader(path)
    diagnosis = Diagnosis(str(path), len(reader.trajectories))
    known = {*VELOCITY_OF, *VELOCITY_OF.values()}
    recognised = unrated = 0
    for trajectory, arrays in reader.stream():
        if trajectory.misfit is not None:
            message = f"{trajectory.misfit}; what does not fit was not looked at"
            diagnosis.findings.append(Finding("length", trajectory.path, None, None, message))
            arrays = {key: rows for key, rows in arrays.items() if _fits(key, len(rows), trajectory.num_states)}
        motion = see_motion(trajectory, arrays, fps)
        diagnosis.num_states += trajectory.num_states
        recognised += bool(known & set(arrays))
        unrated += motion.fps is None and motion.has_velocities
        for check in _CHECKS:
            diagnosis.findings += check(motion)
        if progress is not None:
            progress()
    diagnosis.findings += _compare_clips(reader.trajectories, fps)
    if recognised < len(reader):
        diagnosis.notes.append(
            f"{len(reader) - recognised} clips hold no positions or velocities under a known name "
            f"({', '.join(VELOCITY_OF)}): only values, lengths and declared quaternions were checked"
        )
    if unrated:
        diagnosis.notes.append(f"{unrated} clips declare no rate: velocities were held against the rate that fits them")
    diagnosis.notes += [f"left out: {line}" for line in reader.skipped]
    return diagnosis


def _fits(key: str, rows: int, num_states: int) -> bool:
    return rows == num_states or (key in TRANSITION_KEYS and rows == num_states - 1)


def _compare_clips(trajectories: list[Trajectory], fps: float | None) -> list[Finding]:
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


def _variants(declared: Mapping[str, _T]) -> Iterator[tuple[tuple[str, _T], tuple[str, _T], int]]:
    """Yield (first clip, value) of each value but the first clip's, that one, and how many clips have the value."""
    clips: dict[_T, list[str]] = {}
    for path, value in declared.items():
        if value:
            clips.setdefault(value, []).append(path)
    groups = [(paths[0], value, len(paths)) for value, paths in clips.items()]
    for path, value, count in groups[1:]:
        yield (path, value), groups[0][:2], count
