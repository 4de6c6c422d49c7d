"""`iltools`: the verbs, and what their errors become."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

import typer

from iltools_datasets.cli.bench import bench
from iltools_datasets.cli.build import build
from iltools_datasets.cli.demo import demo
from iltools_datasets.cli.doctor import doctor
from iltools_datasets.cli.export import export
from iltools_datasets.cli.info import info
from iltools_datasets.cli.output import EXIT_CANNOT, err, out, print_json
from iltools_datasets.cli.repair import repair
from iltools_datasets.cli.verify import verify
from iltools_datasets.cli.view import view
from iltools_datasets.errors import IltoolsError

_HELP = (
    "Expert motion from raw files to training batches.\n\n"
    "A typical way through: [cyan]export[/] raw files into a Zarr archive, let the [cyan]doctor[/] look at it, "
    "[cyan]build[/] a store from it, and sample the store from Python. "
    "[cyan]demo[/] does all of that in under a minute."
)

app = typer.Typer(
    name="iltools", help=_HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)
for verb in (demo, export, doctor, build, info, view, verify, repair, bench):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        from iltools_datasets import __version__

        out().print(f"iltools-datasets {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def run(arguments: Sequence[str] | None) -> None:
    """Run the command line and end with SystemExit; errors this package raises on purpose become one line."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no tick still gets its table
    try:
        app(arguments)
    except (IltoolsError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            sys.exit(EXIT_CANNOT)
        if "--json" in arguments:
            print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        err().print("error:", style="bad", end=" ")
        err().print(str(error), markup=False, soft_wrap=True)
        sys.exit(EXIT_CANNOT)
