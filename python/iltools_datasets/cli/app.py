"""`iltools`: the verbs, and what their errors become."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

import typer

from iltools_datasets.cli.output import EXIT_CANNOT, EXIT_INTERRUPTED, err, out, print_json
from iltools_datasets.cli.words import in_words_of_the_command_line
from iltools_datasets.errors import IltoolsError

_HELP = (
    "Expert motion from raw files to training batches.\n\n"
    "A typical way through: [cyan]export[/] raw files into a Zarr archive, let the [cyan]doctor[/] look at it, "
    "[cyan]build[/] a store from it, and sample the store from Python. "
    "[cyan]demo[/] does all of that in under a minute."
)

_TRACEBACK = "ILTOOLS_TRACEBACK"

VERBS = {
    "demo": "Simulate an expert, archive it, build a store, sample it, clone it, compare.",
    "collect": (
        "Let an expert act in a simulator and record what it saw and did: a store, or the file that others train from."
    ),
    "export": "Write raw motion files of any known format to one Zarr archive.",
    "ingest": (
        "Write raw motion files, on object storage or a shared disk, to one Zarr archive by the tasks of a Ray cluster."
    ),
    "doctor": (
        "Look for what ruins training: NaN, bad quaternions, wrong velocities and rates, teleports, names that do "
        "not fit."
    ),
    "build": "Build a store from an archive: what training samples from.",
    "combine": "Join archives, or stores, of one schema into one; files that can be shared are not copied.",
    "info": "Say what is at a path: clips, keys, rates and sizes; or what a motion sampler saw of a store.",
    "report": "Write a page, one file, of what a data set holds: lengths, rates, keys, findings, and how clips look.",
    "view": "Draw a clip's curves and root path, what its cameras saw, how long all clips are; or its bodies in space.",
    "verify": (
        "Read every byte and compare it with its checksum, where there is one; exit with 1 if something is damaged."
    ),
    "repair": "Remove what killed builds left in a store, and finish one whose collector was killed.",
    "bench": (
        "Measure every way of sampling a store, on this machine, now: medians, 99th percentiles, samples per second."
    ),
}
"""What each verb does, in a line; the verb itself is a function in the module of that name."""

_BRIEF = (["info"], ["view"])
"""Verbs that look at something and end, so that nothing of theirs has to be collected before."""
_AT_ONCE = (*_BRIEF, ["export"])
"""Verbs that have ended all they began when they return: processes, threads, files."""

_COMPLETING = "_ILTOOLS_COMPLETE"
"""Set while a shell asks what could come next."""

_USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What typer raises for wrong usage; it has its own click, or the one beside it, and no public name for this."""


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


def app_of(arguments: Sequence[str]) -> typer.Typer:
    """Return the command line as these arguments need it: of a verb that they do not call, only its line of help."""
    app = typer.Typer(
        name="iltools",
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for verb, summary in VERBS.items():
        if arguments[:1] == [verb] or _COMPLETING in os.environ:
            app.command()(getattr(import_module(f"iltools_datasets.cli.{verb}"), verb))
        else:
            app.command(verb, help=summary)(_is_not_called)
    return app


def _is_not_called() -> None:
    raise AssertionError("a verb that no argument names was called")


def run(arguments: Sequence[str] | None) -> None:
    """Run the command line and end with SystemExit; every error becomes one line, in the command line's words.

    An error that nobody foresaw is called one, and `ILTOOLS_TRACEBACK=1` shows where it came from.
    """
    is_own_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    verb = arguments[:1]
    with _no_collection() if verb in _BRIEF else nullcontext():
        try:
            _run(arguments)
        except SystemExit as ended:
            if is_own_process and verb in _AT_ONCE:
                _leave(ended.code if isinstance(ended.code, int) else 0)
            raise


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let the collector of cycles rest: no signal gets through while it goes over millions of objects for nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _leave(code: int) -> NoReturn:
    """End this process without freeing, one by one, what it holds: who interrupts does not wait for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = EXIT_CANNOT
    os._exit(code)


def _run(arguments: Sequence[str]) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no tick still gets its table
    as_json = "--json" in arguments
    try:
        sys.exit(app_of(arguments)(list(arguments), standalone_mode=not as_json))
    except _USAGE_ERROR as error:  # only as JSON: typer draws a box around it otherwise
        _report(error.format_message(), "UsageError", as_json)
        sys.exit(EXIT_CANNOT)
    except BrokenPipeError:
        sys.exit(EXIT_CANNOT)
    except KeyboardInterrupt:  # while a verb is being loaded; typer makes the same of later ones
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            traceback.print_exc()
        kind, message = type(error).__name__, in_words_of_the_command_line(str(error))
        if not isinstance(error, IltoolsError | OSError):
            message = f"unforeseen {kind}: {message} ({_TRACEBACK}=1 shows where; please report it)"
        _report(message, kind, as_json)
        sys.exit(EXIT_CANNOT)


def _report(message: str, kind: str, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"type": kind, "message": message}})
    err().print("error:", style="bad", end=" ")
    err().print(message, markup=False, soft_wrap=True)
