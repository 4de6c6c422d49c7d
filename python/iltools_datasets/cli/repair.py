"""`iltools repair`: remove what killed builds left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from iltools_datasets.cli.output import AsJson, out, print_json
from iltools_datasets.store.maintenance import repair_store
from iltools_datasets.store.trajectory_store import TrajectoryStore


def repair(
    path: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or where a build of one was killed.")],
    as_json: AsJson = False,
) -> None:
    """Remove what killed builds left in a store, and finish one whose collector was killed."""
    removed = repair_store(path)
    if as_json:
        print_json({"path": str(path), "removed": [str(entry) for entry in removed]})
        return
    console = out()
    if any(entry.name == "journal" for entry in removed):
        store = TrajectoryStore.open(path)
        console.print(
            Text.assemble(
                ("✓ ", "good"), f"{path}: finished, {store.num_trajectories:,} trajectories, {len(store):,} transitions"
            ),
            soft_wrap=True,
        )
    for entry in removed:
        console.print(Text.assemble(("removed ", "dim"), str(entry)), soft_wrap=True)
    remark = "left by killed builds and removed" if removed else "nothing is left of killed builds"
    console.print(
        Text.assemble(("✓ ", "good"), f"{path}: {len(removed) or ''} {remark}".replace("  ", " ")), soft_wrap=True
    )
