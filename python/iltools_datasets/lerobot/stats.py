"""Statistics that a set's files state: read, checked against the features and the rows, merged for chosen episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot.episodes import EpisodeTable, episode_files
from iltools_datasets.lerobot.info import Feature, LeRobotInfo
from iltools_datasets.lerobot.json_files import read_document, read_lines, whole_number
from iltools_datasets.lerobot.parquet import naming, read_columns
from iltools_datasets.lerobot.paths import within

STATS = "meta/stats.json"
EPISODES_STATS = "meta/episodes_stats.jsonl"

_SPREAD = ("min", "max", "mean", "std")
_MOST_EPISODES = 100_000_000

FeatureStats = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the files say, by feature and name (`min`, `max`, `mean`, `std`, `count`, `q01`, ...).

    Attributes:
        of: float64 arrays of the feature's shape, `(C, 1, 1)` for cameras; `count` int64 [1].
        notes: what was left out, and why.
    """

    of: Mapping[str, FeatureStats] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """What statistics are compared with.

    Attributes:
        length: frames of each chosen episode, int64 [E].
        task_range: least and greatest `task_index` of each, int64 [E, 2].
    """

    length: NDArray[np.int64]
    task_range: NDArray[np.int64]


def read_statistics(
    root: Path, info: LeRobotInfo, table: EpisodeTable, chosen: NDArray[np.int64], rows: Rows
) -> Statistics:
    """Return the statistics of chosen episodes (positions in the table).

    Those of all episodes come from the file for the whole set, where there is one, else they are merged, as those of
    some are: means and deviations weighted by `count`, least and greatest values; quantiles cannot be merged.

    What has another shape than its feature, is not finite, or contradicts the rows is left out, with a note.
    """
    whole = len(chosen) == len(table)
    path = root / STATS
    if whole and info.version != (2, 1) and path.is_file():
        stated = _features(read_document(within(root, STATS, str(root))), str(path))
        return _checked(stated, info, STATS, int(rows.length.sum()), _span(rows.task_range))
    if info.version == (2, 0):
        return Statistics(notes=(f"{STATS} is of the whole set; there are no statistics of single episodes",))
    found = {
        number: stats
        for number, stats in (_v3(root, info) if info.many_episodes_per_file else _v21(root))
        if stats is not None
    }
    if not found:
        return Statistics(notes=("the files state no statistics",))
    notes: list[str] = []
    parts: list[dict[str, FeatureStats]] = []
    for position, length, span in zip(chosen.tolist(), rows.length.tolist(), rows.task_range.tolist(), strict=True):
        number = int(table.index[position])
        if number not in found:
            return Statistics(notes=(f"there are no statistics of episode {number}",))
        checked = _checked(_features(found[number], f"episode {number}"), info, f"episode {number}", length, span)
        notes += checked.notes
        parts.append(dict(checked.of))
    return _merged(parts, notes)


def _v21(root: Path) -> Iterator[tuple[int, Any]]:
    path = within(root, EPISODES_STATS, str(root))
    if path.is_file():
        for line, entry in read_lines(path):
            number = whole_number(entry.get("episode_index"), f"{path}, line {line}: episode_index")
            yield number, entry.get("stats")


def _v3(root: Path, info: LeRobotInfo) -> Iterator[tuple[int, Any]]:
    for relative in episode_files(root, info):
        path = within(root, relative, str(root))
        table = read_columns(path, ["episode_index"], prefix="stats/", most_rows=_MOST_EPISODES)
        with naming(path):
            columns = {name: table.column(name).to_pylist() for name in table.column_names}
        for row, number in enumerate(columns.pop("episode_index", [])):
            stats: dict[str, dict[str, Any]] = {}
            for name, values in columns.items():
                key, _, statistic = name.removeprefix("stats/").rpartition("/")
                if values[row] is not None:
                    stats.setdefault(key, {})[statistic] = values[row]
            yield int(number), stats or None


def _features(document: object, where: str) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(document, dict) or not all(isinstance(entry, dict) for entry in document.values()):
        raise SourceError(f"{where}: statistics: expected an object of objects by feature")
    return document


def _span(ranges: NDArray[np.int64]) -> list[int]:
    return [int(ranges[:, 0].min()), int(ranges[:, 1].max())]


def _checked(
    stated: Mapping[str, Mapping[str, Any]], info: LeRobotInfo, where: str, frames: int, task_range: Sequence[int]
) -> Statistics:
    kept: dict[str, FeatureStats] = {}
    notes = []
    for key, entry in stated.items():
        feature = info.features.get(key)
        if feature is None or feature.kind == "other":
            notes.append(f"{where}: statistics of {key!r}, which is no array of the set")
            continue
        problem, arrays = _arrays(feature, entry)
        problem = problem or _contradiction(feature, arrays, frames, task_range)
        if problem:
            notes.append(f"{where}: statistics of {key!r}: {problem}")
        else:
            kept[key] = arrays
    return Statistics(kept, tuple(f"{note}; left out" for note in notes))


def _arrays(feature: Feature, entry: Mapping[str, Any]) -> tuple[str | None, FeatureStats]:
    shape = (feature.picture_shape[2], 1, 1) if feature.is_camera else feature.shape
    arrays: FeatureStats = {}
    for name, value in entry.items():
        try:
            array = np.asarray(value, dtype=np.int64 if name == "count" else np.float64)
        except (ValueError, TypeError, OverflowError):
            return f"{name} is no array of numbers", arrays
        if name == "count":
            if array.size != 1:
                return f"count: expected one number, found shape {list(array.shape)}", arrays
            arrays[name] = array.reshape(1)
            continue
        if array.shape != shape and not (array.size == 1 == int(np.prod(shape))):
            return f"{name}: expected shape {list(shape)}, found {list(array.shape)}", arrays
        if not np.isfinite(array).all():
            return f"{name} is not finite", arrays
        arrays[name] = array.reshape(shape)
    return None, arrays


def _contradiction(feature: Feature, arrays: FeatureStats, frames: int, task_range: Sequence[int]) -> str | None:
    """Return what a feature's statistics say that cannot be, or is not so in the rows."""
    count = arrays.get("count")
    if count is not None and (count[0] < 1 or (count[0] != frames and not feature.is_camera)):
        return f"count is {count[0]}, there are {frames} frames"
    if "std" in arrays and (arrays["std"] < 0).any():
        return "std is negative"
    least, greatest, mean = (arrays.get(name) for name in ("min", "max", "mean"))
    if least is not None and greatest is not None and (least > greatest).any():
        return "min is above max"
    if mean is not None and least is not None and greatest is not None:
        slack = 1e-4 * np.maximum(1, np.abs(greatest - least))
        if ((mean < least - slack) | (mean > greatest + slack)).any():
            return "mean is not between min and max"
    if feature.key == "task_index" and least is not None and greatest is not None:
        said = [int(least.min()), int(greatest.max())]
        if said != list(task_range):
            return f"they range from {said[0]} to {said[1]}, the rows from {task_range[0]} to {task_range[1]}"
    return None


def _merged(parts: list[dict[str, FeatureStats]], notes: list[str]) -> Statistics:
    """Return the statistics of episodes together, of the features that all of them have."""
    merged: dict[str, FeatureStats] = {}
    for key in parts[0]:
        entries = [part[key] for part in parts if key in part]
        if len(entries) < len(parts):
            continue
        if len(entries) == 1:
            merged[key] = entries[0]
            continue
        missing = [name for name in (*_SPREAD, "count") if not all(name in entry for entry in entries)]
        if missing:
            notes.append(f"statistics of {key!r}: not every episode states {', '.join(missing)}; left out")
            continue
        merged[key] = _merge(entries)
        if any(name not in (*_SPREAD, "count") for name in entries[0]):
            notes.append(f"statistics of {key!r}: quantiles of episodes cannot be merged; left out")
    return Statistics(merged, tuple(_few(notes)))


def _merge(entries: list[FeatureStats]) -> FeatureStats:
    """Merge by count: the mean of means, and the variances with those of the means.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    count = np.array([entry["count"][0] for entry in entries])
    mean, std = (np.stack([entry[name] for entry in entries]) for name in ("mean", "std"))
    weight = (count / count.sum()).reshape(-1, *[1] * (mean.ndim - 1))
    middle = (weight * mean).sum(axis=0)
    return {
        "min": np.min([entry["min"] for entry in entries], axis=0),
        "max": np.max([entry["max"] for entry in entries], axis=0),
        "mean": middle,
        "std": np.sqrt((weight * (std**2 + (mean - middle) ** 2)).sum(axis=0)),
        "count": np.array([count.sum()]),
    }


def _few(notes: list[str], most: int = 20) -> list[str]:
    return notes[:most] + ([f"and {len(notes) - most} more about statistics"] if len(notes) > most else [])
