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


Event = Begun | Recorded | Built | Sampled | TrainingStep | Trained | Tracked
