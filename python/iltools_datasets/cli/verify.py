"""`iltools verify`: read every byte and compare it with its checksum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from iltools_datasets.archive import ArchiveReader
from iltools_datasets.cli.opened import is_store, open_path
from iltools_datasets.cli.output import EXIT_FOUND, AsJson, err, human_bytes, out, print_json
from iltools_datasets.errors import IltoolsError
from iltools_datasets.store.maintenance import verify_store

Progressing = Callable[[int, int], None]


def verify(
    path: Annotated[str, typer.Argument(metavar="STORE", help="A store, or an archive.")],
    as_json: AsJson = False,
) -> None:
    """Compare every block with its checksum; exit with 1 if something is damaged."""
    # A store is not opened: it may be too damaged for that.
    opened = None if is_store(path) else open_path(path)
    kind = "store" if opened is None else opened.kind
    bar = Progress(
        TextColumn("verifying"), BarColumn(), TaskProgressColumn(), console=err(), transient=True, disable=as_json
    )
    with bar:
        task = bar.add_task("")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        damages = (_damages_of_store if kind == "store" else _damages_of_archive)(path, progress)
    if as_json:
        print_json({"path": str(path), "kind": kind, "damages": damages})
    else:
        console = out()
        for damage in damages:
            console.print(Text.assemble(("✗ ", "bad"), str(damage["message"])), soft_wrap=True)
        if not damages:
            size = (opened or open_path(path)).bytes_on_disk
            remark = f"{'' if size is None else human_bytes(size) + ', '}all as it was written"
            console.print(Text.assemble(("✓ ", "good"), f"{path}: {remark}"), soft_wrap=True)
    if damages:
        raise typer.Exit(EXIT_FOUND)


def _damages_of_store(path: str, progress: Progressing) -> list[dict[str, Any]]:
    return [
        {
            "file": damage.file,
            "key": list(damage.key) if isinstance(damage.key, tuple) else damage.key,
            "block": damage.block,
            "message": f"{damage.file}: {damage.what}",
        }
        for damage in verify_store(path, progress)
    ]


def _damages_of_archive(path: str, progress: Progressing) -> list[dict[str, Any]]:
    reader = ArchiveReader(path)
    damages: list[dict[str, Any]] = []
    for number, trajectory in enumerate(reader.trajectories, start=1):
        for key in trajectory.keys:
            try:
                reader.read(trajectory, [key])
            except IltoolsError as error:
                damages.append({"file": trajectory.path, "key": key, "block": None, "message": str(error)})
        progress(number, len(reader))
    return damages
