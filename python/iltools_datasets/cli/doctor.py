"""`iltools doctor`: what would ruin training on an archive."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from iltools_datasets._base.terminal_progress import terminal_progress
from iltools_datasets.cli.opened import is_lerobot, open_archive
from iltools_datasets.cli.output import EXIT_FOUND, AsJson, heading, out, print_json
from iltools_datasets.doctor import Diagnosis, examine, fix_archive


def doctor(
    archive: Annotated[
        str, typer.Argument(help="The Zarr archive (a path, or a URL of an object store), or a LeRobot set.")
    ],
    fps: Annotated[
        float | None, typer.Option(help="Hold velocities against this rate, not against the one each clip declares.")
    ] = None,
    fix: Annotated[
        str | None,
        typer.Option(
            help="Write a mended archive there: signs of quaternions, rates (--fps: of all clips), velocities.",
            metavar="ARCHIVE",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --fix: replace what is there.")] = False,
    most: Annotated[int, typer.Option(min=0, help="Findings to print of each kind; 0 prints all.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Look for what ruins training: NaN, bad quaternions, wrong velocities and rates, teleports, names that do not fit.

    Exits with 1 if there is any, with --fix if there still is.
    """
    if overwrite and fix is None:
        raise typer.BadParameter("--overwrite goes with --fix")
    if fix is not None:
        if is_lerobot(archive):
            raise typer.BadParameter("a LeRobot set is looked at, and not mended", param_hint="--fix")
        _fix(archive, fix, fps, overwrite, most, as_json)
        return
    if is_lerobot(archive):
        from iltools_datasets.doctor.lerobot import examine_lerobot

        diagnosis = examine_lerobot(archive)
    else:
        with terminal_progress("examining", len(open_archive(archive)), False if as_json else None) as advance:
            diagnosis = examine(archive, fps, advance)
    if as_json:
        print_json({**asdict(diagnosis), "healthy": not diagnosis.findings})
    else:
        _present(diagnosis, out(), most)
    if diagnosis.findings:
        raise typer.Exit(EXIT_FOUND)


def _fix(archive: str, place: str, fps: float | None, overwrite: bool, most: int, as_json: bool) -> None:
    """Write a mended archive, and say what was changed and what is left."""
    with terminal_progress("mending", len(open_archive(archive)), False if as_json else None) as advance:
        mended = fix_archive(archive, place, fps, overwrite, advance)
    left = examine(place)
    if as_json:
        print_json({**asdict(mended), "left": asdict(left), "healthy": not left.findings})
    else:
        console = out()
        clips = len({change.clip for change in mended.changes})
        remark = f"{mended.num_clips:,} clips, {clips:,} of them changed"
        console.print(heading(mended.path, remark), soft_wrap=True)
        for change in mended.changes[: most or None]:
            place_of = Text.assemble(("changed", "good"), " ", (change.clip, "number"))
            if change.key is not None:
                place_of.append(f" {change.key}", style="head")
            console.print(place_of, soft_wrap=True)
            console.print(Text(f"  {change.message}"), soft_wrap=True)
        if most and len(mended.changes) > most:
            console.print(Text(f"{len(mended.changes) - most} more; --most 0 prints them", style="dim"))
        _present(left, console, most)
    if left.findings:
        raise typer.Exit(EXIT_FOUND)


def _present(diagnosis: Diagnosis, console: Console, most: int) -> None:
    remark = f"{diagnosis.num_clips:,} clips, {diagnosis.num_states:,} states"
    console.print(heading(diagnosis.path, remark), soft_wrap=True)
    printed: Counter[str] = Counter()
    for finding in diagnosis.findings:
        printed[finding.check] += 1
        if most and printed[finding.check] > most:
            continue
        frame = "" if finding.frame is None else f" frame {finding.frame}"
        place = Text.assemble((finding.check, "bad"), " ", (finding.clip, "number"), (frame, "number"))
        if finding.key is not None:
            place.append(f" {finding.key}", style="head")
        console.print(place, soft_wrap=True)
        console.print(Text(f"  {finding.message}"), soft_wrap=True)
    for check, count in printed.items():
        if most and count > most:
            console.print(Text(f"{check}: {count - most} more; --most 0 prints them", style="dim"), soft_wrap=True)
    for note in diagnosis.notes:
        console.print(Text(note, style="warn"), soft_wrap=True)
    if diagnosis.findings:
        clips = len({finding.clip for finding in diagnosis.findings})
        console.print(Text(f"✗ {len(diagnosis.findings)} findings in {clips} clips", style="bad"))
    else:
        console.print(Text("✓ nothing found", style="good"))
