"""Which stretches of which clips fill a number of slots, and how many envs follow each: bookkeeping, no motion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

Window = tuple[int, float]
"""A clip, and the second in it where the window begins."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How long windows are.

    Attributes:
        fps, last: rate and number of the last state of each clip, [clips].
        seconds: that an env may go on in a window.
        behind, ahead: seconds of the smallest and the largest offset, at most and at least 0.
    """

    fps: NDArray[np.float64]
    last: NDArray[np.int64]
    seconds: float
    behind: float
    ahead: float

    @property
    def states(self) -> int:
        """Of the longest window there may be: one more on each side, so that no rounding of a time is outside."""
        longest = (self.seconds + self.ahead - self.behind) * self.fps.max()
        return int(min(ceil(longest) + 4, self.last.max() + 1))

    def frames(self, window: Window) -> tuple[int, int, bool]:
        """Return the first frame of a window, how many it has, and whether it goes to its clip's end."""
        clip, begin = window
        fps, last = float(self.fps[clip]), int(self.last[clip])
        first = min(max(0, int((begin + self.behind) * fps) - 1), last)
        end = min(ceil((begin + self.seconds + self.ahead) * fps) + 1, last)
        return first, end - first + 1, end == last


class Slots:
    """A fixed number of slots; a window that somebody follows or that is wanted soon keeps its slot.

    Attributes:
        holds: slot of each window that is there.
    """

    def __init__(self, count: int) -> None:
        self.holds: dict[Window, int] = {}
        self._window: list[Window | None] = [None] * count
        self._users = np.zeros(count, dtype=np.int64)
        self._free = list(range(count))[::-1]
        self._wanted: dict[Window, None] = {}
        self._idle: dict[Window, None] = {}
        """Windows that nobody follows or wants; the longest idle one goes first."""

    @property
    def room(self) -> int:
        """How many windows could come."""
        return len(self._free) + len(self._idle)

    def want(self, windows: Iterable[Window]) -> list[Window]:
        """Say which windows are wanted soon, instead of those before; return what is not there, in order."""
        wanted = dict.fromkeys(windows)
        for window in self._wanted.keys() - wanted.keys():
            if self._is_unused(window):
                self._idle[window] = None
        for window in wanted:
            self._idle.pop(window, None)
        self._wanted = wanted
        return [window for window in wanted if window not in self.holds]

    def claim(self, window: Window, now: bool = False) -> int | None:
        """Give a new window a slot, where need be that of one which nobody needs; None where all are needed.

        Args:
            window: is not there.
            now: somebody waits for it, so that one which is only wanted goes, too: the last one.
        """
        gone = next(iter(self._idle), None)
        if not self._free and gone is None and now:
            unused = (each for each in reversed(self._wanted) if self._is_unused(each))
            gone = next(unused, None)
        if self._free:
            slot = self._free.pop()
        elif gone is not None:
            self._idle.pop(gone, None)
            slot = self.holds.pop(gone)
        else:
            return None
        self.holds[window], self._window[slot] = slot, window
        if window not in self._wanted:
            self._idle[window] = None
        return slot

    def _is_unused(self, window: Window) -> bool:
        return window in self.holds and not self._users[self.holds[window]]

    def enter(self, window: Window) -> int:
        """One more env follows a window that is there; return its slot."""
        slot = self.holds[window]
        self._users[slot] += 1
        self._idle.pop(window, None)
        return slot

    def leave(self, slot: int) -> None:
        """An env follows it no longer."""
        self._users[slot] -= 1
        window = self._window[slot]
        if not self._users[slot] and window is not None and window not in self._wanted:
            self._idle[window] = None
