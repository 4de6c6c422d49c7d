"""Batches of transitions on JAX devices, epoch after epoch, in an order that can be left and taken up anywhere."""

from __future__ import annotations

import os
import secrets
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from iltools_datasets._base.integers import checked_integer
from iltools_datasets._base.saved_state import UINT64_MAX, SavedState
from iltools_datasets.data.batch_maker import BatchMaker
from iltools_datasets.data.collate import collate
from iltools_datasets.data.dataset import Dataset
from iltools_datasets.data.order import Batch, Epoch, Order, Place
from iltools_datasets.data.threads import ThreadWorkers
from iltools_datasets.data.to_device import Layout, ToDevice
from iltools_datasets.data.torch_workers import TorchWorkers
from iltools_datasets.data.transition import Transition
from iltools_datasets.errors import ArgumentError, StreamError
from iltools_datasets.jax.threads import stop_at_exit
from iltools_datasets.ranks import checked_rank
from iltools_datasets.store.trajectory_store import TrajectoryStore

__all__ = ["JaxDataLoader"]

_STATE_VERSION = 1
_JOIN_SECONDS = 2.0


class JaxDataLoader:
    """Batches of a data set as `Transition`s of JAX arrays; one `for` is one epoch, the next `for` the next one.

    The order is a function of seed, epoch and position alone, and the one of `torchrl.SamplerWithoutReplacement`: the
    same seed gives the same items on any number of workers, and to a TorchRL buffer over the same store.

    Args:
        dataset: a `LeRobotDatasetAdapter`, a `TrajectoryStore`, or whatever has `__len__` and a `__getitem__` that
            returns transitions.
        batch_size: transitions per batch, on this rank.
        num_workers: 0 makes batches in the calling thread. More are threads for this package's own data sets, and for
            others torch's worker processes (by forkserver, so a script needs its `if __name__ == "__main__":`).
        shuffle: another order each epoch; False keeps that of the data set.
        drop_last: leave out the last batch of an epoch if it is not full; False keeps it.
        devices: JAX devices that each batch is cut up for: arrays `[D, B / D, ...]`.
        prefetch_factor: batches that each worker is ahead.
        seed: 0..2^64-1; None draws one, which is part of the state.
        rank: which of the ranks that share each epoch this is; see `iltools_datasets.ranks`.
        world_size: how many ranks there are; more than one need a seed.
        layout: with `devices`, `"global"` gives arrays `[B, ...]`, spread over the devices, for jit.
        transform: called with each batch before it is put on the device. A `Transform` gets it as a dict of the five
            fields (`obs/KEY` where the observation is a dict) and the extras; any other callable gets what the loop
            would, of numpy arrays.
        extra: names of what comes besides; with any, batches are `(Transition, {name: array})`.

    Raises:
        ArgumentError: an argument is impossible, or they leave no batch; a ValueError.
        MissingKeyError: there is no such extra.
        TypeError: this is no data set.

    Examples:
        >>> with JaxDataLoader(TrajectoryStore.open("walks"), batch_size=32, num_workers=2, seed=0) as loader:
        ...     for batch in loader:  # an epoch
        ...         print(batch.obs.shape, batch.action.shape)
        (32, 13) (32, 2)
        (32, 13) (32, 2)
        (32, 13) (32, 2)
    """

    def __init__(
        self,
        dataset: Dataset | TrajectoryStore,
        batch_size: int = 256,
        num_workers: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        devices: Sequence[Any] | None = None,
        prefetch_factor: int = 2,
        *,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        layout: Layout | None = None,
        transform: Callable[[Any], Any] | None = None,
        extra: Sequence[Any] = (),
    ) -> None:
        self.dataset = dataset
        self.batch_size = checked_integer("batch_size", batch_size, low=1)
        self.num_workers = checked_integer("num_workers", num_workers, low=0)
        self.prefetch_factor = checked_integer("prefetch_factor", prefetch_factor, low=1)
        if world_size != 1 and seed is None:
            raise ArgumentError(f"seed is None with world_size {world_size}: all ranks need the same one")
        self.devices = None if devices is None else list(devices)
        to_device = ToDevice(devices, layout)
        to_device.check_size(self.batch_size, "Batch size")
        self._maker = BatchMaker(dataset, to_device, transform, extra)
        self._order = Order(
            total=len(dataset),
            batch_size=self.batch_size,
            seed=secrets.randbits(63) if seed is None else checked_integer("seed", seed, low=0, high=UINT64_MAX),
            shuffle=bool(shuffle),
            drop_last=bool(drop_last),
            rank=checked_rank(rank, world_size),
        )
        self._order.check()
        self._check_last(self._order.epoch(Place()))
        self._place = self._next = Place()
        self._run: _Run | None = None
        self._workers: ThreadWorkers[Batch, Any] | TorchWorkers | None = None
        self._workers_pid = 0
        self._forgotten: weakref.finalize[Any, Any] | None = None

    def _check_last(self, epoch: Epoch) -> None:
        # The other ranks', too: if one of them raised later, the rest would wait for it.
        for size in epoch.last:
            self._maker.to_device.check_size(size, "Last batch of")

    @property
    def seed(self) -> int:
        """What the order depends on; the one that was given, drawn or loaded."""
        return self._order.seed

    @property
    def shuffle(self) -> bool:
        """Whether each epoch has another order."""
        return self._order.shuffle

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that is not full is left out."""
        return self._order.drop_last

    @property
    def rank(self) -> int:
        """Which of the ranks that share each epoch this is."""
        return self._order.rank["rank"]

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self._order.rank["world_size"]

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._place.epoch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self._order.epoch(Place()))

    def __iter__(self) -> Iterator[Any]:
        """Begin an epoch: the one after that which was begun last, or where a loaded state stands.

        An iterator that is not through yet ends.
        """
        epoch = self._order.epoch(self._next)
        self._check_last(epoch)
        if not len(epoch):
            left = self._order.total - epoch.start.position
            warnings.warn(
                f"rank {self.rank} of {self.world_size} gets no batch of an epoch of which {left} items are left",
                RuntimeWarning,
                stacklevel=2,
            )
        self._maker.settle()
        if self.num_workers:
            self._running_workers().begin(epoch)
        self._run = run = _Run()
        self._place, self._next = epoch.start, Place(epoch.start.epoch + 1)
        return _Epoch(self, epoch, run)

    def set_epoch(self, epoch: int) -> None:
        """Make the next `for` go over this epoch. Where a state was loaded that stands in it, it goes on from there."""
        number = checked_integer("epoch", epoch, low=0, high=UINT64_MAX)
        if number != self._next.epoch:
            self._next = Place(number)
        if self._run is None:
            self._place = self._next

    # How the batches are made.

    def _running_workers(self) -> ThreadWorkers[Batch, Any] | TorchWorkers:
        if self._workers is not None and self._workers_pid != os.getpid():
            self._workers = None  # a fork has left them behind, with their locks as they were
        if self._workers is None:
            if self._maker.in_threads:
                self._workers = ThreadWorkers(self._maker, self.num_workers, self.prefetch_factor)
            else:
                self._workers = TorchWorkers(self._maker.dataset, self.num_workers, self.prefetch_factor, self.seed)
            self._workers_pid = os.getpid()
            stop_at_exit(self._workers)
            self._forgotten = weakref.finalize(self, self._workers.request_stop)
            self._forgotten.atexit = False
        return self._workers

    def _make(self, batch: Batch) -> Any:
        """Return a batch of the epoch under way on the device; they are asked for in their order."""
        workers = self._workers
        if not self.num_workers:
            return self._maker(batch)
        if self._workers_pid != os.getpid():
            raise StreamError("this epoch was begun in another process, before a fork; iterate over the loader here")
        if workers is None:
            raise StreamError("the loader is closed")
        if isinstance(workers, TorchWorkers):
            return self._maker.finished(lambda _: workers.take(), batch)
        return workers.take(batch.number)

    def close(self) -> None:
        """End the threads or processes, and an epoch that is under way; another `for` begins them again."""
        if self._run is not None:
            self._run.is_closed = True
        workers, self._workers = self._workers, None
        if workers is not None and self._workers_pid == os.getpid():
            workers.request_stop()
            workers.join(_JOIN_SECONDS)
            if self._forgotten is not None:
                self._forgotten.detach()

    def __enter__(self) -> JaxDataLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Where it stands.

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands after the last batch that was taken: JSON of under 1 KB.

        It goes on with any batch size, number of workers and number of ranks.
        """
        return {
            "kind": type(self).__name__,
            "version": _STATE_VERSION,
            "dataset": self._maker.identity,
            "items": self._order.total,
            "shuffle": self._order.shuffle,
            "seed": self._order.seed,
            "epoch": self._place.epoch,
            "position": self._place.position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state: the next `for` gives what was left of its epoch.

        Raises:
            StateError: this is no such state, or that of another data set; nothing has changed.
        """
        saved = SavedState(state, type(self).__name__, _STATE_VERSION)
        for name, expected in (("dataset", self._maker.identity), ("items", self._order.total)):
            if state.get(name) != expected:
                raise saved.refuse(name, f"{expected!r}, that of this data set")
        if saved.flag("shuffle") != self._order.shuffle:
            raise saved.refuse("shuffle", f"{self._order.shuffle}, as this loader has it")
        seed, epoch = saved.integer("seed", high=UINT64_MAX), saved.integer("epoch", high=UINT64_MAX)
        position = saved.integer("position", high=max(0, self._order.total - 1))
        order = self._order.seeded(seed)
        place = order.normal(Place(epoch, position))
        self._check_last(order.epoch(place))
        self._order, self._place, self._next, self._run = order, place, place, None

    def __repr__(self) -> str:
        return (
            f"JaxDataLoader({self.dataset!r:.80}, batch_size={self.batch_size}, num_workers={self.num_workers}, "
            f"epoch={self.epoch})"
        )


class _Run:
    """An epoch under way, as loader and iterator both know it: they do not keep each other alive."""

    is_closed = False


class _Epoch(Iterator[Any]):
    """The iterator over an epoch."""

    def __init__(self, loader: JaxDataLoader, epoch: Epoch, run: _Run) -> None:
        self._loader = loader
        self._epoch = epoch
        self._run = run
        self._taken = 0

    def __next__(self) -> Any:
        loader = self._loader
        if self._run.is_closed:
            raise StreamError("the loader was closed; iterate over it again")
        if loader._run is not self._run:
            raise StopIteration
        if self._taken == len(self._epoch):
            loader._run, loader._place = None, loader._next
            raise StopIteration
        number = self._taken
        try:
            batch = loader._make(self._epoch[number])
        except Exception:
            self._taken = number + 1  # what cannot be made is passed over; what was interrupted is not
            raise
        self._taken = number + 1
        loader._place = self._epoch.place_after(number + 1)
        return batch


def _transition_collate_fn(items: Sequence[Any]) -> Transition:
    """Return transitions as one of numpy arrays `[len(items), ...]`; `SchemaError` where they differ."""
    return collate(items)


def _numpy_to_jax(batch: Any) -> Any:
    """Return a batch of numpy arrays as one of JAX's, on the default device."""
    return ToDevice()(batch, leased=False)


def _shard_batch(batch: Any, devices: Sequence[Any]) -> Any:
    """Return a batch of arrays `[B, ...]` as `[D, B / D, ...]`, cut up for these devices.

    Raises:
        ArgumentError: B cannot be divided by their number; a ValueError.
    """
    import jax

    to_device = ToDevice(devices)
    for leaf in jax.tree.leaves(batch):
        to_device.check_size(np.shape(leaf)[0], "Batch size")
    return to_device(batch, leased=False)
