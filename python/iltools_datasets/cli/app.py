"""`iltools`: the verbs, and what their errors become."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

import typer

from iltools_datasets.cli.output import EXIT_CANNOT, err, out, print_json
from iltools_datasets.cli.words import in_words_of_the_command_line
from iltools_datasets.errors import IltoolsError

_HELP = (
    "Expert motion from raw files to training batches.\n\n"
    "A typical way through: [cyan]export[/] raw files into a Zarr archive, let the [cyan]doctor[/] look at it, "
    "[cyan]build[/] a store from it, and sample the store from Python. "
    "[cyan]demo[/] does all of that in under a minute."
)

_TRACEBACK = "ILTOOLS_TRACEBACK"

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
    """Run the command line and end with SystemExit; every error becomes one line, in the command line's words.

    An error that nobody foresaw is called one, and `ILTOOLS_TRACEBACK=1` shows where it came from.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no tick still gets its table
    try:
        app_of(arguments[:1] if arguments and arguments[0] in VERBS else VERBS)(arguments)
    except BrokenPipeError:
        sys.exit(EXIT_CANNOT)
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            traceback.print_exc()
        _report(error, "--json" in arguments)
        sys.exit(EXIT_CANNOT)


def _report(error: Exception, as_json: bool) -> None:
    message = in_words_of_the_command_line(str(error))
    if not isinstance(error, IltoolsError | OSError):
        message = f"unforeseen {type(error).__name__}: {message} ({_TRACEBACK}=1 shows where; please report it)"
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": message}})
    err().print("error:", style="bad", end=" ")
    err().print(message, markup=False, soft_wrap=True)
