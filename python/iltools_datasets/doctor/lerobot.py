"""What is wrong with a LeRobot set: rows, values, times, pictures, statistics, tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.doctor.examine import Diagnosis
from iltools_datasets.doctor.finding import Finding
from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot import LeRobotReader, read_info

_TOLERANCE_S = 1e-4
"""What lerobot allows a timestamp to be off frame / fps."""
_FLOAT32_STEPS = 2
"""Rounding of a timestamp in float32, in units of its last place, that is no fault of the recording."""
_BLOCK = 1 << 16
_MEAN_SHARE, _SPREAD_SHARE = 0.05, 0.1
"""How far a stated mean may be off in standard deviations, and a stated deviation or extreme in shares of the range."""


def examine_lerobot(
    path: str | Path, progress: Callable[[], None] | None = None, *, reader: LeRobotReader | None = None
) -> Diagnosis:
    """Look at a whole set, pictures by their index, not one by one.

    Args:
        path: the directory.
        progress: called after each episode.
        reader: the set, if it is open already.

    Raises:
        SourceError, SourceNotFoundError: its `info.json` cannot be read. Whatever else keeps it from being opened is a
            finding.
    """
    diagnosis = Diagnosis(str(path))
    read_info(Path(path))
    try:
        reader = LeRobotReader(path) if reader is None else reader
    except SourceError as error:
        diagnosis.findings.append(Finding("rows", str(path), None, None, str(error)))
        return diagnosis
    diagnosis.num_clips, diagnosis.num_states = reader.num_episodes, reader.num_frames
    diagnosis.findings += _totals(reader)
    diagnosis.findings += _values(reader)
    for position in range(reader.num_episodes):
        diagnosis.findings += _times(reader, position)
        if progress is not None:
            progress()
    diagnosis.findings += _tasks(reader)
    for key in reader.camera_keys:
        diagnosis.findings += _pictures(reader, key)
    diagnosis.findings += _statistics(reader)
    diagnosis.notes += reader.notes
    diagnosis.notes += [
        f"{key!r} is {feature.refusal()}; it was not looked at"
        for key, feature in reader.features.items()
        if feature.kind == "other"
    ]
    return diagnosis


def _name(reader: LeRobotReader, position: int) -> str:
    return f"episode_{reader.episode_numbers[position]:06d}"


def _totals(reader: LeRobotReader) -> Iterator[Finding]:
    info = reader.info
    for what, said, found in (
        ("total_episodes", info.total_episodes, reader.num_episodes),
        ("total_frames", info.total_frames, reader.num_frames),
    ):
        if said is not None and said != found:
            yield Finding("rows", str(reader.root), None, None, f"info.json: {what} is {said}, there are {found}")


def _values(reader: LeRobotReader) -> Iterator[Finding]:
    for key, entries in reader.nan.items():
        for episode, frame, count in entries:
            yield Finding("value", f"episode_{episode:06d}", key, frame, f"NaN in {count} frames")


def _times(reader: LeRobotReader, position: int) -> Iterator[Finding]:
    """Find timestamps that are not frame / fps."""
    rows = _rows_of(reader, position)
    own = reader.gather(rows, ["timestamp"])["timestamp"][:, 0].astype(np.float64)
    right = np.arange(len(rows)) / float(reader.fps)
    off = np.abs(own - right)
    slack = _TOLERANCE_S + _FLOAT32_STEPS * np.spacing(right.astype(np.float32)).astype(np.float64)
    wrong = ~(off <= slack)
    if not wrong.any():
        return
    frame = int(np.nanargmax(np.where(np.isfinite(off), off, np.inf)))
    steps = np.diff(own)
    fitted = f"; its steps fit {1 / np.median(steps):.4g} Hz" if len(steps) and np.median(steps) > 0 else ""
    back = "; it does not always rise" if (steps <= 0).any() else ""
    yield Finding(
        "time",
        _name(reader, position),
        "timestamp",
        frame,
        f"{own[frame]:.6g} s, frame / fps is {right[frame]:.6g} s; {int(wrong.sum())} of {len(rows)} frames are off "
        f"{float(reader.fps):g} Hz by more than {_TOLERANCE_S:g} s{fitted}{back}",
    )


def _rows_of(reader: LeRobotReader, position: int) -> NDArray[np.int64]:
    segment = reader.store.segments[position]
    return np.arange(segment.start, segment.start + segment.length)


def _tasks(reader: LeRobotReader) -> Iterator[Finding]:
    """Find frames whose task is not in the list of tasks."""
    numbers = reader.gather(np.arange(reader.num_frames), ["task_index"])["task_index"][:, 0]
    for number in np.setdiff1d(numbers, list(reader.tasks)).tolist():
        first = int(np.flatnonzero(numbers == number)[0])
        episode, frame = reader.locate([first])
        yield Finding(
            "task",
            f"episode_{episode[0]:06d}",
            "task_index",
            int(frame[0]),
            f"{number} is no task of the list, which has {len(reader.tasks)}; {int((numbers == number).sum())} frames "
            "have it",
        )


def _pictures(reader: LeRobotReader, key: str) -> Iterator[Finding]:
    """Find episodes whose pictures are missing, do not fit their rows, or overlap, and pictures that are nobody's."""
    camera = reader.camera(key)
    found: dict[str, tuple[int, int]] = {}
    missing: list[int] = []
    for position, number in enumerate(reader.episode_numbers.tolist()):
        path = reader.video_path(key, number)
        if path is not None and not path.is_file():
            missing.append(position)
            continue
        try:
            camera.check([position])
        except SourceError as error:
            first, count = found.get(str(error), (position, 0))
            found[str(error)] = first, count + 1
    if missing:
        gone = reader.video_path(key, int(reader.episode_numbers[missing[0]]))
        message = f"the videos of {len(missing)} of {reader.num_episodes} episodes are missing, the first is {gone}"
        yield Finding("picture", _name(reader, missing[0]), key, None, message)
    for message, (position, count) in found.items():
        more = f"; {count} episodes are in that file" if count > 1 else ""
        yield Finding("picture", _name(reader, position), key, None, message + more)
    for line in camera.leftovers():
        yield Finding("picture", str(reader.root), key, None, line)


def _statistics(reader: LeRobotReader) -> Iterator[Finding]:
    """Find statistics that cannot be true, or are not those of the rows."""
    stated = reader.statistics()
    for note in stated.notes:
        yield Finding("statistics", str(reader.root), None, None, note)
    for key, entry in stated.of.items():
        if reader.features[key].kind != "numbers" or reader.features[key].store_dtype.kind not in "fiu":
            continue
        mean, std, least, greatest = _moments(reader, key)
        scale = np.maximum(std, 1e-3 * np.maximum(np.abs(mean), 1e-3))
        spread = np.maximum(greatest - least, scale)
        for name, value, unit, share in (
            ("mean", mean, scale, _MEAN_SHARE),
            ("std", std, scale, _SPREAD_SHARE),
            ("min", least, spread, _SPREAD_SHARE),
            ("max", greatest, spread, _SPREAD_SHARE),
        ):
            if name not in entry:
                continue
            off = np.abs(entry[name] - value) > share * unit
            if off.any():
                at = tuple(int(place) for place in np.argwhere(off)[0])
                yield Finding(
                    "statistics",
                    str(reader.root),
                    key,
                    None,
                    f"{name}{list(at)} is stated as {entry[name][at]:.6g}, the rows have {value[at]:.6g}; "
                    f"{int(off.sum())} of {off.size} elements are off",
                )
                break


def _moments(reader: LeRobotReader, key: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return mean, population deviation, least and greatest of a feature over all frames without NaN, in two passes."""
    blocks = [np.arange(begin, min(begin + _BLOCK, reader.num_frames)) for begin in range(0, reader.num_frames, _BLOCK)]

    def over(fold: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        return np.stack([fold(reader.gather(block, [key])[key].astype(np.float64)) for block in blocks])

    with np.errstate(invalid="ignore"):
        count = over(lambda rows: np.isfinite(rows).sum(axis=0)).sum(axis=0)
        mean = over(lambda rows: np.where(np.isfinite(rows), rows, 0).sum(axis=0)).sum(axis=0) / np.maximum(count, 1)
        square = over(lambda rows: np.where(np.isfinite(rows), (rows - mean) ** 2, 0).sum(axis=0)).sum(axis=0)
        least = over(lambda rows: np.where(np.isfinite(rows), rows, np.inf).min(axis=0)).min(axis=0)
        greatest = over(lambda rows: np.where(np.isfinite(rows), rows, -np.inf).max(axis=0)).max(axis=0)
    return mean, np.sqrt(square / np.maximum(count, 1)), least, greatest
