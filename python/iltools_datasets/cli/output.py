"""What all verbs share on their way to the terminal: consoles, numbers for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

THEME = Theme(
    {"good": "green", "bad": "bold red", "warn": "yellow", "dim": "bright_black", "number": "cyan", "head": "bold"}
)

EXIT_FOUND = 1
"""The command ran and found something wrong."""
EXIT_CANNOT = 2
"""The command could not run."""
EXIT_INTERRUPTED = 130
"""Somebody pressed Ctrl-C."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def out() -> Console:
    """Return the console of standard output."""
    return Console(theme=THEME, highlight=False, soft_wrap=False)


def err() -> Console:
    """Return the console of standard error."""
    return Console(theme=THEME, highlight=False, stderr=True)


def print_json(document: Any) -> None:
    """Write one JSON document to standard output; NaN becomes null, for JSON has none."""
    sys.stdout.write(json.dumps(_finite(document), indent=2, allow_nan=False, default=str) + "\n")


def heading(path: object, remark: str) -> Text:
    """Return the first line of what a command says about a path."""
    return Text.assemble((str(path), "head"), (f"  {remark}", "dim"))


def facts(*rows: tuple[str, RenderableType]) -> Table:
    """Return a table of names, dim at the left, and what is to say about each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def human_bytes(count: float) -> str:
    """Return a byte count with a decimal unit: 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def human_count(count: float) -> str:
    """Return a count in three digits: 950, 12.3 k, 4.56 M."""
    for unit in ("", " k", " M"):
        if abs(count) < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} G"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
