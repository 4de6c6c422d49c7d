"""A sampler whose motion goes through a device window by window: for corpora larger than it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import ArgumentError
from iltools_datasets.store.keys import Key
from iltools_datasets.tracking.host_sampler import HostSampler
from iltools_datasets.tracking.inputs import checked_offsets, checked_seconds
from iltools_datasets.tracking.rolling_motion import RollingMotion
from iltools_datasets.tracking.windows import Window

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "a sampler on a device") from error

_SOON = 0.75
"""So far through its window the next one of an env is read, should it go on."""


class RollingSampler(HostSampler):
    """What `MotionSampler(as_="torch", device=..., window_s=...)` is: a window of each env is on the device.

    Envs and counts are on the host. An env has another window only when it is reset, or goes on for longer than
    `window_s` seconds; nothing ends because its window does. Those of starts that come are read ahead, in the order
    of draws. Look-ups are those of motion that is all there, bit for bit, at offsets between the smallest and the
    largest of the sampler; `lookup_at` looks on the host.

    Args:
        window_s: seconds that an env may go on in a window: about as long as an episode.
        wait: an env whose window is not there waits for it. With False it starts where another one that is there
            starts, its own start is kept for the next, and `repeated` counts it.
        budget: bytes of the device that windows may take; None = what a CUDA device has free, at most a quarter more
            than envs need.

    Attributes:
        motion: `motion.count` slots of `motion.states` states; `motion.waited` windows were waited for.
        repeated: starts that were another's.

    Raises:
        BudgetError: the windows of all envs do not fit; the message says by how much.
    """

    def __init__(
        self,
        *arguments: Any,
        window_s: float,
        wait: bool = True,
        budget: int | None = None,
        device: Any,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, device=device, **options)
        assert self._outputs.device is not None
        self._device = torch.empty(0, device=self._outputs.device).device
        seconds = self.offsets * self.control_dt
        self.motion = RollingMotion(
            self._mixture,
            self._device,
            budget,
            self.num_envs,
            checked_seconds("window_s", window_s),
            (float(seconds.min()), float(seconds.max())),
        )
        self.wait, self.repeated = bool(wait), 0
        self._slot = np.full(self.num_envs, -1, dtype=np.int64)
        self._row = np.zeros(self.num_envs, dtype=np.int64)
        self._begin, self._until = np.zeros(self.num_envs), np.full(self.num_envs, -inf)
        self._is_start = np.zeros(self.num_envs, dtype=bool)
        self._due: set[Window] = set()

    def reset(
        self,
        env_ids: Any = None,
        terminated: Any = None,
        *,
        clip: ArrayLike | None = None,
        time: ArrayLike | None = None,
    ) -> None:
        ids, failed = self._which(env_ids, terminated)
        self.motion.arrive()
        drawn = clip is None and time is None
        drawn = clip is None and time is None
        others = self._started() if drawn and self._counting and not self.wait else []
        if others:
            if len(doubled := np.flatnonzero(np.bincount(ids) > 1)):
                raise ArgumentError(f"env {doubled[0]} is there twice")
            there = self._ready(len(ids))
            late = ids[there:]
            first, rest = (None, None) if failed is None else (failed[:there], failed[there:])
            self._tracker.reset(ids[:there], first, True)
            again = [others[(self.repeated + number) % len(others)] for number in range(len(late))]
            clips = np.array([window[0] for window in again], dtype=np.int64)
            self._tracker.place(late, clips, np.array([window[1] for window in again], dtype=np.float64), rest, True)
            self.repeated += len(late)
        else:
            super().reset(env_ids, terminated, clip=clip, time=time)
        self._leave(ids)
        self._begin[ids], self._is_start[ids] = self._tracker.time[ids], True
        self._cover(ids)
        self._read_ahead()

    def lookup(
        self,
        offsets: ArrayLike | None = None,
        keys: Sequence[Key] | None = None,
        anchor_pos: Any = None,
        anchor_quat: Any = None,
        out: Mapping[Key, Any] | None = None,
        *,
        env_ids: Any = None,
    ) -> Any:
        if out is not None:
            raise ArgumentError("out: look-ups on a device return new tensors, which its allocator reuses")
        names = self.keys if keys is None else [keys] if isinstance(keys, str) else list(keys)
        for key in names:
            self._mixture.row(key)
        steps = self.offsets if offsets is None else checked_offsets(offsets)
        if steps.min() < self.offsets.min() or steps.max() > self.offsets.max():
            within = f"{self.offsets.min():g} to {self.offsets.max():g}"
            raise ArgumentError(f"offsets: windows hold those from {within}, which the sampler was made with")
        clip, time, origins = self._standing(env_ids)
        ids = np.arange(self.num_envs) if env_ids is None else self._which(env_ids, None)[0]
        poses = {"anchor_pos": anchor_pos, "anchor_quat": anchor_quat, "env_origins": origins}
        given = self.motion.checked_poses(poses, clip.shape)
        self._cover(ids)
        at, now, ahead, row = (
            torch.from_numpy(each).to(self._device) for each in (clip, time, steps * self.control_dt, self._row[ids])
        )
        found = self.motion.at(at, now, ahead, names, first=row, **given)
        self._continue()
        return self._outputs.tensors(found, (len(ids), len(steps)))

    def _started(self) -> list[Window]:
        """Return the windows of envs that are in the one that they started in."""
        envs = np.flatnonzero(self._is_start & (self._slot >= 0))
        return list(dict.fromkeys(zip(self._tracker.clip[envs].tolist(), self._begin[envs].tolist(), strict=True)))

    def _ready(self, count: int) -> int:
        """Return how many of the next starts have their windows there, before the first that has not."""
        holds = self.motion.slots.holds
        return next((at for at, window in enumerate(self._upcoming(count)) if window not in holds), count)

    def _upcoming(self, count: int) -> list[Window]:
        clips, times = self._tracker.starts(self._tracker.drawn[0], count, True)
        return list(zip(clips.tolist(), times.tolist(), strict=True))

    def _leave(self, ids: NDArray[np.int64]) -> None:
        self.motion.leave(self._slot[ids][self._slot[ids] >= 0].tolist())
        self._slot[ids], self._until[ids] = -1, -inf

    def _cover(self, ids: NDArray[np.int64]) -> None:
        """Give those of some envs a window that have left theirs, or have none."""
        clip, time = self._tracker.clip, self._tracker.time
        left = ids[time[ids] > self._until[ids]]
        if not len(left):
            return
        self._leave(left[self._slot[left] >= 0])
        seconds = self.motion.measure.seconds
        for env in left.tolist():
            # One window follows the other, so that the next one is known beforehand.
            on = max(0, ceil((time[env] - self._begin[env]) / seconds) - 1)
            begin = float(self._begin[env])
            for _ in range(on):
                begin += seconds
            window = int(clip[env]), begin
            self._slot[env] = slot = self.motion.enter(window)
            first, _, to_the_end = self.motion.measure.frames(window)
            self._row[env] = slot * self.motion.states - first
            self._until[env] = inf if to_the_end else begin + seconds
            self._is_start[env] &= on == 0
            self._begin[env] = begin

    def _read_ahead(self) -> None:
        """Have the windows read that come: of envs that go on for long, and of the next starts."""
        on = self._going_on()
        self._due = set(on)
        self.motion.want(on + self._upcoming(self.motion.count - self.num_envs))

    def _going_on(self) -> list[Window]:
        seconds = self.motion.measure.seconds
        late = np.flatnonzero(self._tracker.time > self._until - (1 - _SOON) * seconds)
        return [
            (int(self._tracker.clip[env]), float(self._begin[env]) + seconds) for env in late if self._slot[env] >= 0
        ]

    def _continue(self) -> None:
        self.motion.arrive()
        if not self._due.issuperset(self._going_on()):
            self._read_ahead()

    def _settled(self) -> None:
        self.motion.forget()
        if (self._tracker.clip >= 0).all():
            self._read_ahead()

    def _take_over(self) -> None:
        self.motion.forget()
        self._leave(np.arange(self.num_envs))
        self._begin[:], self._is_start[:] = self._tracker.time, False
