"""TorchRL's `RandomSampler` and `SamplerWithoutReplacement` without their cost: change the import, nothing else.

Both work with any TorchRL storage. No permutation is stored: position and seed give the index, so the first batch of
346 million rows comes as fast as any other, and a checkpoint takes a few hundred bytes.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torchrl.data.replay_buffers import samplers as torchrl_samplers
from torchrl.data.replay_buffers.storages import Storage

from iltools_datasets import _core
from iltools_datasets._base.saved_state import UINT64_MAX, SavedState, TakeOver
from iltools_datasets.torchrl.samplers.base import LAST_EPOCH, DrawnRows, SeededSampler, on_device
from iltools_datasets.torchrl.samplers.torchrl_state import (
    EpochState,
    checked_epoch_state,
    is_epoch_state,
    rest_of_epoch,
)

Index = torch.Tensor | tuple[torch.Tensor, ...]


class WithReplacement(SeededSampler):
    """A sampler of independent draws: numbers of a stream, or of a seed per batch where a generator is followed."""

    _takes_number_per: ClassVar[Literal["batch", "epoch"] | None] = "batch"
    _position = 0
    """How many draws were made, by all ranks together, before the stream was begun here."""

    def _draws_below(self, total: int) -> _core.UniformDraws:
        """Return what draws the next batch, from 0..total."""
        stream: _core.UniformDraws | None = self._stream
        fits = stream is not None and stream.total == total
        if fits and not self._follows:
            return stream  # type: ignore[return-value]
        if self._follows:
            seed, position = self._take_number(shared=False), 0
        else:
            seed, position = self._needed_seed(), self._position if stream is None else stream.position
        if stream is None or not fits:
            stream = self._stream = _core.UniformDraws(total, seed, position, **self._rank)
        else:
            stream.restore(seed, position)
        return stream

    def _reseed(self) -> None:
        self._seed, self._stream, self._position = None, None, 0

    def _state(self) -> dict[str, Any]:
        if self._follows:
            return {"seed": None, "position": 0}
        stream = self._stream
        return {"seed": self._needed_seed(), "position": self._position if stream is None else stream.position}

    def _prepare(self, saved: SavedState) -> TakeOver:
        seed = None
        if self._saved_follows(saved):
            saved.nothing("seed")
            position = saved.integer("position", high=0)
        else:
            seed, position = saved.integer("seed"), saved.integer("position")

        def take_over() -> None:
            self._seed, self._position, self._stream = seed, position, None

        return take_over


class RandomSampler(WithReplacement, torchrl_samplers.RandomSampler):  # type: ignore[misc]
    """Independent uniform draws with replacement, over whatever the storage holds at the time.

    Args:
        seed: see `SeededSampler`; without it each batch takes a number from the buffer's generator or torch's.
        rank: which of the ranks that share the draws this is; no draw is made by two of them.
        world_size: how many ranks there are; more than one need a seed.

    Examples:
        >>> from iltools_datasets.torchrl import TrajectoryStorage
        >>> storage = TrajectoryStorage(TrajectoryStore.open("walks"))
        >>> index, _ = RandomSampler(seed=0).sample(storage, batch_size=1000)
        >>> index.shape, bool((index < len(storage)).all())
        (torch.Size([1000]), True)
    """

    def __init__(self, *, seed: int | None = None, rank: int = 0, world_size: int = 1) -> None:
        SeededSampler.__init__(self, seed, rank, world_size)

    def sample(self, storage: Storage, batch_size: int) -> tuple[Index, dict[str, Any]]:
        """Return `batch_size` indices, int64 [B] (one such tensor per dimension of the storage), and an empty dict."""
        index = on_device(self._current(storage).next(batch_size), storage)
        return (index if storage.ndim == 1 else torch.unravel_index(index, storage.shape)), {}

    def sample_rows(self, storage: Any, batch_size: int, tells: bool = True) -> DrawnRows:
        """Return what `sample` does, and the rows."""
        index, arrays, were_ready = self._current(storage).next_rows(batch_size, False, storage.whole_rows)
        return DrawnRows(torch.from_numpy(index), {}, storage.tensors(storage.fields, arrays), were_ready)

    def _current(self, storage: Storage) -> _core.UniformDraws:
        total = len(storage)
        if total == 0:
            raise RuntimeError("Cannot sample from an empty storage.")
        self._meet(storage)
        return self._draws_below(total if storage.ndim == 1 else math.prod(storage.shape))

    def _empty(self) -> None:
        """Nothing to forget: each draw looks at the length of the storage."""


class SamplerWithoutReplacement(SeededSampler, torchrl_samplers.SamplerWithoutReplacement):  # type: ignore[misc]
    """Every element of the storage once per epoch; then `ran_out` is set and the next epoch begins in another order.

    The last batch of an epoch is shorter, or with `drop_last` left out. A storage whose length has changed is begun
    anew.

    Ranks draw disjoint parts of one epoch, in equally many batches. Its last ones are split evenly, to within one
    element; where fewer elements than ranks would be left for them, the batches before are one larger instead. With
    `drop_last` all batches are full.

    Args:
        drop_last: leave out the last batch of an epoch if it is not full (on all ranks, if one of them is not).
        shuffle: False keeps the order of the storage.
        seed: see `SeededSampler`; without it each epoch takes a number from the buffer's generator or torch's, when the
            one before it ends. A generator handed over during an epoch counts from the next one on.
        rank: which of the ranks that share an epoch this is.
        world_size: how many ranks there are; more than one need a seed.

    Examples:
        >>> from iltools_datasets.torchrl import TrajectoryStorage
        >>> storage = TrajectoryStorage(TrajectoryStore.open("walks"))
        >>> sampler = SamplerWithoutReplacement(seed=0)
        >>> [len(sampler.sample(storage, batch_size=40)[0]) for _ in range(3)], sampler.ran_out
        ([40, 40, 17], True)
    """

    _takes_number_per: ClassVar[Literal["batch", "epoch"] | None] = "epoch"
    len_storage: int
    drop_last: bool
    shuffle: bool

    def __init__(
        self,
        drop_last: bool = False,
        shuffle: bool = True,
        *,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        torchrl_samplers.SamplerWithoutReplacement.__init__(self, drop_last=drop_last, shuffle=shuffle)
        SeededSampler.__init__(self, seed, rank, world_size)
        self._stream: _core.EpochShuffle | None = None
        self._next_epoch = 0
        self._next_seed: int | None = None
        self._batch_epoch: int | None = None

    @property
    def epoch(self) -> int:
        """Which epoch the last batch is of, from 0; 0 before the first batch."""
        return self._batch_epoch or 0

    def sample(self, storage: Storage, batch_size: int) -> tuple[Index, dict[str, Any]]:
        """Return up to `batch_size` indices, int64 [B] (one such tensor per dimension of the storage), and a dict.

        Warns `RuntimeWarning` before an empty batch. It comes only where fewer elements than ranks are left of an epoch
        that other ranks began, fewer or with other batches.

        Raises:
            ValueError: the storage holds less than one element per rank, or with `drop_last` than one batch.
        """
        draw = _core.EpochShuffle.next if self.drop_last else _core.EpochShuffle.next_within_epoch
        index = on_device(self._next_items(storage, self._total(storage), batch_size, draw), storage)
        return (index if storage.ndim == 1 else torch.unravel_index(index, storage.shape)), {}

    def sample_rows(self, storage: Any, batch_size: int, tells: bool = True) -> DrawnRows:
        """Return what `sample` does, and the rows; raises as it does."""

        def draw(stream: _core.EpochShuffle, count: int) -> Any:
            return stream.next_rows(count, not self.drop_last, storage.whole_rows)

        index, arrays, were_ready = self._next_items(storage, self._total(storage), batch_size, draw)
        return DrawnRows(torch.from_numpy(index), {}, storage.tensors(storage.fields, arrays), were_ready)

    def _total(self, storage: Storage) -> int:
        total = len(storage)
        if total == 0:
            raise RuntimeError("Cannot sample from an empty storage.")
        return total

    def _next_items(
        self, storage: Storage, total: int, count: int, draw: Callable[[_core.EpochShuffle, int], Any]
    ) -> Any:
        """Return what `draw` makes of the next items, up to `count`, of 0..total; sets the flags."""
        self._join_workers()
        of_all = count * self.world_size
        if of_all > total and self.drop_last:
            raise ValueError(
                f"The batch size ({of_all} on {self.world_size} ranks) is greater than the storage capacity ({total}): "
                "with drop_last=True there is no batch to return."
            )
        if total < self.world_size:
            raise ValueError(f"{total} elements are too few for {self.world_size} ranks")
        moved = self._meet(storage)
        stream = self._stream
        if moved or stream is None or self.len_storage != total:
            stream = self._begin(total)
        epoch, position = stream.place
        left = total - position
        if self.drop_last and left < of_all:
            # Only where larger batches, or more ranks, go on with an epoch.
            self._turn(stream, epoch + 1)
            epoch, position = stream.epoch, 0
        elif left <= self.rank:
            warnings.warn(
                f"rank {self.rank} of {self.world_size} gets an empty batch: the epoch has {left} elements left",
                RuntimeWarning,
                stacklevel=2,
            )
        items = draw(stream, count)
        if position == 0 and count:
            # The stream's own number does not do: each order that a generator gives is epoch 0 of its seed.
            self._batch_epoch = 0 if self._batch_epoch is None else self._batch_epoch + 1
        now_in, position = stream.place
        left = total - position
        self._ran_out = now_in != epoch or (self.drop_last and left < of_all)
        if self._ran_out:
            left = total
            if self._follows or self._next_seed is not None or position:
                self._turn(stream, epoch + 1)
        self._remaining_batches = self._rounds(left, of_all)
        return items

    def _rounds(self, left: int, of_all: int) -> int:
        """Return in how many batches, of `of_all` elements on all ranks together, what is left comes."""
        full, rest = divmod(left, of_all)
        if self.drop_last:
            return full
        return full + (rest >= self.world_size) if full else 1

    def _begin(self, total: int) -> _core.EpochShuffle:
        if self._stream is not None:
            self._next_epoch = self._stream.epoch + 1
        self._take_seed()
        self._stream = self._shuffled(total, self._needed_seed(), self._next_epoch, 0)
        self.len_storage = total
        return self._stream

    def _shuffled(self, total: int, seed: int, epoch: int, position: int) -> _core.EpochShuffle:
        return _core.EpochShuffle(total, seed, epoch, position, self.shuffle, **self._rank)

    def _turn(self, stream: _core.EpochShuffle, epoch: int) -> None:
        self._next_epoch = epoch
        self._take_seed()
        stream.restore(self._needed_seed(), self._next_epoch, 0)

    def _take_seed(self) -> None:
        """Note the seed, and where a generator is followed the number, of the epoch that begins."""
        if self._follows:
            # A number is an order: how many epochs went before does not matter.
            self._seed, self._next_epoch = self._number_of_epoch(), 0
        elif self._next_seed is not None:
            self._seed, self._next_seed = self._next_seed, None

    def _number_of_epoch(self) -> int:
        return self._take_number(shared=True) if self.shuffle else 0

    def _reseed(self) -> None:
        self._next_seed = None
        if self._stream is None:
            self._seed = None

    def _begin_anew(self) -> None:
        self._empty()
        self._seed, self._next_seed, self._next_epoch, self._batch_epoch = None, None, 0, None

    def _empty(self) -> None:
        if self._stream is not None:
            self._next_epoch = self._stream.epoch + 1
        self._stream, self.len_storage, self._ran_out = None, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the state as `SeededSampler` does; it has TorchRL's fields as well, when they are asked for."""
        state, rest = super().state_dict(), None
        if (stream := self._stream) is not None:
            place = stream.seed, stream.epoch, stream.position
            rest = partial(rest_of_epoch, self.len_storage, *place, self.shuffle)
        return EpochState(state, rest)

    def is_torchrl_state(self, state: Any) -> bool:
        """Whether this is what TorchRL's sampler saves: the rows that are left of the epoch."""
        return is_epoch_state(state)

    def prepare_load(self, state_dict: Any) -> TakeOver:
        """Check a state as `SeededSampler` does; one of TorchRL's sampler is one, too, see `prepare_torchrl`."""
        return self.prepare_torchrl(state_dict) if is_epoch_state(state_dict) else super().prepare_load(state_dict)

    def prepare_torchrl(self, state: Mapping[str, Any]) -> TakeOver:
        """Return what takes over `drop_last`, and the place in an epoch in the storage's order.

        An epoch that was begun in another order begins anew, with a warning: the rest of it is a list of rows, and
        orders here come of a seed.
        """
        if not is_epoch_state(state):
            return super().prepare_torchrl(state)
        begin_anew = self._begin_anew_after(state)
        drop_last, ran_out, total, rest = checked_epoch_state(state)
        position = 0 if rest is None else total - len(rest)
        in_order = rest is not None and not self.shuffle and np.array_equal(rest, np.arange(position, total))

        def take_over() -> None:
            self.drop_last, self._ran_out = drop_last, ran_out
            if rest is None:
                self._empty()
            elif in_order and len(rest):
                self._seed = 0 if self._seed is None else self._seed
                self.len_storage, self._remaining_batches = total, len(rest)
                self._stream = self._shuffled(total, self._seed, self._next_epoch, position)
                if position and self._batch_epoch is None:
                    self._batch_epoch = 0
            else:
                begin_anew()

        return take_over

    def _state(self) -> dict[str, Any]:
        stream = self._stream
        return {
            "seed": self._seed if self._follows else self._needed_seed(),
            "next_seed": self._next_seed,
            "total": self.len_storage,
            "epoch": self._next_epoch if stream is None else stream.epoch,
            "position": 0 if stream is None else stream.position,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "batch_epoch": self._batch_epoch,
            "ran_out": self._ran_out,
            "remaining_batches": self._remaining_batches,
        }

    def _prepare(self, saved: SavedState) -> TakeOver:
        total = saved.integer("total", high=2**63 - 1)
        has_seed = total or not self._saved_follows(saved)
        seed = saved.integer("seed") if has_seed else saved.optional_integer("seed")
        next_seed = saved.optional_integer("next_seed")
        epoch, position = saved.integer("epoch"), saved.integer("position", high=max(total - 1, 0))
        # States of before lack it.
        begun = epoch + (position > 0)
        batch_epoch = begun - 1 if begun else None
        if "batch_epoch" in saved:
            batch_epoch = saved.optional_integer("batch_epoch", high=LAST_EPOCH)
        shuffle, drop_last, ran_out = saved.flag("shuffle"), saved.flag("drop_last"), saved.flag("ran_out")
        # A batch holds at least one of the elements that are left, and when they ran out the next epoch is new.
        remaining = saved.integer(
            "remaining_batches", low=min(total, 1), high=total - position if total else UINT64_MAX
        )
        if ran_out and position:
            raise saved.refuse("position", "0, as the epoch before ran out")

        def take_over() -> None:
            self._seed, self._next_seed, self._next_epoch = seed, next_seed, epoch
            self.len_storage, self.shuffle, self.drop_last, self._ran_out = total, shuffle, drop_last, ran_out
            self._remaining_batches, self._batch_epoch = remaining, batch_epoch
            self._stream = None if seed is None or not total else self._shuffled(total, seed, epoch, position)

        return take_over

    def __repr__(self) -> str:
        drawn = 0.0 if self._stream is None else self._stream.position / self.len_storage * 100
        return f"{type(self).__name__}({drawn: 4.4f}% sampled)"


# `RandomSampler` of TorchRL turns into its sibling where it is told not to repeat elements; so does this one.
with contextlib.suppress(ImportError):
    from torchrl.data.replay_buffers.samplers.base import _REPLACEMENT_DISPATCH

    _REPLACEMENT_DISPATCH[RandomSampler] = SamplerWithoutReplacement
