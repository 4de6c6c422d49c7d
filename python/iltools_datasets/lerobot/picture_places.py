"""Which picture of a video belongs to which frame of an episode; times are whole numbers of the stream's time base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot.video_index import VideoIndex

_SAFE = 2**62


@dataclass(frozen=True, slots=True)
class EpisodeInVideo:
    """What is known of an episode whose pictures lie in a video file.

    Attributes:
        episode: its number.
        start: seconds in the file at which it begins.
        end: seconds at which it ends, exclusive; None: where the next one begins, or the file ends.
        timestamp: float32 [T], what its rows say.
    """

    episode: int
    start: float
    end: float | None
    timestamp: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.timestamp)


def place_pictures(
    path: Path, index: VideoIndex, episodes: Sequence[EpisodeInVideo], fps: Fraction
) -> tuple[list[NDArray[np.int64]], list[str]]:
    """Return the picture of each frame, int64 [T] for each episode, and notes.

    A frame's picture is the one at `start` + frame / fps, at most half a picture away. Where the rows' own `timestamp`
    runs on another clock, off by half a frame somewhere, it is the one of the same number if the episode has exactly as
    many pictures as rows, else the one at `start` + timestamp.

    Raises SourceError naming file, episode, rows and pictures if a picture is missing, or if two episodes share one.
    """
    ordered = sorted(range(len(episodes)), key=lambda which: episodes[which].start)
    placed: dict[int, NDArray[np.int64]] = {}
    notes: list[str] = []
    for at, which in enumerate(ordered):
        episode = episodes[which]
        following = episodes[ordered[at + 1]].start if at + 1 < len(ordered) else None
        placed[which], note = _place(path, index, episode, following, fps)
        if note:
            notes.append(f"{path.name}: episode {episode.episode}: {note}")
    for before, after in pairwise(ordered):
        if placed[after][0] <= placed[before][-1]:
            first, second = episodes[before], episodes[after]
            raise SourceError(
                f"{path}: episodes {first.episode} and {second.episode} overlap: episode {first.episode} has "
                f"{len(first)} rows and takes pictures {placed[before][0]} to {placed[before][-1]}, episode "
                f"{second.episode} has {len(second)} rows and begins at picture {placed[after][0]}; the file holds "
                f"{len(index)} pictures"
            )
    return [placed[which] for which in range(len(episodes))], notes


def _place(
    path: Path, index: VideoIndex, episode: EpisodeInVideo, following: float | None, fps: Fraction
) -> tuple[NDArray[np.int64], str | None]:
    start = units(episode.start, index.time_base)
    frames = np.arange(len(episode))
    with np.errstate(invalid="ignore", over="ignore"):
        own = episode.timestamp.astype(np.float64)
        same_clock = bool((np.abs(own * float(fps) - frames) < 0.5).all())
    if same_clock:
        return _nearest(path, index, episode, start, frames, 1 / (fps * index.time_base), fps), None
    half = _spacing(index, fps) // 2
    until = episode.end if episode.end is not None else following
    last = len(index) if until is None else int(np.searchsorted(index.time, units(until, index.time_base) - half))
    first = int(np.searchsorted(index.time, start - half))
    if last - first == len(episode):
        note = "timestamp runs on another clock than fps; as many pictures as rows: they were taken by number"
        return first + frames, note
    if not np.isfinite(own).all():
        raise SourceError(
            f"{path}: episode {episode.episode}: {len(episode)} rows whose timestamp is not finite, and {last - first} "
            "pictures"
        )
    ticks = np.array([units(seconds, index.time_base) for seconds in own.tolist()], dtype=np.int64)
    note = "timestamp runs on another clock than fps; pictures were taken by timestamp"
    return _nearest(path, index, episode, start, ticks, Fraction(1), fps), note


def units(seconds: float, time_base: Fraction) -> int:
    """Return seconds as the nearest whole number of units of a time base."""
    return round(Fraction(seconds) / time_base)


def _spacing(index: VideoIndex, fps: Fraction) -> int:
    """Return the time from one picture to the next; of a single one, that from row to row."""
    return index.spacing or max(1, round(1 / (fps * index.time_base)))


def _nearest(
    path: Path,
    index: VideoIndex,
    episode: EpisodeInVideo,
    start: int,
    steps: NDArray[np.int64],
    per_step: Fraction,
    fps: Fraction,
) -> NDArray[np.int64]:
    """Return the picture nearest to `start + steps * per_step`, exactly: all is multiplied by the denominator."""
    spacing = _spacing(index, fps)
    up, down = per_step.numerator, per_step.denominator
    common = gcd(up, down)
    up, down = up // common, down // common
    largest = max(abs(int(index.time[-1])), abs(int(index.time[0])), abs(start), spacing) * down * 4
    largest = max(largest, int(np.abs(steps).max(initial=0)) * up * 4)
    exact: Any = np.int64 if largest < _SAFE else object
    times = (index.time.astype(exact) - start) * down
    wanted = steps.astype(exact) * up
    after = np.minimum(np.searchsorted(times, wanted), len(times) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(times[before] - wanted) <= np.abs(times[after] - wanted)
    found = np.where(nearer, before, after)
    off = 2 * np.abs(times[found] - wanted) > spacing * down
    if off.any():
        frame = int(np.flatnonzero(off)[0])
        seconds = float(start * index.time_base) + float(wanted[frame]) / down * float(index.time_base)
        inside = int(((times >= 0) & (times <= wanted[-1] + spacing * down // 2)).sum())
        raise SourceError(
            f"{path}: episode {episode.episode}: {len(episode)} rows, but {int(off.sum())} of them have no picture: "
            f"frame {frame} belongs to {seconds:.6g} s, the nearest picture is at "
            f"{float(index.time[found[frame]] * index.time_base):.6g} s; {inside} pictures lie in its time, the file "
            f"holds {len(index)}"
        )
    return found.astype(np.int64)
