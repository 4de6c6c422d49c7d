"""A progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from iltools_datasets._base.extras import missing_extra


@contextmanager
def terminal_progress(description: str, total: int, show: bool | None) -> Iterator[Callable[[], None]]:
    """Yield a function that counts one of `total` steps as done.

    `show=None` shows a bar if standard error is a terminal and rich is installed; True insists (`MissingExtraError`
    without rich), False never shows one.
    """
    if show is False or (show is None and not sys.stderr.isatty()):
        yield lambda: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError as error:
        if show:
            raise missing_extra("cli", "a progress bar") from error
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)
