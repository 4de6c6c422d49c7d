"""`iltools info` on a LeRobot set: from its tables alone, nothing is built."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from iltools_datasets.cli.looked_at import size_on_disk
from iltools_datasets.cli.output import facts, heading, human_bytes
from iltools_datasets.lerobot import EpisodeTable, LeRobotInfo, read_info
from iltools_datasets.lerobot.episodes import read_episodes, read_tasks
from iltools_datasets.lerobot.find import needed_files
from iltools_datasets.lerobot.info import Feature
from iltools_datasets.sources.formats.lerobot import flat_names

_MOST_TASKS = 20
_MOST_NAMES = 2


def document_of(path: str) -> dict[str, Any]:
    """Return what there is to say about a set, as JSON."""
    root = Path(path)
    info = read_info(root)
    table = read_episodes(root, info)
    tasks = Counter(task for tasks in table.tasks for task in tasks)
    return {
        "path": path,
        "kind": "LeRobot set",
        "codebase_version": info.codebase_version,
        "robot_type": info.robot_type,
        "num_clips": len(table),
        "num_frames": table.num_frames,
        "lengths": [int(table.length.min()), int(table.length.max())],
        "rates": [float(info.fps)],
        "seconds": float(table.num_frames / info.fps),
        "bytes_on_disk": size_on_disk(path),
        "tasks": {task: tasks.get(task, 0) for task in dict.fromkeys([*read_tasks(root, info).values(), *tasks])},
        "features": {key: _feature(feature) for key, feature in info.features.items()},
        "notes": [*info.notes, *table.notes, *_totals(info, table), *_missing(root, info, table)],
    }


def _feature(feature: Feature) -> dict[str, Any]:
    return {
        "dtype": feature.dtype,
        "shape": list(feature.picture_shape if feature.is_camera else feature.shape),
        "kind": feature.kind,
        "names": flat_names(feature.names),
        "codec": feature.details.get("video.codec"),
        "refused": feature.refusal() if feature.kind == "other" else None,
    }


def _totals(info: LeRobotInfo, table: EpisodeTable) -> list[str]:
    said = (("total_episodes", info.total_episodes, len(table)), ("total_frames", info.total_frames, table.num_frames))
    return [
        f"info.json: {what} is {number}, the episode table has {found}"
        for what, number, found in said
        if number is not None and number != found
    ]


def _missing(root: Path, info: LeRobotInfo, table: EpisodeTable) -> list[str]:
    notes = []
    plain = needed_files(info, table, None, ())
    for what, files in (
        ("data files", plain),
        *((f"videos of {key}", needed_files(info, table, None, [key])[len(plain) :]) for key in info.camera_keys),
    ):
        absent = [file for file in files if not (root / file).is_file()]
        if absent:
            notes.append(f"{len(absent)} of {len(files)} {what} are missing, the first is {absent[0]}")
    return notes


def present(document: dict[str, Any], console: Console) -> None:
    """Print it for people."""
    console.print(heading(document["path"], f"LeRobot set, {document['codebase_version']}"), soft_wrap=True)
    least, most = document["lengths"]
    seconds = document["seconds"]
    rows = [
        ("episodes", f"{document['num_clips']:,} of {least:,} to {most:,} frames"),
        ("frames", f"{document['num_frames']:,}"),
        ("rate", f"{document['rates'][0]:g} Hz"),
        ("motion", f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"),
        ("on disk", human_bytes(document["bytes_on_disk"])),
    ]
    if document["robot_type"]:
        rows.insert(0, ("robot", document["robot_type"]))
    console.print(facts(*rows))
    console.print()
    console.print(_tasks(document["tasks"]))
    console.print()
    console.print(_features(document["features"]))
    for note in document["notes"]:
        console.print(Text(note, style="warn"), soft_wrap=True)


def _tasks(tasks: dict[str, int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("task", overflow="fold")
    table.add_column("episodes", justify="right")
    for task, count in list(tasks.items())[:_MOST_TASKS]:
        table.add_row(task, f"{count:,}")
    if len(tasks) > _MOST_TASKS:
        table.add_row(f"and {len(tasks) - _MOST_TASKS} more", "", style="dim")
    return table


def _features(features: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("feature", no_wrap=True)
    table.add_column("row")
    table.add_column("dtype")
    table.add_column("names", overflow="fold")
    for key, entry in features.items():
        names = entry["names"] if entry["kind"] == "numbers" else []
        few = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        remark = entry["refused"] or few
        codec = f", {entry['codec']}" if entry["codec"] else ""
        shape = " x ".join(map(str, entry["shape"])) or "free"
        table.add_row(key, shape, f"{entry['dtype']}{codec}", Text(remark, style="dim"))
    return table
