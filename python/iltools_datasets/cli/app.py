"""`iltools`: the verbs, and what their errors become."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

import typer

from iltools_datasets.cli.output import EXIT_CANNOT, err, out, print_json
from iltools_datasets.errors import IltoolsError

_HELP = (
    "Expert motion from raw files to training batches.\n\n"
    "A typical way through: [cyan]export[/] raw files into a Zarr archive, let the [cyan]doctor[/] look at it, "
    "[cyan]build[/] a store from it, and sample the store from Python. "
    "[cyan]demo[/] does all of that in under a minute."
)

VERBS = ("demo", "collect", "export", "doctor", "build", "info", "view", "verify", "repair", "bench")
"""Each is a function in the module of that name."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from iltools_datasets import __version__

        out().print(f"iltools-datasets {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def app_of(verbs: Sequence[str]) -> typer.Typer:
    """Return the command line with some of its verbs; what the others need is not imported."""
    app = typer.Typer(
        name="iltools", help=_HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
    )
    app.callback()(_options)
    for verb in verbs:
        app.command()(getattr(import_module(f"iltools_datasets.cli.{verb}"), verb))
    return app


def run(arguments: Sequence[str] | None) -> None:
    """Run the command line and end with SystemExit; errors this package raises on purpose become one line."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no tick still gets its table
    try:
        app_of(arguments[:1] if arguments and arguments[0] in VERBS else VERBS)(arguments)
    except (IltoolsError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            sys.exit(EXIT_CANNOT)
        if "--json" in arguments:
            print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        err().print("error:", style="bad", end=" ")
        err().print(str(error), markup=False, soft_wrap=True)
        sys.exit(EXIT_CANNOT)
