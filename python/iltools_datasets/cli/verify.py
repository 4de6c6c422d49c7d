"""`iltools verify`: read every byte and compare it with its checksum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from iltools_datasets.archive import ArchiveReader
from iltools_datasets.cli.looked_at import size_on_disk
from iltools_datasets.cli.opened import is_lerobot, is_store, open_archive
from iltools_datasets.cli.output import EXIT_FOUND, AsJson, err, human_bytes, out, print_json
from iltools_datasets.errors import IltoolsError
from iltools_datasets.store.maintenance import verify_store

Progressing = Callable[[int, int], None]


def verify(
    path: Annotated[str, typer.Argument(metavar="STORE", help="A store, an archive, or a LeRobot set.")],
    as_json: AsJson = False,
) -> None:
    """Read every byte and compare it with its checksum, where there is one; exit with 1 if something is damaged."""
    bar = Progress(
        TextColumn("verifying"), BarColumn(), TaskProgressColumn(), console=err(), transient=True, disable=as_json
    )
    with bar:
        task = bar.add_task("")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        # A store is not opened: it may be too damaged for that.
        read = _of_store if is_store(path) else _of_lerobot if is_lerobot(path) else _of_archive
        outcome = read(path, progress)
    if as_json:
        print_json({"path": str(path), **asdict(outcome)})
    else:
        for damage in outcome.damages:
            out().print(Text.assemble(("✗ ", "bad"), str(damage["message"])), soft_wrap=True)
        for note in outcome.notes:
            err().print(Text(note, style="warn"), soft_wrap=True)
        if not outcome.damages:
            size = size_on_disk(path)
            remark = f"{'' if size is None else human_bytes(size) + ', '}{outcome.verdict}"
            out().print(Text.assemble(("✓ ", "good"), f"{path}: {remark}"), soft_wrap=True)
    if outcome.damages:
        raise typer.Exit(EXIT_FOUND)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What reading every byte showed. `unchecked` are arrays without checksums, `missing_chunks` counts per array."""

    kind: Literal["store", "archive", "LeRobot set"]
    damages: list[dict[str, Any]]
    verdict: str
    notes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    missing_chunks: dict[str, int] = field(default_factory=dict)


def _of_store(path: str, progress: Progressing) -> _Outcome:
    return _Outcome("store", _damages_of_store(path, progress), "all as it was written")


def _of_lerobot(path: str, progress: Progressing) -> _Outcome:
    from iltools_datasets.lerobot.verify import verify_set

    broken, checked = verify_set(path, progress)
    damages = [{"file": entry.place, "key": entry.key, "block": None, "message": entry.message} for entry in broken]
    verdict = "every row and picture can be read, but values could not be checked: a LeRobot set has no checksums"
    if checked:
        verdict = f"every row and picture can be read, and {checked} files match the SHA-256 that they are named by"
    return _Outcome("LeRobot set", damages, verdict)


def _of_archive(path: str, progress: Progressing) -> _Outcome:
    reader = open_archive(path)
    damages = _damages_of_archive(reader, progress)
    unchecked, missing = reader.unchecked, reader.missing_chunks
    notes = [f"{array}: {count} chunks are not there; they read as the fill value" for array, count in missing.items()]
    notes += [f"left out: {line}" for line in reader.skipped]
    notes += [f"does not fit together: {clip.path}: {clip.misfit}" for clip in reader.misfits]
    if unchecked:
        few = f"{', '.join(unchecked[:3])}{', ...' if len(unchecked) > 3 else ''}"
        verdict = f"readable, but values could not be checked: {len(unchecked)} arrays have no checksums ({few})"
    elif reader.all_chunks_written:
        verdict = "all as it was written"
    else:
        verdict = "every chunk that is there matches its checksum"
    return _Outcome("archive", damages, verdict, notes, unchecked, missing)


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


def _damages_of_archive(reader: ArchiveReader, progress: Progressing) -> list[dict[str, Any]]:
    damages: list[dict[str, Any]] = []
    for number, trajectory in enumerate(reader.trajectories, start=1):
        for key in trajectory.keys:
            try:
                reader.read(trajectory, [key])
            except IltoolsError as error:
                damages.append({"file": trajectory.path, "key": key, "block": None, "message": str(error)})
        progress(number, len(reader))
    return damages
