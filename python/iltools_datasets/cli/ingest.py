"""`iltools ingest`: from raw files to an archive, on a cluster."""

from __future__ import annotations

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
from iltools_datasets.sources.cluster import ingest as ingest_files


def ingest(
    place: Annotated[str, typer.Option("--in", help="Raw files: a directory all nodes have, or a URL.")],
    archive: Annotated[str, typer.Option("--out", help="The Zarr archive: a path all nodes have, or a URL.")],
    address: Annotated[
        str,
        typer.Option(
            "--ray", metavar="ADDRESS", help="The Ray cluster: auto is that of this node, local is this machine alone."
        ),
    ] = "auto",
    format: Annotated[str, typer.Option(help="As of iltools export.")] = "auto",
    dataset_source: SourceName = None,
    motion: MotionName = None,
    fps: Rate = None,
    option: FormatOptions = None,
    layout: ArchiveLayout = "nested",
    overwrite: Overwrite = False,
    keep_going: KeepGoing = False,
    files_per_task: Annotated[int, typer.Option(min=1, metavar="N", help="Files that a task reads.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Write raw motion files, on object storage or a shared disk, to one Zarr archive by the tasks of a Ray cluster."""
    bar = Progress(
        TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TextColumn("parts"),
        console=err(), transient=True, disable=as_json,
    )  # fmt: skip
    with bar:
        task = bar.add_task("")
        report = ingest_files(
            place,
            archive,
            address=address,
            format=format,
            options={**parse_options(option or ()), **({} if motion is None else {"motion": motion})},
            dataset_source=dataset_source,
            fps=fps,
            layout=layout,
            overwrite=overwrite,
            keep_going=keep_going,
            files_per_task=files_per_task,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    present(archive, report, as_json)
