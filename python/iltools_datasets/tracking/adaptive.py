"""How failures become starts: the parameters, and what each of them is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integer
from iltools_datasets.errors import ArgumentError

Floats = NDArray[np.float64]
Score = Callable[[Floats, Floats, Floats], Any]
Statistic = Literal["rate", "count"]
BaseMeasure = Literal["time", "clip"]

_MOST_LOOK_BACK = 1024


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Starts go where the policy fails, and never leave out a bin.

    A clip is cut into bins. N counts the passes of each (control steps spent in it, divided by those it has), F the
    failures. A bin's rate is (F + prior · its clip's rate) / (N + prior), a clip's is made of all in the same way; the
    score of a bin is its rate and, less and less, those of the bins ahead of it. Of all starts a share `uniform` takes
    every bin in turn; the others fall in proportion to base measure times score, no bin above `cap` times its base.

    Attributes:
        bin_s: seconds of a bin; what is left of a clip is a bin if it is half of one or more.
        uniform: share of the starts that take all bins in turn, in [0, 1]. Above 0 nothing can be starved.
        cap: how many times its base measure a bin may have of the other starts, at least 1; None = no limit.
        prior: passes for which a bin is believed to be like its clip, and a clip like all.
        half_life: half is forgotten after so many passes per bin, but in no fewer than so many syncs; None = never.
        look_back: how many bins count, the bin itself among them, and how much less each further one ahead does.
        statistic: "rate", or "count": failures whatever the passes.
        score: `score(F, N, base) -> [bins]` instead of rates and look-back; finite and not negative. Arrays are float64
            `[bins]` of the caller's own.
        base: what bins weigh before anything has happened: "time", or "clip": each clip the same.

    Raises:
        ArgumentError: a parameter that makes no sense.

    Examples:
        >>> from iltools_datasets.tracking import MotionSampler
        >>> adaptive = Adaptive(bin_s=0.5, uniform=0.2, cap=None)
        >>> sampler = MotionSampler(TrajectoryStore.open("motion"), 8, control_dt=0.02, adaptive=adaptive)
        >>> sampler.coverage()
        Coverage:
          clips: 2 in 8 bins
          seen: 0.0 s of motion, 0.00 times over
          starts: 0, failures 0, 0.000 per start
          busiest 1 %: 0.0 % of all visits
          never started: 2 clips ('task 0/walk0', 'task 0/walk1'); 8 bins
          never visited: 2 clips ('task 0/walk0', 'task 0/walk1'); 8 bins
          never completed: 2 clips ('task 0/walk0', 'task 0/walk1'); 8 bins
    """

    bin_s: float = 1.0
    uniform: float = 0.1
    cap: float | None = 10.0
    prior: float = 2.0
    half_life: tuple[float, float] | None = (100.0, 20.0)
    look_back: tuple[int, float] = (4, 0.8)
    statistic: Statistic = "rate"
    score: Score | None = None
    base: BaseMeasure = "time"

    def __post_init__(self) -> None:
        _check("bin_s", self.bin_s, above=0)
        _check("uniform", self.uniform, low=0, high=1)
        if self.cap is not None:
            _check("cap", self.cap, low=1)
        _check("prior", self.prior, low=0)
        if self.half_life is not None:
            for part in _pair("half_life", self.half_life):
                _check("half_life", part, above=0)
        count, factor = _pair("look_back", self.look_back)
        checked_integer("look_back", count, 1, _MOST_LOOK_BACK)
        _check("look_back", factor, low=0, high=1)
        for name, allowed in (("statistic", get_args(Statistic)), ("base", get_args(BaseMeasure))):
            if getattr(self, name) not in allowed:
                raise ArgumentError(f"{name}: expected one of {list(allowed)}, found {getattr(self, name)!r}")
        if self.score is not None and not callable(self.score):
            raise ArgumentError(f"score: expected a function of F, N and the base measure, found {self.score!r:.80}")

    def config(self) -> dict[str, Any]:
        """Return the parameters as plain values; of `score` only whether there is one."""
        own = {name: getattr(self, name) for name in self.__slots__}
        return {**own, "score": self.score is not None}

    def scores(self, failures: Floats, passes: Floats, base: Floats) -> Floats | None:
        """Return what `score` says, checked; None without one.

        Raises:
            ArgumentError: it says something other than a number per bin, finite and not negative.
        """
        if self.score is None:
            return None
        bins = len(base)
        try:
            found = np.array(self.score(failures, passes, base), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"score: expected numbers [{bins}]: {error}") from error
        if found.shape != (bins,) or not np.isfinite(found).all() or (found < 0).any():
            what = f"shape {list(found.shape)}" if found.shape != (bins,) else "negative ones or none"
            raise ArgumentError(f"score: expected [{bins}] finite numbers that are not negative, found {what}")
        return found


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ArgumentError(f"{name}: expected two numbers, found {value!r:.80}")
    return value[0], value[1]


def _check(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, above: float | None = None
) -> None:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    fits = is_number and isfinite(value)
    fits = fits and (low is None or value >= low) and (high is None or value <= high)
    if not fits or (above is not None and value <= above):
        bounds = f"above {above:g}" if above is not None else f"of at least {low:g}"
        bounds += "" if high is None else f" and at most {high:g}"
        raise ArgumentError(f"{name}: expected a number {bounds}, found {value!r:.80}")


UNIFORM = Adaptive(uniform=1.0)
"""All starts take the bins in turn: what `adaptive=None` is."""
