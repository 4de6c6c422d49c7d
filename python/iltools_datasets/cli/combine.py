"""`iltools combine`: several archives, or several stores, as one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from iltools_datasets.cli.opened import is_store, open_archive
from iltools_datasets.cli.output import AsJson, err, facts, heading, human_bytes, out, print_json


def combine(
    parts: Annotated[list[str], typer.Argument(metavar="PART...", help="Archives, or stores, of one schema.")],
    whole: Annotated[str, typer.Option("--out", help="The new archive, or directory of the new store.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an archive that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Join archives, or stores, of one schema into one; files that can be shared are not copied."""
    stores = [part for part in parts if is_store(part)]
    if stores and len(stores) < len(parts):
        other = next(part for part in parts if part not in stores)
        raise typer.BadParameter(f"{stores[0]} is a store, {other} is none: give archives, or stores")
    if stores:
        if overwrite:
            raise typer.BadParameter("stores are joined in a new directory", param_hint="--overwrite")
        from iltools_datasets.ingest.combine_stores import combine_stores

        joined = combine_stores(parts, whole)
        _say(joined.as_dict(), "store", ("transitions", f"{joined.num_transitions:,}"), as_json)
        return
    for part in parts:
        open_archive(part).close()  # or the message says what else it is
    from iltools_datasets.archive.combine import combine_archives

    combined = combine_archives(parts, whole, overwrite)
    _say(combined.as_dict(), "archive", ("states", f"{combined.num_states:,}"), as_json)
    if combined.rewritten and not as_json:
        err().print(Text(f"written again, not shared: {', '.join(combined.rewritten)}", style="warn"), soft_wrap=True)


def _say(found: dict[str, object], what: str, count: tuple[str, str], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    parts, shared = found["parts"], found["shared_bytes"]
    assert isinstance(parts, tuple)
    assert isinstance(shared, int)
    console = out()
    console.print(heading(found["path"], f"{what} of {len(parts)} parts"), soft_wrap=True)
    console.print(facts(("clips", f"{found['num_clips']:,}"), count, ("shared", f"{human_bytes(shared)}, not copied")))
