"""A step on its way from a device: packed there, then copied and recorded beside what its caller does next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from iltools_datasets.collection.rows import as_mask

MASK = "valid_mask"


def is_on_device(given: Mapping[str, Any]) -> bool:
    """Whether a step's arguments, those that are None left out, are all tensors of one CUDA device."""
    devices = {
        value.device if isinstance(value, torch.Tensor) else None for value in given.values() if value is not None
    }
    return len(devices) == 1 and all(device is not None and device.type == "cuda" for device in devices)


def _stand_in(value: Any) -> Any:
    """Return an array of a tensor's shape and dtype without its values; anything that numpy does not have as it is."""
    try:
        dtype = torch.empty(0, dtype=value.dtype).numpy().dtype
    except TypeError:
        return value
    return np.broadcast_to(np.zeros((), dtype=dtype), tuple(value.shape))


class Staging:
    """Room for one step, on the device and in page-locked memory of the host, and a thread that records it.

    When `put` returns, the caller's tensors may be overwritten: they are packed by work that was queued on the caller's
    stream. The copy to the host runs on a stream of its own meanwhile (on a CPU, without streams, it is made at once),
    and a thread waits for it and records the step. The next call begins with `settle`, so that an error is told
    by the very next one, and at most one step is not on disk: room for more of them would never be taken.
    """

    def __init__(self) -> None:
        self.stalled_seconds = 0.0
        """How long calls waited for the step before theirs."""
        self._packed: dict[torch.dtype, torch.Tensor] = {}
        self._arrived: dict[torch.dtype, torch.Tensor] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._step: Future[None] | None = None
        self._signature: list[tuple[str, torch.Size, torch.dtype]] = []
        self._stream: Any = None
        self._copied: Any = None

    @property
    def holds_step(self) -> bool:
        """Whether a step is on its way."""
        return self._step is not None

    def put(
        self,
        given: Mapping[str, torch.Tensor | None],
        check: Callable[[dict[str, Any]], object],
        record: Callable[[dict[str, Any], Any], None],
    ) -> None:
        """Send a step's arguments on their way, its mask among them; none is on its way already.

        Args:
            given: argument -> tensor.
            check: is asked about shapes and dtypes, with arrays of these, where they are other ones than before.
            record: is called in the thread with the arguments on the host, and their mask.
        """
        assert self._step is None
        signature = [(name, value.shape, value.dtype) for name, value in given.items() if value is not None]
        if signature != self._signature:
            like = {name: None if value is None else _stand_in(value) for name, value in given.items()}
            mask = like.pop(MASK)
            check(like)
            as_mask(mask, next(len(value) for value in like.values() if value is not None))
        self._signature = signature
        places: dict[str, tuple[torch.dtype, int, torch.Size] | None] = dict.fromkeys(given)
        flat: dict[torch.dtype, list[torch.Tensor]] = {}
        for name, value in given.items():
            if value is not None:
                pieces = flat.setdefault(value.dtype, [])
                places[name] = value.dtype, sum(map(len, pieces)), value.shape
                pieces.append(value.detach().reshape(-1))
        for dtype, pieces in flat.items():
            self._make_room(dtype, sum(map(len, pieces)), pieces[0].device)
            torch.cat(pieces, out=self._packed[dtype])
        self._copy(list(flat))
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "iltools-staging")
        self._step = self._thread.submit(self._arrive, places, record)

    def settle(self) -> None:
        """Wait until the step that was put is recorded; raises what is wrong with it. One that was told is gone."""
        if (step := self._step) is None:
            return
        began = time.perf_counter()
        wait([step])  # interrupted here, it is waited for by the next call
        self.stalled_seconds += time.perf_counter() - began
        self._step = None
        step.result()

    def close(self) -> None:
        """End the thread; no step is on its way."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _arrive(
        self,
        places: Mapping[str, tuple[torch.dtype, int, torch.Size] | None],
        record: Callable[[dict[str, Any], Any], None],
    ) -> None:
        if self._copied is not None:
            self._copied.synchronize()
        given = {name: None if place is None else self._piece(*place) for name, place in places.items()}
        record(given, given.pop(MASK))

    def _piece(self, dtype: torch.dtype, begin: int, shape: torch.Size) -> torch.Tensor:
        return self._arrived[dtype][begin : begin + shape.numel()].reshape(shape)

    def _make_room(self, dtype: torch.dtype, count: int, device: torch.device) -> None:
        packed = self._packed.get(dtype)
        if packed is None or len(packed) != count or packed.device != device:
            self._packed[dtype] = torch.empty(count, dtype=dtype, device=device)
            self._arrived[dtype] = torch.empty(count, dtype=dtype, pin_memory=device.type == "cuda")

    def _copy(self, dtypes: list[torch.dtype]) -> None:
        device = self._packed[dtypes[0]].device
        if device.type != "cuda":
            for dtype in dtypes:
                self._arrived[dtype].copy_(self._packed[dtype])
            return
        if self._stream is None or self._stream.device != device:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            for dtype in dtypes:
                self._arrived[dtype].copy_(self._packed[dtype], non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(self._stream)
