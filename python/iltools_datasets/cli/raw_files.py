"""What `iltools export` and `iltools ingest` share: options, and what they say of the archive that they wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from iltools_datasets.cli.output import EXIT_FOUND, err, facts, heading, out, print_json
from iltools_datasets.cli.words import in_words_of_the_command_line
from iltools_datasets.sources import ExportReport

SourceName = Annotated[str | None, typer.Option("--source", help="First level of the archive. By default the format.")]
MotionName = Annotated[str | None, typer.Option(help="One name for all motions. By default each file's.")]
Rate = Annotated[float | None, typer.Option(help="Resample to this rate, in Hz.")]
FormatOptions = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the format, such as fps=60; repeat it."),
]
ArchiveLayout = Annotated[Literal["nested", "packed"], typer.Option(help="packed is for thousands of short clips.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an archive that is there.")]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Leave out what cannot be read, list it at the end, and exit with 1.")
]

_OWN_OPTIONS = {"motion": "--motion", "path": "PATHS", "paths": "PATHS", "format": "FORMAT"}


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Return the options of a format, each NAME=VALUE, where a value that is no JSON is a text."""
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


def present(archive: str, report: ExportReport, as_json: bool, named: Callable[[str], str] = str) -> None:
    """Say what was written, and exit with 1 if files were left out; `named` puts the names of files into messages."""
    notes = [named(note) for note in report.notes]
    failures = [(named(str(failure.path)), named(failure.reason)) for failure in report.failures]
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
        formats = [f"{name} ({count} file{'s' * (count > 1)})" for name, count in report.formats.items()]
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
