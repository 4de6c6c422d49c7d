"""What a build did with each trajectory and key of its archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SkippedTrajectory:
    """A trajectory of the archive that is not in the store, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The outcome of one build from an archive.

    `source` and `store` are paths; counts are of what was exported; `obs_keys` is what makes up the observation.
    `skipped` lists every trajectory left out, `dropped_keys` every array left out with the reason.
    `inferred_terminated` counts trajectories without a flag in the archive whose last transition was marked terminated;
    `zero_action` says that the archive has no action.
    `missing_chunks` counts chunks a foreign archive left out because they hold only its fill value;
    `skipped_arrays` has a line for each array of the archive that belongs to no trajectory. `reused` says that the
    store was there already, and nothing was written. Where clips were added to a store, the counts are of those, and
    `num_in_store` is how many it has by now; `num_present` of the archive's were in it before.
    """

    source: str
    store: str
    num_trajectories: int
    num_transitions: int
    num_states: int
    num_tasks: int
    obs_keys: tuple[str, ...]
    keys: tuple[str, ...]
    bytes_on_disk: int
    seconds: float
    skipped: tuple[SkippedTrajectory, ...] = ()
    dropped_keys: Mapping[str, str] = field(default_factory=dict)
    inferred_terminated: int = 0
    zero_action: bool = False
    missing_chunks: int = 0
    skipped_arrays: tuple[str, ...] = ()
    reused: bool = False
    num_in_store: int | None = None
    num_present: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON."""
        return asdict(self)

    def remarks(self) -> list[str]:
        """Return what a user should know about the build beyond its numbers, a line each."""
        lines = []
        if self.reused:
            lines.append("re-used: it was built by these options from these clips, and no file of theirs has changed")
        if self.num_in_store is not None:
            lines.append(f"the store has {self.num_in_store} clips by now")
        if self.num_present:
            lines.append(f"{self.num_present} clips of these names are in the store already, and were left as they are")
        if self.zero_action:
            lines.append("the archive has no action: zeros of width 1 stand in")
        if self.inferred_terminated:
            lines.append(f"{self.inferred_terminated} clips without a flag: their last transition counts as terminated")
        if self.missing_chunks:
            lines.append(f"{self.missing_chunks} chunks are not in the archive and were read as its fill value")
        lines += [f"left out key {key}: {reason}" for key, reason in self.dropped_keys.items()]
        lines += [f"left out array {line}" for line in self.skipped_arrays]
        lines += [f"skipped {entry.name}: {entry.reason}" for entry in self.skipped]
        return lines

    def __str__(self) -> str:
        summary = (
            f"{self.num_trajectories} trajectories of {self.num_tasks} tasks, {self.num_transitions} transitions, "
            f"{self.bytes_on_disk / 1e6:.1f} MB in {self.seconds:.1f} s: {self.store}"
        )
        return "\n".join([summary, f"keys: {', '.join(self.keys)}", *self.remarks()])
