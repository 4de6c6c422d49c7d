"""What is kept of a run that collects, however it ended, and what is said of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, SpinnerColumn, TextColumn

from iltools_datasets.cli.looked_at import size_on_disk
from iltools_datasets.cli.output import err, facts, heading, human_bytes, human_count, out, print_json
from iltools_datasets.errors import ArgumentError, SchemaError, StoreExistsError

if TYPE_CHECKING:
    from iltools_datasets.collection import ExpertTrajectoryCollector
    from iltools_datasets.collection.rollout import Tally

_SECONDS_BETWEEN_LINES = 0.5


@dataclass(frozen=True, slots=True)
class Places:
    """Where the recording lies, what is written beside it, and whether only that is kept."""

    directory: Path
    files: tuple[Path, ...]
    keeps_store: bool

    @property
    def found(self) -> list[Path]:
        """What is there once the recording is sealed."""
        return [self.directory, *self.files] if self.keeps_store else list(self.files)

    @property
    def shown(self) -> str:
        """The same as text."""
        return ", ".join(map(str, self.found))

    @classmethod
    def of(cls, target: Path, npy: Path | None, *, resume: bool, overwrite: bool) -> Places:
        from iltools_datasets.collection.expert_file import check_suffix

        keeps_store = not target.suffix
        files = tuple(check_suffix(file) for file in (None if keeps_store else target, npy) if file is not None)
        for file in files:
            if file.exists() and not overwrite:
                raise StoreExistsError(f"{file}: is here already; pass overwrite=True to replace it")
            if not file.parent.is_dir():
                raise ArgumentError(f"{file}: no directory {file.parent}")
        # A file appears when all is over; what a kill leaves until then lies beside it.
        return cls(target if keeps_store else target.with_name(f"{target.name}.recording"), files, keeps_store)


@dataclass(frozen=True, slots=True)
class Recorded:
    """How a run ended and what there is of it."""

    places: Places
    statistics: dict[str, Any]
    tally: Tally | None
    seconds: float
    new_steps: int
    kept: bool
    interrupted: bool

    def print(self, *, as_json: bool) -> None:
        """Write a table, or one JSON document, to standard output."""
        found = self.places.found if self.kept else []
        on_disk = {str(path): size_on_disk(str(path)) for path in found}
        rate = self.new_steps / max(self.seconds, 1e-9)
        ended = {
            "num_terminated": 0 if self.tally is None else self.tally.terminated,
            "num_truncated": 0 if self.tally is None else self.tally.truncated,
        }
        if as_json:
            print_json(
                {
                    "store": self.places.directory if self.places.keeps_store and self.kept else None,
                    "files": [str(file) for file in self.places.files] if self.kept else [],
                    "interrupted": self.interrupted,
                    "seconds": self.seconds,
                    "steps_per_second": rate,
                    **ended,
                    **self.statistics,
                    "bytes_on_disk": on_disk,
                }
            )
            return
        if not found:
            err().print("nothing was recorded")
            return
        console, said = out(), self.statistics
        console.print(
            heading(found[0], f"{'cut short' if self.interrupted else 'collected'} in {self.seconds:.1f} s"),
            soft_wrap=True,
        )
        console.print(
            facts(
                ("episodes", f"{said['num_trajectories']:,}, {ended['num_terminated']:,} of them terminated"),
                *([("cut at the end", f"{said['num_running']:,}")] if said["num_running"] else []),
                ("steps", f"{said['num_steps']:,}, {human_count(rate)} per second"),
                ("left out", f"{said['num_invalid']:,} rows without data, {said['num_dropped']:,} late"),
                *(("on disk", f"{human_bytes(size or 0)}: {path}") for path, size in on_disk.items()),
            )
        )


def record(
    collector: ExpertTrajectoryCollector,
    places: Places,
    run: Callable[[Callable[[ExpertTrajectoryCollector, Tally], None]], Tally],
    *,
    quiet: bool,
) -> Recorded:
    """Record until the run is over, is interrupted or fails, and seal what is there then; a failure is raised again."""
    began, before, interrupted = time.monotonic(), collector.num_steps, False
    seen: Tally | None = None
    bar = Progress(SpinnerColumn(), TextColumn("{task.description}"), console=err(), transient=True, disable=quiet)
    with bar:
        line, shown = bar.add_task("collecting"), -_SECONDS_BETWEEN_LINES

        def show(recorded: ExpertTrajectoryCollector, tally: Tally) -> None:
            nonlocal seen, shown
            seen = tally
            if quiet or time.monotonic() - shown < _SECONDS_BETWEEN_LINES:
                return
            shown = time.monotonic()
            rate = (recorded.num_steps - before) / max(shown - began, 1e-9)
            on_disk = recorded.get_statistics()["bytes_on_disk"]
            bar.update(
                line,
                description=f"{recorded.num_trajectories:,} episodes, {tally.terminated:,} terminated, "
                f"{human_count(rate)} steps per second, {human_bytes(on_disk)} on disk",
            )

        try:
            run(show)
        except KeyboardInterrupt:
            interrupted = True
        except Exception:
            count = collector.num_trajectories + len(collector.running)
            if _seal(collector, places):
                err().print(f"{count:,} episodes were recorded and are kept: {places.shown}", soft_wrap=True)
            raise
    seconds, statistics = time.monotonic() - began, collector.get_statistics()
    kept = _seal(collector, places)
    return Recorded(places, statistics, seen, seconds, statistics["num_steps"] - before, kept, interrupted)


def _seal(collector: ExpertTrajectoryCollector, places: Places) -> bool:
    """Write files and store; return whether there was anything to write."""
    if not collector.num_steps:
        with suppress(SchemaError):
            collector.close()
        return False
    for file in places.files:
        collector.save(file, only_valid=True)
    collector.close()
    if not places.keeps_store:
        shutil.rmtree(places.directory)
    return True
