"""`iltools report`: one page about an archive, a store or a LeRobot set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iltools_datasets._base.files import replaced_file
from iltools_datasets._base.terminal_progress import terminal_progress
from iltools_datasets.cli.html_page import checked_file
from iltools_datasets.cli.info import opened_document
from iltools_datasets.cli.looked_at import Opened
from iltools_datasets.cli.opened import open_path
from iltools_datasets.cli.output import AsJson, heading, human_bytes, out, print_json
from iltools_datasets.cli.report_page import page_of
from iltools_datasets.cli.scene import Scene, scene_of
from iltools_datasets.doctor import Diagnosis, examine, examine_store
from iltools_datasets.doctor.examine import evenly_spread
from iltools_datasets.errors import MissingKeyError
from iltools_datasets.store.trajectory_store import TrajectoryStore


def report(
    path: Annotated[str, typer.Argument(help="An archive, a store (one that grows, too) or a LeRobot set.")],
    page: Annotated[Path, typer.Option("--out", help="The page to write; one that is there is replaced.")],
    coverage: Annotated[
        Path | None, typer.Option(help="A motion sampler's saved state: show what it saw of the store, too.")
    ] = None,
    archive: Annotated[
        str | None, typer.Option(help="The archive that a store was built from: the doctor looks at that instead.")
    ] = None,
    examined: Annotated[
        int, typer.Option(min=0, help="Clips, evenly spread, whose values the doctor reads; 0 reads all.")
    ] = 500,
    shown: Annotated[int, typer.Option(min=0, help="Clips, evenly spread, to show.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Write a page, one file, of what a data set holds: lengths, rates, keys, findings, and how clips look."""
    page = checked_file(page, (".html", ".htm"))
    opened = open_path(path)
    if archive is not None and opened.kind != "store":
        raise typer.BadParameter(f"{path} is no store", param_hint="--archive")
    seen = None
    if coverage is not None:
        from iltools_datasets.cli.coverage import read_coverage

        seen = read_coverage(path, coverage)
    diagnosis = _diagnosis(opened, archive, examined or None, quiet=as_json)
    document = opened_document(opened)
    content = page_of(opened, document, diagnosis, seen, _scenes(opened, shown))
    with replaced_file(page) as file:
        file.write(content)
    if as_json:
        print_json(
            {
                "page": str(page),
                "bytes": len(content),
                "num_clips": len(opened.clips),
                "examined": diagnosis.num_clips,
                "findings": len(diagnosis.findings),
            }
        )
    else:
        found = f"findings: {len(diagnosis.findings):,} in {diagnosis.num_clips:,} clips"
        out().print(
            heading(page, f"{opened.kind}, {len(opened.clips):,} clips, {found}, {human_bytes(len(content))}"),
            soft_wrap=True,
        )


def _diagnosis(opened: Opened, archive: str | None, most: int | None, quiet: bool) -> Diagnosis:
    """Return what the doctor finds in a set, or in the archive that a store was built from."""
    total = len(opened.clips) if most is None else min(most, len(opened.clips))
    with terminal_progress("examining", total, False if quiet else None) as advance:
        if opened.kind == "LeRobot set":
            from iltools_datasets.doctor.lerobot import examine_lerobot

            return examine_lerobot(opened.path, advance)
        if opened.kind == "archive" or archive is not None:
            return examine(archive or opened.path, None, advance, most)

        return examine_store(TrajectoryStore.open(opened.path), advance, most)


def _scenes(opened: Opened, most: int) -> list[Scene]:
    """Return what thumbnails show; a clip that holds nothing to draw has none."""
    scenes = []
    for position in evenly_spread(len(opened.clips), most) if most else ():
        try:
            scenes.append(scene_of(opened, position))
        except MissingKeyError:
            continue
    return scenes
