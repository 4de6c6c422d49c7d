"""Processes that read somebody else's data set: workers of torch's DataLoader, by forkserver, which know no JAX device.

Never by fork: once JAX has computed, a forked child waits for ever for a lock that one of JAX's threads held.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.data.collate import fetch
from iltools_datasets.data.dataset import Dataset
from iltools_datasets.data.order import Batch
from iltools_datasets.data.transition import Transition
from iltools_datasets.errors import SchemaError, StreamError

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 64


class TorchWorkers:
    """`count` processes, which stay between epochs and work up to `ahead` batches ahead, each.

    Args:
        dataset: the data set; it is pickled once for each process.
        count: number of processes.
        ahead: batches of each that are ready or in the making, at most.
        seed: what the random generators of `random` and torch in the processes depend on.

    Raises:
        MissingExtraError: torch is not installed.
    """

    def __init__(self, dataset: Dataset, count: int, ahead: int, seed: int) -> None:
        try:
            import torch
            from torch.utils.data import DataLoader
        except ImportError as error:
            raise missing_extra("torch", "num_workers > 0 for this data set") from error
        items = _Items(dataset)
        self._numbers = _Numbers()
        self._generator = torch.Generator()
        self._generator.manual_seed(seed % 2**63)
        self._make: Callable[[], Any] = lambda: DataLoader(
            items,  # type: ignore[arg-type]
            batch_sampler=self._numbers,
            num_workers=count,
            prefetch_factor=ahead,
            collate_fn=_as_it_is,
            multiprocessing_context="forkserver",
            persistent_workers=True,
            generator=self._generator,
        )
        self._loader: Any = None
        self._iterator: Any = None
        self._stopped = False

    def begin(self, jobs: Sequence[Batch]) -> None:
        """Begin an epoch; what is left of the one before is dropped.

        Raises:
            SchemaError: the data set cannot be pickled.
            StreamError: stopped before.
        """
        if self._stopped:
            raise StreamError("the workers are stopped")
        self._numbers.batches = jobs
        if not jobs:
            return  # the processes come to rest by themselves
        if self._loader is None:
            self._loader = self._make()
        try:
            self._iterator = iter(self._loader)
        except RuntimeError:  # a process has died since
            self._end_processes()
            self._loader = self._make()
            self._iterator = iter(self._loader)

    def take(self) -> Transition:
        """Return the next batch. Raises what the data set raised in the process, and then goes on to the next.

        Raises:
            StreamError: stopped meanwhile.
            RuntimeError: a process has died; `begin` starts others.
        """
        iterator = self._iterator
        if iterator is None:
            raise StreamError("the workers are stopped")
        try:
            outcome = next(iterator)
        except RuntimeError:
            self._end_processes()
            raise
        if isinstance(outcome, _Failed):
            raise outcome.unpacked()
        batch: Transition = outcome.unpacked()
        return batch

    def request_stop(self) -> None:
        """End the processes."""
        self._stopped = True
        self._end_processes()

    def _end_processes(self) -> None:
        loader, self._loader, self._iterator = self._loader, None, None
        iterator = getattr(loader, "_iterator", None)
        if iterator is not None:
            # What its destructor would do, but for references that an exception may still hold.
            iterator._shutdown_workers()

    def join(self, timeout: float) -> bool:
        """Return True: `request_stop` has waited."""
        del timeout
        return True


class _Numbers:
    """The batches of an epoch, as lists of numbers: torch's batch sampler."""

    def __init__(self) -> None:
        self.batches: Sequence[Batch] = []

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.items().tolist() for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Items:
    """A data set as the processes see it: it gives whole batches, packed, and errors as values."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, numbers: list[int]) -> _Packed | _Failed:
        try:
            return _Packed.of(fetch(self.dataset, numbers))
        except Exception as error:
            return _Failed.of(error)

    def __reduce__(self) -> tuple[Callable[[bytes], _Items], tuple[bytes]]:
        try:
            return _open_in_worker, (bytes(ForkingPickler.dumps(self.dataset)),)
        except Exception as error:
            raise SchemaError(
                f"{type(self.dataset).__name__} cannot be handed to worker processes: {error}; "
                "num_workers=0 reads in this one"
            ) from error


def _open_in_worker(pickled: bytes) -> _Items:
    # Before the data set is unpickled: what it holds or imports may begin to use JAX.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    return _Items(pickle.loads(pickled))


def _as_it_is(outcome: Any) -> Any:
    return outcome


@dataclass(frozen=True, slots=True)
class _Packed:
    """A batch on its way between processes: its arrays in one piece of shared memory, the rest pickled."""

    rest: bytes
    lengths: list[int]
    memory: torch.Tensor

    @classmethod
    def of(cls, batch: Transition) -> _Packed:
        import torch

        buffers: list[pickle.PickleBuffer] = []
        rest = pickle.dumps(batch, protocol=5, buffer_callback=buffers.append)
        pieces = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        lengths = [len(piece) for piece in pieces]
        memory = torch.empty(max(1, sum(map(_padded, lengths))), dtype=torch.uint8)
        memory.share_memory_()  # type: ignore[no-untyped-call]
        for place, piece in zip(_cut(memory.numpy(), lengths), pieces, strict=True):
            place[:] = piece
        return cls(rest, lengths, memory)

    def unpacked(self) -> Transition:
        batch: Transition = pickle.loads(self.rest, buffers=_cut(self.memory.numpy(), self.lengths))
        return batch


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _cut(memory: NDArray[np.uint8], lengths: list[int]) -> list[NDArray[np.uint8]]:
    ends = np.cumsum([0, *map(_padded, lengths)])
    return [memory[begin : begin + length] for begin, length in zip(ends.tolist(), lengths, strict=False)]


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error on its way between processes."""

    pickled: bytes

    @classmethod
    def of(cls, error: Exception) -> _Failed:
        error.add_note("in a worker process:\n" + "".join(traceback.format_tb(error.__traceback__)))
        try:
            pickled = pickle.dumps(error)
            pickle.loads(pickled)
        except Exception:
            substitute = RuntimeError(f"{type(error).__name__}: {error}")
            substitute.__notes__ = error.__notes__
            pickled = pickle.dumps(substitute)
        return cls(pickled)

    def unpacked(self) -> Exception:
        error: Exception = pickle.loads(self.pickled)
        return error
