"""What the demo tells whoever presents it, in the order it happens."""

from __future__ import annotations

from dataclasses import dataclass

from iltools_datasets.demo.sampling import ModeRate
from iltools_datasets.demo.tracking import Tracking
from iltools_datasets.ingest.report import BuildReport


@dataclass(frozen=True, slots=True)
class Begun:
    """A stage has begun that takes a moment."""

    title: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """The expert was simulated and its clips archived; lengths in states, times in seconds."""

    num_clips: int
    shortest: int
    longest: int
    motion_seconds: float
    array_bytes: int
    archive: str
    archive_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Built:
    """The store was built; `array_bytes` is what its states and actions take in memory."""

    report: BuildReport
    array_bytes: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """Every sampling mode was measured."""

    rates: tuple[ModeRate, ...]


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One step of `total` is done."""

    step: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True)
class Trained:
    """Cloning is done; losses are mean squared errors in units of the target's variance, averaged over a stretch."""

    target: str
    num_transitions: int
    first_loss: float
    last_loss: float
    curve: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Collected:
    """Two collectors recorded one store, the first of which was killed, while somebody trained on it.

    Attributes:
        rows_said: rows that the first one had recorded when it was killed, by its own word.
        rows_found: rows that the second one went on with.
        growth: trajectories that the trainer had, each time there were more.
        num_transitions: of the finished store.
        is_finished: whether it was sealed.
        damages: what is wrong with its bytes.
        row_bytes: bytes on disk of a row.
    """

    rows_said: int
    rows_found: int
    growth: tuple[int, ...]
    num_transitions: int
    is_finished: bool
    damages: int
    row_bytes: float

    @property
    def passed(self) -> bool:
        """Whether nothing was lost and the store is sound."""
        return self.is_finished and not self.damages and 0 < self.rows_said <= self.rows_found


@dataclass(frozen=True, slots=True)
class Tracked:
    """The policy ran against the expert; `limit_degrees` and `limit_upright_share` are the bounds it has to keep."""

    tracking: Tracking
    limit_degrees: float
    limit_upright_share: float

    @property
    def passed(self) -> bool:
        """Whether the policy stayed within both bounds."""
        return (
            self.tracking.p95_degrees <= self.limit_degrees and self.tracking.upright_share >= self.limit_upright_share
        )


Event = Begun | Recorded | Collected | Built | Sampled | TrainingStep | Trained | Tracked
