"""Two ways of doing the same, timed in turn, so that a machine whose speed drifts drifts for both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Call = Callable[[], Any]

SITUATIONS = ("tight loop", "after a rest", "after a torch op")
"""A tight loop; blocks of seven after a quarter of a second in which nobody's threads spin; and each call right after a
torch operation on all cores, whose threads then spin for a while and take a core from everybody else."""


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


def block(situation: str, call: Call, count: int) -> float:
    """Seconds per call in a situation."""
    if situation == "tight loop":
        return timed(call, count)
    if situation == "after a rest":
        time.sleep(0.25)
        return timed(call, 7)
    import torch

    matrix = torch.ones(384, 384)
    spent = []
    for _ in range(7):
        torch.mm(matrix, matrix)
        spent.append(timed(call, 1))
    return statistics.median(spent)


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
    ratios = [theirs / mine for mine, theirs in pairs]
    return Row(
        workload,
        situation,
        show(statistics.median(mine for mine, _ in pairs)),
        show(statistics.median(theirs for _, theirs in pairs)),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        target,
    )


def figure(workload: str, situation: str, values: list[float], target: float, unit: str, peer: str = "") -> Row:
    """A figure that must stay below its target."""
    middle = statistics.median(values)
    return Row(workload, situation, f"{middle:.3g} {unit}", peer, middle, min(values), max(values), target, unit, False)
