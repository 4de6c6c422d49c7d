"""`iltools export`: from raw files to an archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from iltools_datasets.cli.output import AsJson, err
from iltools_datasets.cli.raw_files import (
    ArchiveLayout,
    FormatOptions,
    KeepGoing,
    MotionName,
    Overwrite,
    Rate,
    SourceName,
    parse_options,
    present,
)
from iltools_datasets.sources import export as export_sources
from iltools_datasets.sources import source_class, source_formats
from iltools_datasets.sources.fetched import fetched
from iltools_datasets.sources.registry import open_sources


def _complete_format(incomplete: str) -> list[tuple[str, str]]:
    choices = [("auto", "whatever each file is"), *((name, source_class(name).summary) for name in source_formats())]
    return [choice for choice in choices if choice[0].startswith(incomplete)]


def export(
    format: Annotated[
        str,
        typer.Argument(
            autocompletion=_complete_format, help=f"auto, or one of {', '.join(source_formats())}.", metavar="FORMAT"
        ),
    ],
    paths: Annotated[list[str], typer.Argument(help="Files, or directories of them; URLs of an object store, too.")],
    archive: Annotated[str, typer.Option("--out", help="The Zarr archive: a path, or a URL of an object store.")],
    dataset_source: SourceName = None,
    motion: MotionName = None,
    fps: Rate = None,
    option: FormatOptions = None,
    layout: ArchiveLayout = "nested",
    overwrite: Overwrite = False,
    keep_going: KeepGoing = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that read files.", metavar="N")] = 1,
    as_json: AsJson = False,
) -> None:
    """Write raw motion files of any known format to one Zarr archive."""
    options = parse_options(option or ())
    bar = Progress(
        TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
        console=err(), transient=True, disable=as_json,
    )  # fmt: skip
    with fetched(paths) as files, bar:
        report = export_sources(
            open_sources(files.places, format, motion=motion, **options),
            archive,
            dataset_source=dataset_source,
            fps=fps,
            layout=layout,
            overwrite=overwrite,
            keep_going=keep_going,
            progress=_show_on(bar),
            jobs=jobs,
        )
    present(archive, report, as_json, named=files.in_urls)


def _show_on(bar: Progress) -> Callable[[int, int, Path], None]:
    task = bar.add_task("")
    return lambda done, total, path: bar.update(task, completed=done, total=total, description=path.name)
