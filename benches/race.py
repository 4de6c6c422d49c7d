"""Two ways of doing the same, timed in turn, so that a machine whose speed drifts drifts for both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pytest

Call = Callable[[], Any]

SITUATIONS = ("tight loop", "after a rest", "after a torch op")
"""A tight loop; blocks of seven after a quarter of a second in which nobody's threads spin; and each call right after a
torch operation on all cores, whose threads then spin for a while and take a core from everybody else."""

OFF_THE_LOOP = 0.75
"""Of the ratio asked for in a tight loop, what is asked for after a rest and after a torch operation."""


def situations(*gated: str) -> list[Any]:
    """The situations for `parametrize`; a gate looks at the tight loop, and at those of the others that are named."""
    return [pytest.param(name, marks=[pytest.mark.gate] if name in gated else []) for name in SITUATIONS]


def asked(target: float, situation: str) -> float:
    """The target in a situation, from that in a tight loop."""
    return target if situation == "tight loop" else target * OFF_THE_LOOP


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `ratio` is how many times better ours is, or, without a peer, the figure itself."""

    workload: str
    situation: str
    ours: str
    peer: str
    ratio: float
    low: float
    high: float
    target: float
    unit: str = "x"
    higher_is_better: bool = True

    @property
    def met(self) -> bool:
        return self.ratio >= self.target if self.higher_is_better else self.ratio <= self.target

    def within(self, share: float) -> bool:
        """Whether the best round reaches this share of the target: a slower kernel spoils all, other jobs some."""
        return self.high >= self.target * share if self.higher_is_better else self.low * share <= self.target

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def timed(call: Call, count: int) -> float:
    """Seconds per call, over `count` calls in a row."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


class Spent(NamedTuple):
    """Seconds per call: of the clock, and of all cores by all threads of this process, those of torch that spin too."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{show(self.wall)}, cpu {show(self.cpu)}"


def spent(call: Call, count: int) -> Spent:
    """What a call takes, over `count` calls in a row."""
    before = time.process_time()
    wall = timed(call, count)
    return Spent(wall, (time.process_time() - before) / count)


def block(situation: str, call: Call, count: int) -> Spent:
    """What a call takes in a situation."""
    if situation == "tight loop":
        return spent(call, count)
    if situation == "after a rest":
        time.sleep(0.25)
        return spent(call, 7)
    import torch

    matrix = torch.ones(384, 384)
    calls = []
    for _ in range(7):
        torch.mm(matrix, matrix)
        calls.append(spent(call, 1))
    return middle(calls)


def middle(calls: list[Spent]) -> Spent:
    return Spent(statistics.median(call.wall for call in calls), statistics.median(call.cpu for call in calls))


def show(seconds: float) -> str:
    """A duration in a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def race(
    workload: str, situation: str, ours: Call, peer: Call, target: float, rounds: int = 9, seconds: float = 0.15
) -> Row:
    """Time both in turn and return the ratio's median and range over the rounds."""
    for call in (ours, peer):
        timed(call, 3)
    counts = [max(1, min(300, int(seconds / timed(call, 2)))) for call in (ours, peer)]
    pairs = [(block(situation, ours, counts[0]), block(situation, peer, counts[1])) for _ in range(rounds)]
    ratios = [theirs.wall / mine.wall for mine, theirs in pairs]
    return Row(
        workload,
        situation,
        str(middle([mine for mine, _ in pairs])),
        str(middle([theirs for _, theirs in pairs])),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        target,
    )


def figure(workload: str, situation: str, values: list[float], target: float, unit: str, peer: str = "") -> Row:
    """A figure that must stay below its target."""
    middle = statistics.median(values)
    return Row(workload, situation, f"{middle:.3g} {unit}", peer, middle, min(values), max(values), target, unit, False)
