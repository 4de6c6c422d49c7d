"""`iltools export`: from raw files to an archive."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from iltools_datasets.cli.output import EXIT_FOUND, AsJson, err, facts, heading, out, print_json
from iltools_datasets.cli.words import in_words_of_the_command_line
from iltools_datasets.sources import export as export_sources
from iltools_datasets.sources import source_class, source_formats
from iltools_datasets.sources.fetched import fetched
from iltools_datasets.sources.registry import open_sources

_OWN_OPTIONS = {"motion": "--motion", "path": "PATHS", "paths": "PATHS", "format": "FORMAT"}


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
    dataset_source: Annotated[
        str | None, typer.Option("--source", help="First level of the archive. By default the format.")
    ] = None,
    motion: Annotated[str | None, typer.Option(help="One name for all motions. By default each file's.")] = None,
    fps: Annotated[float | None, typer.Option(help="Resample to this rate, in Hz.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="NAME=VALUE", help="An option of the format, such as fps=60; repeat it."
        ),
    ] = None,
    layout: Annotated[
        Literal["nested", "packed"], typer.Option(help="packed is for thousands of short clips.")
    ] = "nested",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an archive that is there.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out what cannot be read, list it at the end, and exit with 1.")
    ] = False,
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
    notes = [files.in_urls(note) for note in report.notes]
    failures = [(files.in_urls(str(entry.path)), files.in_urls(entry.reason)) for entry in report.failures]
    if as_json:
        print_json(
            {
                "archive": archive,
                "formats": report.formats,
                "num_clips": report.num_trajectories,
                "num_states": report.num_states,
                "failures": [{"path": path, "reason": reason} for path, reason in failures],
                "notes": notes,
            }
        )
    else:
        formats = [f"{name} ({count} file{'s' if count > 1 else ''})" for name, count in report.formats.items()]
        console = out()
        console.print(heading(archive, "archive"), soft_wrap=True)
        console.print(
            facts(
                ("taken for", ", ".join(formats)),
                ("clips", f"{report.num_trajectories:,}"),
                ("states", f"{report.num_states:,}"),
                *_quaternions(report.quaternion_orders),
            )
        )
        for note in notes:
            err().print(Text(in_words_of_the_command_line(note), style="warn"), soft_wrap=True)
        for _, reason in failures:
            err().print(Text.assemble(("left out ", "bad"), in_words_of_the_command_line(reason)), soft_wrap=True)
    if failures:
        raise typer.Exit(EXIT_FOUND)


def _quaternions(orders: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return a row that says in which order the files had their quaternions, if any said or showed it."""
    said = ", ".join(f"{order} in {count} clip{'s' * (count > 1)}" for order, count in orders.items())
    return [("quaternions", f"{said} of the files; wxyz in the archive")] if said else []


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in texts:
        name, value = _parse_option(text)
        if name in _OWN_OPTIONS:
            raise typer.BadParameter(f"{name} is said by {_OWN_OPTIONS[name]}", param_hint="--option")
        if name in options:
            raise typer.BadParameter(f"{name} is said twice", param_hint="--option")
        options[name] = value
    return options


def _parse_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"expected NAME=VALUE, got {text!r}", param_hint="--option")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _show_on(bar: Progress) -> Callable[[int, int, Path], None]:
    task = bar.add_task("")
    return lambda done, total, path: bar.update(task, completed=done, total=total, description=path.name)
