"""Which episodes a set says it has: length, tasks, and where their pictures are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.lerobot.info import INFO, LeRobotInfo
from iltools_datasets.lerobot.json_files import read_lines, shown, whole_number
from iltools_datasets.lerobot.parquet import BadValueError, as_array, naming, numpy_name, read_columns, value_type
from iltools_datasets.lerobot.paths import within

EPISODES_V2 = "meta/episodes.jsonl"
TASKS_V2 = "meta/tasks.jsonl"
EPISODES_V3 = "meta/episodes"
TASKS_V3 = "meta/tasks.parquet"

_MOST_EPISODES = 100_000_000
_MOST_TASKS = 100_000_000
_DEFAULT_VIDEO_COLUMNS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")


@dataclass(frozen=True, slots=True)
class VideoPlaces:
    """Where each episode's pictures of one camera lie, arrays [E] beside `EpisodeTable.index`.

    Attributes:
        chunk: number of the file's directory.
        file: number of the file; not that of the data.
        start: seconds in the file at which the episode begins, float64.
        end: seconds at which it ends; NaN where it is not said.
    """

    chunk: NDArray[np.int64]
    file: NDArray[np.int64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EpisodeTable:
    """The episodes that have frames, in the order of their numbers.

    Attributes:
        index: their numbers, int64 [E], rising, possibly with gaps.
        length: their frames, int64 [E], 1 or more.
        tasks: the tasks each names, E tuples of strings.
        videos: places of pictures by camera; for v2 empty, as each episode has a file of its own.
        declared: what is only compared with what is found: `data/chunk_index`, `data/file_index`, `dataset_from_index`,
            `dataset_to_index`, int64 [E] where the table has them.
        notes: what is unusual.
    """

    index: NDArray[np.int64]
    length: NDArray[np.int64]
    tasks: tuple[tuple[str, ...], ...]
    videos: Mapping[str, VideoPlaces] = field(default_factory=dict)
    declared: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def num_frames(self) -> int:
        """Sum of the lengths."""
        return int(self.length.sum())


def episode_files(root: Path, info: LeRobotInfo) -> list[str]:
    """Return the relative paths of the files of the episode table, which are those of the version that `info` says.

    Raises SourceError naming both versions if the files are of another one, SourceNotFoundError if there are none.
    """
    v3 = sorted(path.relative_to(root).as_posix() for path in root.glob(f"{EPISODES_V3}/*/*.parquet"))
    v2 = [EPISODES_V2] if (root / EPISODES_V2).is_file() else []
    expected, other = (v3, v2) if info.many_episodes_per_file else (v2, v3)
    if expected:
        return expected
    said, found = ("v3.0", "v2.1") if info.many_episodes_per_file else ("v2.1", "v3.0")
    missing = f"{EPISODES_V3}/*/*.parquet" if info.many_episodes_per_file else EPISODES_V2
    if other:
        raise SourceError(
            f"{root}: {INFO} says {info.codebase_version}, but {other[0]} is of {found} and there is no {missing}; "
            f"restore the files of {said}, or set codebase_version to {found} if the data files are of it, too"
        )
    raise SourceNotFoundError(f"{root}: there is no {missing}, where the episodes of a {said} set are listed")


def read_episodes(root: Path, info: LeRobotInfo) -> EpisodeTable:
    """Return the episode table of a set of any version.

    Raises SourceError naming the file if a number is missing or impossible, or an episode is listed twice.
    """
    files = episode_files(root, info)
    return _read_v3(root, files, info) if info.many_episodes_per_file else _read_v2(root)


def read_tasks(root: Path, info: LeRobotInfo) -> dict[int, str]:
    """Return the task of each `task_index`; empty where the set has no list of tasks. Raises SourceError."""
    relative = TASKS_V3 if info.many_episodes_per_file else TASKS_V2
    path = within(root, relative, str(root))
    if not path.is_file():
        return {}
    tasks: dict[int, str] = {}
    for where, number, task in _task_rows(path) if info.many_episodes_per_file else _task_lines(path):
        if number in tasks and tasks[number] != task:
            raise SourceError(f"{where}: task_index {number} is {tasks[number]!r} and {task!r}")
        tasks[number] = task
    return tasks


def _task_lines(path: Path) -> Iterator[tuple[str, int, str]]:
    for line, entry in read_lines(path):
        where = f"{path}, line {line}"
        task = entry.get("task")
        if not isinstance(task, str):
            raise SourceError(f"{where}: task: expected a string, found {shown(task)}")
        yield where, whole_number(entry.get("task_index"), f"{where}: task_index"), task


def _task_rows(path: Path) -> Iterator[tuple[str, int, str]]:
    table = read_columns(path, most_rows=_MOST_TASKS)
    text = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
    if text is None or "task_index" not in table.column_names:
        raise SourceError(f"{path}: expected columns task_index and task, found {table.column_names}")
    with naming(path):
        rows = zip(table.column("task_index").to_pylist(), table.column(text).to_pylist(), strict=True)
        for row, (number, task) in enumerate(rows):
            if not isinstance(task, str):
                raise SourceError(f"{path}, row {row}: task: expected a string, found {shown(task)}")
            yield f"{path}, row {row}", whole_number(number, f"{path}, row {row}: task_index"), task


def _read_v2(root: Path) -> EpisodeTable:
    path = within(root, EPISODES_V2, str(root))
    index, length, tasks = [], [], []
    for line, entry in read_lines(path):
        where = f"{path}, line {line}"
        index.append(whole_number(entry.get("episode_index"), f"{where}: episode_index"))
        length.append(whole_number(entry.get("length"), f"{where}: length"))
        tasks.append(_task_names(entry.get("tasks"), where))
    return _table(path, np.array(index, np.int64), np.array(length, np.int64), tasks, {}, {})


def _task_names(value: Any, where: str) -> tuple[str, ...]:
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{where}: tasks: expected a list of strings, found {shown(value)}")
    return tuple(names)


def _read_v3(root: Path, files: list[str], info: LeRobotInfo) -> EpisodeTable:
    cameras = [key for key in info.camera_keys if info.features[key].kind == "video"]
    numbers = ("data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")
    videos = {f"videos/{key}/{name}" for key in cameras for name in _DEFAULT_VIDEO_COLUMNS}
    wanted = {"episode_index", "length", "tasks", *numbers, *videos}
    columns: dict[str, list[NDArray[Any]]] = {}
    tasks: list[tuple[str, ...]] = []
    path = root
    for relative in files:
        path = within(root, relative, str(root))
        table = read_columns(path, sorted(wanted), most_rows=_MOST_EPISODES)
        for name in ("episode_index", "length"):
            if name not in table.column_names:
                raise SourceError(f"{path}: no column {name!r}; there are {table.column_names}")
        if columns and set(columns) | {"tasks"} != set(table.column_names) | {"tasks"}:
            differ = sorted((set(columns) ^ set(table.column_names)) - {"tasks"})
            raise SourceError(f"{path}: its columns differ from those of {files[0]} in {', '.join(differ)}")
        for name in table.column_names:
            if name != "tasks":
                columns.setdefault(name, []).append(_numbers(path, table, name))
        with naming(path):
            texts = table.column("tasks").to_pylist() if "tasks" in table.column_names else [None] * table.num_rows
        tasks += [_task_names(value, f"{path}, row {row}") for row, value in enumerate(texts)]
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    for name in ("episode_index", "length"):
        if (whole[name] < 0).any():
            raise SourceError(f"{path.parent.parent}: {name} must not be negative, found {whole[name].min()}")
    places = {key: _places(path.parent.parent, key, whole) for key in cameras}
    declared = {name: whole[name] for name in numbers if name in whole}
    return _table(path.parent.parent, whole["episode_index"], whole["length"], tasks, places, declared)


def _numbers(path: Path, table: Any, name: str) -> NDArray[Any]:
    seconds = name.endswith("_timestamp")
    kind = numpy_name(value_type(table.column(name).type)[0])
    if not kind.startswith(("int", "uint") if not seconds else ("float", "int")):
        raise SourceError(f"{path}: column {name!r}: expected {'seconds' if seconds else 'integers'}, found {kind}")
    try:
        return as_array(table.column(name), ()).astype(np.float64 if seconds else np.int64)
    except BadValueError as error:
        raise SourceError(f"{path}, row {error.row}: {name}: {error.message}") from error


def _places(where: Path, key: str, columns: Mapping[str, NDArray[Any]]) -> VideoPlaces:
    prefix = f"videos/{key}/"
    missing = [name for name in _DEFAULT_VIDEO_COLUMNS[:3] if prefix + name not in columns]
    if missing:
        raise SourceError(f"{where}: no column {prefix + missing[0]!r}: where are the pictures of {key!r}?")
    start = columns[prefix + "from_timestamp"]
    chunk, file = columns[prefix + "chunk_index"], columns[prefix + "file_index"]
    if (chunk < 0).any() or (file < 0).any() or not np.isfinite(start).all() or (start < 0).any():
        raise SourceError(f"{where}: {prefix}*: numbers of files and from_timestamp must not be negative or NaN")
    return VideoPlaces(chunk, file, start, columns.get(prefix + "to_timestamp", np.full(len(start), np.nan)))


def _table(
    path: Path,
    index: NDArray[np.int64],
    length: NDArray[np.int64],
    tasks: list[tuple[str, ...]],
    videos: Mapping[str, VideoPlaces],
    declared: Mapping[str, NDArray[np.int64]],
) -> EpisodeTable:
    if not len(index):
        raise SourceError(f"{path}: lists no episode")
    numbers, counts = np.unique(index, return_counts=True)
    if (counts > 1).any():
        which = int(numbers[counts > 1][0])
        raise SourceError(f"{path}: episode {which} is listed {int(counts[counts > 1][0])} times")
    order = np.argsort(index, kind="stable")
    filled = order[length[order] > 0]
    notes = []
    if len(filled) < len(order):
        empty = index[order[length[order] == 0]]
        notes.append(f"{len(empty)} episodes have no frames and are left out: {listed(empty)}")
    if not len(filled):
        raise SourceError(f"{path}: every episode has length 0")
    if sum(map(int, length[filled])) >= 2**62:
        raise SourceError(f"{path}: the lengths add up to more frames than there can be")
    return EpisodeTable(
        index[filled],
        length[filled],
        tuple(tasks[position] for position in filled.tolist()),
        {
            key: VideoPlaces(v.chunk[filled], v.file[filled], v.start[filled], v.end[filled])
            for key, v in videos.items()
        },
        {name: values[filled] for name, values in declared.items()},
        tuple(notes),
    )


def listed(numbers: NDArray[np.int64], most: int = 8) -> str:
    """Return the first few numbers as text, and how many more there are."""
    text = ", ".join(map(str, numbers[:most].tolist()))
    return text + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
