"""The command line `iltools`; needs the extra `cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from iltools_datasets._base.extras import missing_extra


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `iltools` with the arguments given, by default those of the process; always ends with SystemExit.

    Exit codes: 0 fine, 1 it ran and found something wrong (damage, findings, failed files, a missed bound), 2 it could
    not run (bad usage, missing or unreadable input, a missing extra), 130 interrupted.
    """
    try:
        try:
            from iltools_datasets.cli.app import run
        except ModuleNotFoundError as error:
            if error.name not in ("typer", "rich"):
                raise
            print(missing_extra("cli", "the command line iltools"), file=sys.stderr)
            sys.exit(2)
        run(arguments)
    except KeyboardInterrupt:  # before a verb begins, or once it is over; in between it is the verb's
        sys.exit(130)
