"""`iltools info`: what an archive, a store or a raw file holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iltools_datasets.cli.looked_at import Opened
from iltools_datasets.cli.opened import OpenedStore, is_lerobot, is_store, open_path, raw_format
from iltools_datasets.cli.output import AsJson, facts, heading, human_bytes, out, print_json

_MOST_TASKS = 20


def info(
    path: Annotated[str, typer.Argument(help="An archive, a store, a LeRobot set, or raw files.")],
    coverage: Annotated[
        Path | None,
        typer.Option(help="A motion sampler's saved state: say what it saw of the store instead."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is at a path: clips, keys, rates and sizes; or what a motion sampler saw of a store."""
    if coverage is not None:
        from iltools_datasets.cli.coverage import coverage_document, print_facts, read_coverage

        seen = read_coverage(path, coverage)
        if as_json:
            print_json(coverage_document(path, coverage, seen))
        else:
            print_facts(path, coverage, seen, out())
        return
    if is_lerobot(path):
        from iltools_datasets.cli.lerobot_info import document_of, present

        document = document_of(path)
        if as_json:
            print_json(document)
        else:
            present(document, out())
        return
    taken_for = None if is_store(path) else raw_format(path)
    if taken_for is not None:
        _raw(path, taken_for, as_json)
        return
    opened = open_path(path)
    if as_json:
        print_json(opened_document(opened))
    else:
        _present(opened, out())


def _raw(path: str, taken_for: str, as_json: bool) -> None:
    from iltools_datasets.sources import source_class

    summary = source_class(taken_for).summary
    if as_json:
        print_json({"path": str(path), "kind": "raw", "format": taken_for, "summary": summary})
        return
    console = out()
    console.print(heading(path, "raw files"), soft_wrap=True)
    console.print(facts(("format", f"{taken_for}: {summary}")))
    console.print(
        Text(f"iltools export auto {path} --out ARCHIVE makes an archive of them", style="dim"), soft_wrap=True
    )


def opened_document(opened: Opened) -> dict[str, Any]:
    """Return what there is to say of an archive, a store or a LeRobot set, for programs."""
    tasks = Counter(clip.task for clip in opened.clips)
    return {
        "path": str(opened.path),
        "kind": opened.kind,
        "num_clips": len(opened.clips),
        "num_states": sum(clip.num_states for clip in opened.clips),
        "num_transitions": sum(clip.num_transitions for clip in opened.clips),
        **_episodes(opened),
        "seconds": _seconds(opened),
        "bytes_on_disk": opened.bytes_on_disk,
        "array_bytes": opened.array_bytes,
        "tasks": dict(tasks),
        "keys": {
            key: {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "num_clips": entry.num_clips,
                **({"others": [[dtype, list(shape)] for dtype, shape in entry.others]} if entry.others else {}),
            }
            for key, entry in opened.keys.items()
        },
        "rates": sorted({clip.fps for clip in opened.clips if clip.fps is not None}),
        "attributes": dict(opened.attributes(0)),
        "notes": opened.notes,
    }


def _episodes(opened: Opened) -> dict[str, Any]:
    """What is asked of a store of episodes: whether it grows, how long they are, in transitions, and their returns."""
    if not isinstance(opened, OpenedStore):
        return {}
    returns = opened.returns()
    return {
        "growing": opened.is_growing,
        "lengths": _spread(np.array([clip.num_transitions for clip in opened.clips])),
        **({} if returns is None else {"returns": _spread(returns)}),
    }


def _spread(values: NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    return {"min": values.min().item(), "mean": float(values.mean()), "max": values.max().item()}


def _present(opened: Opened, console: Console) -> None:
    console.print(heading(opened.path, opened.kind), soft_wrap=True)
    lengths = [clip.num_states for clip in opened.clips]
    num_transitions = sum(clip.num_transitions for clip in opened.clips)
    states = "transitions" if opened.clips and opened.clips[0].lacks_next else "states"
    seconds = _seconds(opened)
    rates = sorted({clip.fps for clip in opened.clips if clip.fps is not None})
    extremes = f" of {min(lengths):,} to {max(lengths):,} {states}" if lengths else ""
    rows = [
        ("clips", f"{len(lengths):,}{extremes}"),
        ("states", f"{sum(lengths):,}, so {num_transitions:,} transitions")
        if states == "states"
        else ("transitions", f"{num_transitions:,}, of which the next state is not known"),
    ]
    if (returns := _episodes(opened).get("returns")) is not None:
        rows.append(("return", "{min:g} to {max:g}, {mean:g} on average".format_map(returns)))
    if (size := opened.bytes_on_disk) is not None:
        ratio = f", {size / opened.array_bytes:.2f} times the arrays" if opened.array_bytes else ""
        rows.append(("on disk", human_bytes(size) + ratio))
    if rates:
        rows.append(("rate", ", ".join(f"{rate:g} Hz" for rate in rates)))
    if seconds is not None:
        rows.append(("motion", f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"))
    attributes = opened.attributes(0)
    for name, label in (("joint_names", "joints"), ("body_names", "bodies")):
        if isinstance(attributes.get(name), list):
            names = attributes[name]
            rows.append((label, f"{len(names)}: {', '.join(map(str, names[:4]))}{', ...' if len(names) > 4 else ''}"))
    if "quaternion_order" in attributes:
        rows.append(("quaternions", str(attributes["quaternion_order"])))
    console.print(facts(*rows))
    console.print()
    console.print(_tasks(opened))
    console.print()
    console.print(_keys(opened))
    for note in opened.notes:
        console.print(Text(note, style="warn"))


def _tasks(opened: Opened) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("task", overflow="fold")
    table.add_column("clips", justify="right")
    table.add_column("states", justify="right")
    clips: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for clip in opened.clips:
        clips[clip.task] += 1
        states[clip.task] += clip.num_states
    for task in list(clips)[:_MOST_TASKS]:
        table.add_row(task, f"{clips[task]:,}", f"{states[task]:,}")
    if len(clips) > _MOST_TASKS:
        table.add_row(f"and {len(clips) - _MOST_TASKS} more", "", "", style="dim")
    return table


def _keys(opened: Opened) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("key", overflow="fold")
    table.add_column("row")
    table.add_column("dtype")
    everywhere = all(entry.num_clips == len(opened.clips) for entry in opened.keys.values())
    if not everywhere:
        table.add_column("clips", justify="right")
    for key, entry in opened.keys.items():
        if key.removeprefix("next/") in opened.keys and key.startswith("next/"):
            continue
        name = f"{key}, next/{key}" if f"next/{key}" in opened.keys else key
        rows = [(entry.dtype, entry.shape), *entry.others]
        shapes = ", or ".join(dict.fromkeys(" x ".join(map(str, shape)) or "scalar" for _, shape in rows))
        dtypes = ", or ".join(dict.fromkeys(dtype for dtype, _ in rows))
        table.add_row(name, shapes, dtypes, *([] if everywhere else [f"{entry.num_clips:,}"]))
    return table


def _seconds(opened: Opened) -> float | None:
    """Duration of all clips, or None if one does not say its rate."""
    rates = [clip.fps for clip in opened.clips]
    if None in rates:
        return None
    return sum(clip.num_states / clip.fps for clip in opened.clips if clip.fps)
