"""Which items are in which batch: a function of the seed, the epoch and the position, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets.errors import ArgumentError
from iltools_datasets.ranks import Rank


@dataclass(frozen=True, slots=True)
class Place:
    """Where an order stands: `position` items of `epoch` have been taken, by all ranks together."""

    epoch: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """How the items 0..total are dealt out, epoch by epoch, to ranks and batches.

    It is the order of `torchrl.SamplerWithoutReplacement` with the same seed. The last batches of an epoch, one for
    each rank, are shorter: what is left is split evenly among them, to within one item; where less than one item per
    rank would be left for them, the batches before are one larger instead. With `drop_last` there are full batches
    only.
    """

    total: int
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    rank: Rank

    @property
    def _round(self) -> int:
        """Items of one batch on each rank."""
        return self.batch_size * self.rank["world_size"]

    def check(self) -> None:
        """Raise `ArgumentError` if there is no batch in it."""
        world_size = self.rank["world_size"]
        ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
        if not self.total:
            raise ArgumentError("The data set is empty.")
        if self.total < world_size:
            raise ArgumentError(f"{self.total} items are too few for {world_size} ranks.")
        if self.drop_last and self.total < self._round:
            raise ArgumentError(
                f"{self.total} items make no batch of {self.batch_size}{ranks}; drop_last=False keeps the short one."
            )

    def stream(self, place: Place) -> _core.EpochShuffle:
        """Return the native stream of this rank's items from a place on."""
        return _core.EpochShuffle(self.total, self.seed, place.epoch, place.position, self.shuffle, **self.rank)

    def seeded(self, seed: int) -> Order:
        """Return the same with another seed."""
        return replace(self, seed=seed)

    def epoch(self, start: Place) -> Epoch:
        """Return the batches of an epoch from a place on: none where fewer items than ranks are left."""
        left, full = self.total - start.position, self._round
        rank, world_size = self.rank["rank"], self.rank["world_size"]
        if self.drop_last:
            return Epoch(self, start, left // full, (0,))
        num_full = max(0, (left - world_size) // full)
        size, more = divmod(left - num_full * full, world_size)
        last = tuple(size + (other < more) for other in (rank, 0, world_size - 1))
        return Epoch(self, start, num_full, last)

    def normal(self, place: Place) -> Place:
        """Return the place as it is, or, where no batch is left of its epoch, the beginning of the next one."""
        left = self.total - place.position
        if left < (self._round if self.drop_last else 1):
            return Place(place.epoch + 1)
        return place


@dataclass(frozen=True, slots=True)
class Epoch(Sequence["Batch"]):
    """What one rank gets of an epoch from `start` on: `num_full` batches, and a last one of another size."""

    order: Order
    start: Place
    num_full: int
    last: tuple[int, ...]
    """Size of the last one, 0 if there is none: of this rank, and of the others as far as theirs differ."""

    def __len__(self) -> int:
        return self.num_full + bool(self.last[0])

    @overload
    def __getitem__(self, number: int) -> Batch: ...
    @overload
    def __getitem__(self, number: slice) -> list[Batch]: ...
    def __getitem__(self, number: int | slice) -> Batch | list[Batch]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return Batch(self, number)

    def __iter__(self) -> Iterator[Batch]:
        return (Batch(self, number) for number in range(len(self)))

    def place_after(self, count: int) -> Place:
        """Return where the order stands when `count` batches have been taken on each rank."""
        order = self.order
        if count > self.num_full:
            return Place(self.start.epoch + 1)
        taken = count * order.batch_size * order.rank["world_size"]
        return order.normal(Place(self.start.epoch, self.start.position + taken))


@dataclass(frozen=True, slots=True)
class Batch:
    """Batch `number` of an epoch."""

    epoch: Epoch
    number: int

    @property
    def size(self) -> int:
        """Number of items."""
        return self.epoch.order.batch_size if self.number < self.epoch.num_full else self.epoch.last[0]

    @property
    def place(self) -> Place:
        """Where the order stands before it."""
        order, start = self.epoch.order, self.epoch.start
        return Place(start.epoch, start.position + self.number * order.batch_size * order.rank["world_size"])

    def items(self) -> NDArray[np.int64]:
        """Return the items, int64 [size]."""
        order = self.epoch.order
        stream = order.stream(self.place)
        return stream.next(order.batch_size) if order.drop_last else stream.next_within_epoch(order.batch_size)

    def __str__(self) -> str:
        place = self.place
        return f"the batch at item {place.position} of epoch {place.epoch}"
