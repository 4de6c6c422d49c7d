"""Windows of motion on a device, a fixed number, read ahead by a thread and copied on a stream of their own."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Any

import numpy as np

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.prefetch import Prefetcher
from iltools_datasets.errors import BudgetError
from iltools_datasets.tracking.mixture import Mixture
from iltools_datasets.tracking.resident_motion import Column, DeviceMotion, free_memory
from iltools_datasets.tracking.windows import Measure, Slots, Window

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise missing_extra("torch", "motion on a device") from error

_SPARE = 16
_AT_ONCE = 32
"""Windows that are read and not yet copied, at most."""


class RollingMotion(DeviceMotion):
    """A slot for the window of each env, and some for those that come.

    Args:
        mixture: where windows are read from.
        device: where they go.
        budget: bytes; None = what a CUDA device has free, anything elsewhere.
        num_envs: each may need a window of its own.
        window_s: seconds that an env may go on in a window.
        offsets: seconds of the smallest and of the largest, which windows are longer by.

    Attributes:
        waited: windows that were read while somebody waited for them.

    Raises:
        BudgetError: the windows of all envs do not fit; the message says by how much.
    """

    def __init__(
        self,
        mixture: Mixture,
        device: torch.device,
        budget: int | None,
        num_envs: int,
        window_s: float,
        offsets: tuple[float, float],
    ) -> None:
        super().__init__(mixture, device)
        self.measure = Measure(mixture.fps, mixture.last, window_s, min(offsets[0], 0.0), max(offsets[1], 0.0))
        self.states = self.measure.states
        each = self.states * self.row_bytes
        budget = free_memory(device) if budget is None else budget
        count = num_envs + max(_SPARE, num_envs // 4)
        if budget is not None and budget < num_envs * each:
            raise BudgetError(
                f"windows of {num_envs} envs take {num_envs * each:,} bytes of {budget:,} on {device}: "
                f"{num_envs * each - budget:,} too many; choose a shorter window_s, fewer keys, bodies or envs"
            )
        self.count = count if budget is None else min(count, budget // each)
        self.slots = Slots(self.count)
        self.waited = 0
        lookup = mixture.lookups[0]
        for key, (shape, dtype) in self.layout.items():
            self.columns[key] = Column(self._rows(int(np.prod(shape)), dtype), lookup.pieces(key), shape)
        if self.frame != "world":
            poses = lookup.anchor_at(np.zeros(1, dtype=np.int64), np.zeros(1))
            self.anchor = tuple(self._rows(pose.shape[1], pose.dtype) for pose in poses)
        self._copies = _Copies(device, self.count)
        self._reader = _Reader(mixture, self.measure, device.type == "cuda", self.frame != "world")
        self._pending: set[Window] = set()
        self._prefetcher: Prefetcher[tuple[Window, list[Tensor]]] | None = None

    def _rows(self, width: int, dtype: np.dtype[Any]) -> Tensor:
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        return torch.empty(self.count * self.states, width, dtype=kind, device=self.device)

    def want(self, windows: Iterable[Window]) -> None:
        """Have windows read that are needed soon, in this order and as many as there is room for."""
        missing = [window for window in self.slots.want(windows) if window not in self._pending]
        missing = missing[: max(0, self.slots.room - len(self._pending))]
        if missing and (self._prefetcher is None or not self._prefetcher.is_open):
            self._pending.clear()
            self._reader.jobs = SimpleQueue()
            self._prefetcher = Prefetcher(self._reader.make, _AT_ONCE, "iltools-windows")
            weakref.finalize(self, _stop, self._prefetcher, self._reader.jobs)
        for window in missing:
            self._pending.add(window)
            self._reader.jobs.put((self._reader.epoch, window))

    def forget(self) -> None:
        """What was wanted is wanted no more, and what was not read yet will not be."""
        self._reader.epoch += 1
        self._pending.clear()
        self.slots.want(())

    def arrive(self) -> None:
        """Copy what has been read ahead into slots."""
        while self._prefetcher is not None and self._prefetcher.is_open and self._prefetcher.num_ready:
            self._store(*self._prefetcher.take())

    def enter(self, window: Window) -> int:
        """Have an env follow a window, waiting until it is there; return its slot."""
        if window not in self.slots.holds:
            self.waited += 1
            while window in self._pending and self._prefetcher is not None and self._prefetcher.is_open:
                self._store(*self._prefetcher.take())
            if window not in self.slots.holds:
                self._store(window, self._reader.read(window), now=True)
        slot = self.slots.enter(window)
        self._copies.use(slot)
        return slot

    def leave(self, slots: Iterable[int]) -> None:
        """Envs follow windows no longer; what the device was told so far still reads them."""
        left = list(slots)
        self._copies.leave(left)
        for slot in left:
            self.slots.leave(slot)

    def _store(self, window: Window, parts: list[Tensor], now: bool = False) -> None:
        self._pending.discard(window)
        if window in self.slots.holds:
            return
        slot = self.slots.claim(window, now)
        if slot is None:
            return  # it was read for a table of before, or there is no room any more
        with self._copies.into(slot):
            for rows, part in zip((*self._columns(), *(self.anchor or ())), parts, strict=True):
                rows[slot * self.states : slot * self.states + len(part)].copy_(part, non_blocking=True)

    def _columns(self) -> Iterable[Tensor]:
        return (column.rows for column in self.columns.values())


class _Reader:
    """Reads windows from the stores, whoever asks; it knows no device memory, so that a thread may have it."""

    def __init__(self, mixture: Mixture, measure: Measure, pinned: bool, posed: bool) -> None:
        self.jobs: SimpleQueue[tuple[int, Window] | None] = SimpleQueue()
        self.epoch = 0
        self._mixture, self._measure, self._pinned, self._posed = mixture, measure, pinned, posed

    def make(self) -> tuple[Window, list[Tensor]]:
        """Return the next window that was asked for and still counts; StopIteration where none will come."""
        while (job := self.jobs.get()) is not None:
            epoch, window = job
            if epoch == self.epoch:
                return window, self.read(window)
        raise StopIteration

    def read(self, window: Window) -> list[Tensor]:
        """Return the rows of a window's frames, key by key and then the anchor's pose, copied bit for bit."""
        first, count, _ = self._measure.frames(window)
        store = int(np.searchsorted(self._mixture.first, window[0], side="right")) - 1
        lookup = self._mixture.lookups[store]
        clip = np.full(count, window[0] - self._mixture.first[store])
        time = np.arange(first, first + count) / lookup.fps[clip]
        parts = []
        for key in self._mixture.keys:
            shape, dtype = self._mixture.row(key)
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            part = torch.empty((count, *shape), dtype=kind, pin_memory=self._pinned)
            lookup.rows_at(key, clip, time, part.numpy())
            parts.append(part.reshape(count, -1))
        if self._posed:
            poses = (torch.from_numpy(pose) for pose in lookup.anchor_at(clip, time))
            parts += [pose.pin_memory() if self._pinned else pose for pose in poses]
        return parts


def _stop(prefetcher: Prefetcher[Any], jobs: SimpleQueue[Any]) -> None:
    prefetcher.request_stop()
    jobs.put(None)


class _Copies:
    """Copies on a stream of their own: none into a slot that is still read, no reading before the copy is through."""

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._left: list[Any] = [None] * slots
        self._through: list[Any] = [None] * slots

    def into(self, slot: int) -> AbstractContextManager[Any]:
        """Within, copies go into a slot once what was enqueued before it was left is through."""
        return nullcontext() if self._stream is None else _Into(self._stream, self._left, self._through, slot)

    def leave(self, slots: list[int]) -> None:
        if self._stream is not None and slots:
            event = torch.cuda.current_stream(self._device).record_event()
            for slot in slots:
                self._left[slot] = event

    def use(self, slot: int) -> None:
        if self._stream is not None and self._through[slot] is not None:
            torch.cuda.current_stream(self._device).wait_event(self._through[slot])


class _Into(AbstractContextManager[None]):
    def __init__(self, stream: Any, left: list[Any], through: list[Any], slot: int) -> None:
        self._stream, self._left, self._through, self._slot = stream, left, through, slot
        self._within: Any = torch.cuda.stream(stream)

    def __enter__(self) -> None:
        self._within.__enter__()
        if self._left[self._slot] is not None:
            self._stream.wait_event(self._left[self._slot])

    def __exit__(self, *raised: Any) -> None:
        self._through[self._slot] = self._stream.record_event()
        self._within.__exit__(*raised)
