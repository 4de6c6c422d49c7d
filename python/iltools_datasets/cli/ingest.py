"""`iltools ingest`: from raw files to an archive, on a cluster."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from iltools_datasets.cli.export import parse_options
from iltools_datasets.cli.output import EXIT_FOUND, AsJson, err, facts, heading, out, print_json
from iltools_datasets.cli.words import in_words_of_the_command_line
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
    dataset_source: Annotated[
        str | None, typer.Option("--source", help="First level of the archive. By default the format.")
    ] = None,
    motion: Annotated[str | None, typer.Option(help="One name for all motions. By default each file's.")] = None,
    fps: Annotated[float | None, typer.Option(help="Resample to this rate, in Hz.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the format; repeat it."),
    ] = None,
    layout: Annotated[
        Literal["nested", "packed"], typer.Option(help="packed is for thousands of short clips.")
    ] = "nested",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an archive that is there.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out what cannot be read, list it at the end, and exit with 1.")
    ] = False,
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
    failures = [(str(failure.path), failure.reason) for failure in report.failures]
    if as_json:
        print_json(
            {
                "archive": archive,
                "formats": report.formats,
                "num_clips": report.num_trajectories,
                "num_states": report.num_states,
                "failures": [{"path": path, "reason": reason} for path, reason in failures],
                "notes": report.notes,
            }
        )
    else:
        out().print(heading(archive, "archive"), soft_wrap=True)
        formats = ", ".join(f"{name} ({count} file{'s' * (count > 1)})" for name, count in report.formats.items())
        out().print(
            facts(
                ("taken for", formats), ("clips", f"{report.num_trajectories:,}"), ("states", f"{report.num_states:,}")
            )
        )
        for note in report.notes:
            err().print(Text(in_words_of_the_command_line(note), style="warn"), soft_wrap=True)
        for _, reason in failures:
            err().print(Text.assemble(("left out ", "bad"), in_words_of_the_command_line(reason)), soft_wrap=True)
    if failures:
        raise typer.Exit(EXIT_FOUND)
