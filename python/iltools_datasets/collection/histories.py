"""Which frames a student's observation is made of: the rule, as a store keeps it, and what it makes of frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.collection.student_obs import StudentObsBuilder

STUDENT_KEY = "student_observation"
FRAME_KEY = "student_frame"
TERMS_KEY = "student_observation_terms"


@dataclass(frozen=True, slots=True)
class HistoryRule:
    """How single frames make an observation: term by term, of each term `length` frames side by side.

    Attributes:
        terms: their names.
        widths: of a frame of each.
        length: frames of each.
        order: "newest_first" or "oldest_first".
        pad: what stands before an episode's first frame: "zero", or "first": that frame.
        lag: how many rows before an observation's own its newest frame is: 0 or 1.
    """

    terms: tuple[str, ...]
    widths: tuple[int, ...]
    length: int
    order: str
    pad: str
    lag: int

    @classmethod
    def of(cls, builder: StudentObsBuilder, lag: int) -> Self:
        """Return the rule that a builder follows."""
        length = max(builder.history_length, 1)
        return cls(tuple(builder.obs_keys), tuple(builder.obs_dims), length, builder.order, builder.pad, lag)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Return the rule that `to_json` wrote; KeyError, TypeError or ValueError if it is none."""
        widths = tuple(int(width) for width in saved["widths"])
        terms = tuple(str(term) for term in saved["terms"])
        return cls(terms, widths, int(saved["length"]), str(saved["order"]), str(saved["pad"]), int(saved["lag"]))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @property
    def frame_width(self) -> int:
        """Width of a frame of all terms."""
        return sum(self.widths)

    @property
    def width(self) -> int:
        """Width of an observation."""
        return self.frame_width * self.length

    @property
    def spans(self) -> list[slice]:
        """Where each term's frames lie in an observation."""
        ends = accumulate((width * self.length for width in self.widths), initial=0)
        return [slice(begin, end) for begin, end in pairwise(ends)]

    def newest(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Return the newest frame in observations [N, length * frame_width], side by side: [N, frame_width]."""
        pieces = [observation[:, span] for span in self.spans]
        newest_first = self.order == "newest_first"
        newest = [
            piece[:, :width] if newest_first else piece[:, -width:]
            for piece, width in zip(pieces, self.widths, strict=True)
        ]
        return np.concatenate(newest, axis=1)

    def entries(self, source: str) -> list[dict[str, Any]]:
        """Return the histories of a store whose column `source` holds frames: of all terms, and of each."""
        offsets = accumulate(self.widths, initial=0)
        parts = [{"offset": offset, "width": width} for offset, width in zip(offsets, self.widths, strict=False)]
        rule = {"source": [source], "length": self.length, "order": self.order, "pad": self.pad, "lag": self.lag}
        keys: list[tuple[tuple[str, ...], list[dict[str, int]]]] = [((STUDENT_KEY,), parts)]
        keys += [((TERMS_KEY, term), [part]) for term, part in zip(self.terms, parts, strict=True)]
        return [{"key": key, "parts": of, **rule} for key, of in keys]


class FrameStack:
    """The last frames of N envs, and the observations that a rule makes of them."""

    def __init__(self, rule: HistoryRule) -> None:
        self._rule = rule
        self._past: deque[NDArray[Any]] = deque(maxlen=max(rule.length + rule.lag - 1, 1))
        self._age: NDArray[np.int64] | None = None
        self._first: NDArray[Any] | None = None

    def observation(self, frame: NDArray[Any], begins: NDArray[np.bool_]) -> NDArray[Any]:
        """Return what the rule makes of a step's frames [N, d] and those kept; in `begins` [N] an episode begins."""
        rule = self._rule
        age = np.zeros(len(frame), dtype=np.int64) if self._age is None else np.where(begins, 0, self._age)
        lacking = np.zeros_like(frame)
        if rule.pad == "first":
            lacking = frame if self._first is None else np.where(begins[:, None], frame, self._first)
        frames = []
        for back in range(rule.lag, rule.lag + rule.length):
            known = frame if back == 0 else self._past[back - 1] if back <= len(self._past) else lacking
            frames.append(np.where(age[:, None] >= back, known, lacking))
        if rule.order == "oldest_first":
            frames.reverse()
        offsets = accumulate(rule.widths, initial=0)
        spans = [slice(begin, end) for begin, end in pairwise(offsets)]
        return np.concatenate([frame[:, span] for span in spans for frame in frames], axis=1)

    def keep(self, frame: NDArray[Any], begins: NDArray[np.bool_]) -> None:
        """Keep a step's frames; they are not written to later."""
        if self._age is None or self._first is None:
            self._age, self._first = np.zeros(len(frame), dtype=np.int64), frame
        self._age = np.where(begins, 0, self._age) + 1
        self._first = np.where(begins[:, None], frame, self._first)
        self._past.appendleft(frame)
