"""A sampler whose motion, envs and counts are on a device: little waits for the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import ArgumentError
from iltools_datasets.store.keys import Key
from iltools_datasets.tracking.array_motion import TOLERANCE
from iltools_datasets.tracking.counts import KINDS, AllReduce, summed
from iltools_datasets.tracking.host_sampler import HostSampler
from iltools_datasets.tracking.inputs import checked_offsets, checked_places
from iltools_datasets.tracking.resident_motion import ResidentMotion

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise missing_extra("torch", "a sampler on a device") from error

_VISITS, _FAILURES, _STARTS, _COMPLETIONS = range(len(KINDS))
_QUEUED_PER_ENV = 8


class ResidentSampler(HostSampler):
    """What `MotionSampler(as_="torch", device=...)` is: the same values and starts, all of it tensors on the device.

    Starts are drawn ahead on the host, as they depend on their number and the table alone, and are taken from there in
    order. Masks bool `[E]` on the device as `env_ids` keep everything there; ids are looked at on the host. Only when
    the starts drawn ahead may have run out, and in `sync`, the host asks the device how many were taken.
    """

    def __init__(self, *arguments: Any, budget: int | None = None, device: Any, **options: Any) -> None:
        super().__init__(*arguments, device=device, **options)
        assert self._outputs.device is not None
        # With its number: "cuda" is not equal to the "cuda:0" that tensors say.
        self._device = torch.empty(0, device=self._outputs.device).device
        self.motion = ResidentMotion(self._mixture, self._device, budget)
        clips = len(self.clip_names)
        counts = np.bincount(self._bin_clip, minlength=clips)
        self._bin_count = self._tensor(counts)
        self._first_bin = self._tensor(np.cumsum(counts) - counts)
        self._bins_per_frame = self._tensor(1.0 / (float(self.adaptive.bin_s) * self._mixture.fps))
        # One row more, for what is counted nowhere.
        self._counts = torch.zeros(len(self._bin_clip) + 1, len(KINDS), dtype=torch.int64, device=self._device)
        self._steps = self._tensor(self.offsets * self.control_dt)
        self._origin = None if self._origins is None else self._tensor(self._origins)
        self._take_over()

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _take_over(self) -> None:
        """Put everything where the host's tracker says that it stands."""
        saved = self._tracker.save()
        self._clip, self._start, self._moved = (self._tensor(saved[name]) for name in ("clip", "start", "steps"))
        self._counts[:-1] = self._tensor(saved["since"].reshape(-1, len(KINDS)))
        self._counts[-1] = 0
        self._placed = bool((saved["clip"] >= 0).all())
        self._queues = [
            _Starts(self._tracker, number, counting, self._device)
            for counting, number in zip((True, False), self._tracker.drawn, strict=True)
        ]
        self._bin, self._over = self._places()

    @property
    def clip(self) -> Any:
        """Clip of each env, int64 `[E]` on the device; -1 before its first reset."""
        return self._clip.clone()

    @property
    def time(self) -> Any:
        """Seconds from the first frame of its clip, float64 `[E]` on the device."""
        return self._start + self._moved.to(torch.float64) * self.control_dt

    def _places(self) -> tuple[Tensor, Tensor]:
        """Return the bin of each env, -1 where there is none, and whether it is behind its clip's end."""
        clip = self._clip.clamp(min=0)
        frame = self.time * self.motion.fps[clip]
        floor = ((frame + TOLERANCE) * self._bins_per_frame[clip]).to(torch.int64)
        within = torch.minimum(floor, self._bin_count[clip] - 1)
        none = (self._bin_count[clip] == 0) | (self._clip < 0)
        return torch.where(none, -1, self._first_bin[clip] + within), frame > self.motion.last[clip] + TOLERANCE

    def _count(self, what: int, where: Tensor) -> None:
        """Add one to the bin of each env that is meant."""
        if self._counting:
            bins = torch.where(where & (self._bin >= 0), self._bin, len(self._bin_clip))
            self._counts[:, what].index_add_(0, bins, torch.ones_like(bins))

    def _refuse_unplaced(self, mask: Tensor | None = None) -> None:
        """Ask the device until every env has been reset, and never again."""
        if not self._placed:
            missing = (self._clip < 0) if mask is None else mask & (self._clip < 0)
            if bool(missing.any()):
                raise ArgumentError(f"env {int(missing.to(torch.int64).argmax())} stands nowhere yet: reset it first")
            self._placed = mask is None

    def _meant(self, env_ids: Any, terminated: Any) -> tuple[Tensor, Tensor | None, NDArray[np.int64] | None]:
        """Return a mask [E], which of these failed [E], and ids in their order where they were given as such."""
        shape = (self.num_envs,)
        flags = None
        if isinstance(env_ids, Tensor) and env_ids.dtype == torch.bool and env_ids.device == self._device:
            if env_ids.shape != shape:
                raise ArgumentError(f"env: expected a mask [{self.num_envs}], found {list(env_ids.shape)}")
            if terminated is not None:
                flags = torch.as_tensor(terminated, device=self._device)
                if flags.dtype != torch.bool or flags.shape != shape:
                    raise ArgumentError(f"terminated: expected bools {list(shape)}, found {list(flags.shape)}")
                flags = flags & env_ids
            return env_ids, flags, None
        ids, failed = self._which(env_ids, terminated)
        if len(doubled := np.flatnonzero(np.bincount(ids) > 1)):
            raise ArgumentError(f"env {doubled[0]} is there twice")
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[torch.from_numpy(ids)] = True
        if failed is not None:
            flags = torch.zeros(shape, dtype=torch.bool)
            flags[torch.from_numpy(ids)] = torch.from_numpy(failed)
            flags = flags.to(self._device)
        return mask.to(self._device), flags, ids

    def report_failures(self, env_ids: Any = None, terminated: Any = None) -> None:
        mask, failed, _ = self._meant(env_ids, terminated)
        failed = mask if failed is None else failed
        self._refuse_unplaced(failed)
        self._count(_FAILURES, failed)

    def reset(
        self,
        env_ids: Any = None,
        terminated: Any = None,
        *,
        clip: ArrayLike | None = None,
        time: ArrayLike | None = None,
    ) -> None:
        mask, failed, ids = self._meant(env_ids, terminated)
        if clip is not None or time is not None:
            ids = np.flatnonzero(mask.cpu().numpy()) if ids is None else ids
            places, seconds = checked_places(ids, clip, time, self._mixture.last, self._mixture.fps)
        if failed is not None:
            self._refuse_unplaced(failed)
            self._count(_FAILURES, failed)
        if clip is not None and ids is not None:
            at = self._tensor(ids)
            self._clip[at], self._start[at] = self._tensor(places), self._tensor(seconds)
        else:
            clips, starts = self._queues[not self._counting].take(mask, None if ids is None else self._tensor(ids))
            self._clip = torch.where(mask, clips, self._clip)
            self._start = torch.where(mask, starts, self._start)
        self._moved = torch.where(mask, 0, self._moved)
        self._bin, self._over = self._places()
        self._count(_STARTS, mask)

    def step(self) -> Any:
        self._refuse_unplaced()
        self._moved = self._moved + 1
        before, ended_before = self._bin, self._over
        after, over = self._places()
        self._count(_VISITS, ~ended_before)
        self._count(_COMPLETIONS, ~ended_before & ((after != before) | over))
        self._bin, self._over = after, over
        return over

    def _looked_up(
        self,
        clip: Any,
        time: Any,
        offsets: ArrayLike | None,
        keys: Sequence[Key] | None,
        poses: Mapping[str, Any],
        out: Mapping[Key, Any] | None,
    ) -> Any:
        if out is not None:
            raise ArgumentError("out: look-ups on a device return new tensors, which its allocator reuses")
        names = self.keys if keys is None else [keys] if isinstance(keys, str) else list(keys)
        for key in names:
            self._mixture.row(key)
        steps = self._steps
        if offsets is not None:
            steps = self._tensor(checked_offsets(offsets) * self.control_dt)
        clip, time = (torch.as_tensor(each, device=self._device) for each in (clip, time))
        given = self.motion.checked_poses(poses, tuple(clip.shape))
        found = self.motion.at(clip.reshape(-1), time.reshape(-1), steps, names, **given)
        batch = (*clip.shape, len(steps))
        shaped = {key: rows.reshape(*batch, *rows.shape[2:]) for key, rows in found.items()}
        return self._outputs.tensors(shaped, batch)

    def _standing(self, env_ids: Any) -> tuple[Any, Any, Any]:
        clip, time, origins = self._clip, self.time, self._origin
        if env_ids is None:
            self._refuse_unplaced()
            return clip, time, origins
        mask, _, ids = self._meant(env_ids, None)
        self._refuse_unplaced(mask)
        some = mask.nonzero()[:, 0] if ids is None else self._tensor(ids)
        return clip[some], time[some], None if origins is None else origins[some]

    def _since(self) -> NDArray[np.int64]:
        return np.ascontiguousarray(self._counts[:-1].reshape(-1).cpu().numpy())

    def _counted(self, all_reduce: AllReduce | None) -> NDArray[np.int64] | None:
        return self._since() if all_reduce is None else summed(all_reduce, self._since())

    def _settled(self) -> None:
        self._counts.zero_()
        for queue in self._queues:
            queue.redraw()

    def _saved(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, numbers = super()._saved()
        own = {"clip": self._clip, "start": self._start, "steps": self._moved}
        arrays |= {name: tensor.cpu().numpy() for name, tensor in own.items()}
        drawn = [queue.number() for queue in self._queues]
        return {**arrays, "since": self._since()}, {**numbers, "drawn": drawn}


class _Starts:
    """Starts that come, drawn ahead on the host and taken in order on the device."""

    def __init__(self, tracker: Any, first: int, counting: bool, device: torch.device) -> None:
        self._tracker, self._first, self._counting, self._device = tracker, first, counting, device
        self._taken = torch.zeros((), dtype=torch.int64, device=device)
        self._most = 0
        """So many were taken at most, which the host knows without asking."""
        self._clip = torch.zeros(0, dtype=torch.int64, device=device)
        self._time = torch.zeros(0, dtype=torch.float64, device=device)

    def number(self) -> int:
        """Return how many were taken in all; waits for the device."""
        return self._first + int(self._taken)

    def redraw(self) -> None:
        """Forget what was drawn ahead, as the table has changed."""
        self._first, self._most = self.number(), 0
        self._taken.zero_()
        self._clip, self._time = self._clip[:0], self._time[:0]

    def take(self, mask: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return clip and time for each env [E] that a mask means; in the order of ids, where there are any."""
        envs = len(mask)
        needed = envs if ids is None else len(ids)
        if self._most + needed > len(self._clip) or not len(self._clip):
            self.redraw()
            clip, time = self._tracker.starts(self._first, max(needed, _QUEUED_PER_ENV * envs), self._counting)
            self._clip, self._time = (torch.from_numpy(array).to(self._device) for array in (clip, time))
        if ids is None:
            place = self._taken + torch.cumsum(mask, 0) - 1
            self._taken = self._taken + mask.sum()
        else:
            place = torch.zeros(envs, dtype=torch.int64, device=self._device)
            place[ids] = self._taken + torch.arange(needed, device=self._device)
            self._taken = self._taken + needed
        self._most += needed
        place = place.clamp(min=0)
        return self._clip[place], self._time[place]
