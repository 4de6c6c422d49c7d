"""What was seen of the clips, and what was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets.tracking.counts import by_kind

Bins = NDArray[np.int64]
_NAMED = 5
_PER_BIN = ("bin_begin", "bin_end", "visits", "failures", "starts", "completions", "probabilities")


class CoverageWarning(UserWarning):
    """Some clips were never started although there were starts enough."""


@dataclass(frozen=True, slots=True, repr=False)
class Coverage:
    """What happened in each bin and clip, of all ranks up to the last sync and of this one since; never forgotten.

    Attributes:
        clip_names: [clips].
        bin_clip, bin_begin, bin_end: clip of each bin, and the seconds of it where the bin begins and ends, [bins].
        visits: control steps spent in each bin, int64 [bins].
        failures, starts, completions: envs that fell in it, were put into it, left it at its end, int64 [bins].
        probabilities: how likely the next start is in it, float64 [bins].
        left_out: clip -> why no start falls in it.
        control_dt: seconds of a control step.
    """

    clip_names: list[str]
    bin_clip: Bins
    bin_begin: NDArray[np.float64]
    bin_end: NDArray[np.float64]
    visits: Bins
    failures: Bins
    starts: Bins
    completions: Bins
    probabilities: NDArray[np.float64]
    left_out: Mapping[str, str] = field(default_factory=dict)
    control_dt: float = 1.0

    @classmethod
    def of(
        cls, names: list[str], bins: _core.MotionBins, tracker: _core.Tracker, since: Bins, control_dt: float
    ) -> Coverage:
        """Return what a tracker counted up to the last sync, and `since`, `[bins * 4]`."""
        visits, failures, starts, completions = by_kind(tracker.totals() + since)
        clips = bins.clip
        weighs = np.bincount(clips, tracker.base, len(names)) > 0
        has_bins = np.bincount(clips, minlength=len(names)) > 0
        why = {False: "is shorter than a control step", True: "has weight 0"}
        left_out = {names[clip]: why[bool(has_bins[clip])] for clip in np.flatnonzero(~weighs).tolist()}
        spans, likely = (bins.begin, bins.end), tracker.probabilities()
        return cls(names, clips, *spans, visits, failures, starts, completions, likely, left_out, control_dt)

    def of_clips(self, per_bin: Bins) -> Bins:
        """Return the sum over each clip's bins, [clips]."""
        return np.bincount(self.bin_clip, per_bin, len(self.clip_names)).astype(np.int64)

    def never(self, what: str) -> tuple[list[str], Bins]:
        """Return the clips, by name, and the bins that were never "started", "visited" or "completed".

        A clip is completed where an env reached its end, a bin where one left it at its end. Clips that are left out
        are not among them, nor are their bins.
        """
        per_bin = {"started": self.starts, "visited": self.visits, "completed": self.completions}[what]
        if what == "completed":
            ends = np.append(self.bin_clip[1:] != self.bin_clip[:-1], True)
            done = np.zeros(len(self.clip_names), dtype=bool)
            done[self.bin_clip[ends]] = per_bin[ends] > 0
        else:
            done = self.of_clips(per_bin) > 0
        names = [name for name, is_done in zip(self.clip_names, done, strict=True) if not is_done]
        left_out = np.array([name in self.left_out for name in self.clip_names])
        bins = np.flatnonzero((per_bin == 0) & ~left_out[self.bin_clip])
        return [name for name in names if name not in self.left_out], bins

    def of_part(self, clips: slice) -> Coverage:
        """Return that of some clips in a row alone; their starts are as likely as before."""
        first, end, _ = clips.indices(len(self.clip_names))
        own = (self.bin_clip >= first) & (self.bin_clip < end)
        names = self.clip_names[clips]
        known = set(names)
        return replace(
            self,
            clip_names=names,
            bin_clip=self.bin_clip[own] - first,
            left_out={name: why for name, why in self.left_out.items() if name in known},
            **{name: getattr(self, name)[own] for name in _PER_BIN},
        )

    @property
    def passes(self) -> NDArray[np.float64]:
        """How many times over each bin was gone through, float64 [bins]."""
        return self.visits * self.control_dt / (self.bin_end - self.bin_begin)

    @property
    def seconds(self) -> float:
        """Seconds of motion that envs went through."""
        return float(self.visits.sum()) * self.control_dt

    @property
    def epochs(self) -> float:
        """How many times over that is all there is to start in."""
        return self.seconds / float((self.bin_end - self.bin_begin).sum())

    @property
    def failure_rate(self) -> float:
        """Failures per start; 0 before the first."""
        starts = int(self.starts.sum())
        return float(self.failures.sum()) / starts if starts else 0.0

    @property
    def busiest(self) -> float:
        """Share of all visits that the busiest 1 % of the bins have, at least one bin; 0 before the first."""
        most = max(1, len(self.visits) // 100)
        total = int(self.visits.sum())
        return float(np.sort(self.visits)[-most:].sum()) / total if total else 0.0

    def metrics(self) -> dict[str, float]:
        """Return numbers for a logger: no arrays, no names."""
        positive = self.probabilities[self.probabilities > 0]
        clips, bins = self.never("visited")
        return {
            "entropy": float(-(positive * np.log(positive)).sum() / np.log(max(2, len(self.probabilities)))),
            "largest_share": float(self.probabilities.max()),
            "busiest_share": self.busiest,
            "unseen_clips": float(len(clips)),
            "unseen_bins": float(len(bins)),
            "failure_rate": self.failure_rate,
            "seconds": self.seconds,
            "epochs": self.epochs,
        }

    def facts(self) -> list[tuple[str, str]]:
        """Return what there is to say, as (what, how much)."""
        rows = [
            ("clips", f"{len(self.clip_names):,} in {len(self.visits):,} bins"),
            ("seen", f"{self.seconds:,.1f} s of motion, {self.epochs:.2f} times over"),
            ("starts", f"{self.starts.sum():,}, failures {self.failures.sum():,}, {self.failure_rate:.3f} per start"),
            ("busiest 1 %", f"{100 * self.busiest:.1f} % of all visits"),
        ]
        for what in ("started", "visited", "completed"):
            clips, bins = self.never(what)
            rows.append((f"never {what}", f"{_some(clips, 'clips')}; {len(bins):,} bins"))
        rows += [("left out", f"{name}: {why}") for name, why in list(self.left_out.items())[:_NAMED]]
        if len(self.left_out) > _NAMED:
            rows.append(("left out", f"{len(self.left_out) - _NAMED} clips more"))
        return rows

    def __repr__(self) -> str:
        return "Coverage:\n" + "\n".join(f"  {what}: {how_much}" for what, how_much in self.facts())


def warning_of(names: list[str], weighs: NDArray[np.bool_], starts: Bins) -> str | None:
    """Return what to warn of: clips that were never started after three starts per clip.

    Args:
        names: of the clips.
        weighs: which of them can be started in, [clips].
        starts: of each, [clips].
    """
    never = np.flatnonzero(weighs & (starts == 0))
    if not len(never) or starts.sum() < 3 * weighs.sum():
        return None
    missing = _some([names[clip] for clip in never], "clips")
    return f"after {starts.sum():,} starts {missing} were never started; see coverage()"


def _some(names: list[str], what: str) -> str:
    named = ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names):,} {what}" + (f" ({named})" if names else "")
