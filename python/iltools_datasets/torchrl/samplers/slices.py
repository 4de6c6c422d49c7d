"""TorchRL's slice samplers without their cost: change the import, nothing else.

Boundaries are looked for once and corrected where rows are written; a batch is read once, and beside it only the flags
that a slice ends with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.data.replay_buffers import samplers as torchrl_samplers
from torchrl.data.replay_buffers.storages import Storage, TensorStorage

from iltools_datasets import _core
from iltools_datasets._base.saved_state import SavedState, TakeOver
from iltools_datasets.torchrl.samplers.base import DrawnRows, SeededSampler, on_device
from iltools_datasets.torchrl.samplers.elements import SamplerWithoutReplacement, WithReplacement
from iltools_datasets.torchrl.samplers.slice_info import flags_of, read_keys
from iltools_datasets.torchrl.samplers.trajectory_table import Boundaries, EndSource, TrajectoryTable, TrajectoryTracker
from iltools_datasets.torchrl.storage import TrajectoryStorage

Batch = tuple[tuple[torch.Tensor, ...], dict[Any, torch.Tensor]]
DrawSlices = Callable[..., Any]
"""Draws slices, and with them rows: `draw((store, fields, num_threads), done)`, or `draw(None, None)` without.

Of the field `done` the last row of each slice is set."""

_END_OPTIONS = ("end_key", "end_keys", "traj_key", "ends", "trajectories")


class SliceSampler(WithReplacement, torchrl_samplers.SliceSampler):  # type: ignore[misc]
    """Slices of consecutive steps of trajectories, with replacement: first a trajectory, then where a slice begins.

    Takes the arguments of TorchRL's `SliceSampler`, and gives what it gives. Over a `TrajectoryStorage`, where no key
    is named, the trajectories are the store's. With `span` on the right a slice keeps at least one step, as TorchRL's
    documentation has it. In-place changes of the storage's tensors that bypass the storage are not noticed, whatever
    `cache_values` says.

    Args:
        seed: see `SeededSampler`; without it each batch takes a number from the buffer's generator or torch's.
        options: those of TorchRL's sampler.

    Examples:
        >>> from iltools_datasets.torchrl import TrajectoryStorage
        >>> storage = TrajectoryStorage(TrajectoryStore.open("walks"))
        >>> (index,), info = SliceSampler(num_slices=4, seed=0).sample(storage, batch_size=32)
        >>> index.view(4, 8).diff().unique()
        tensor([1])
        >>> list(info)
        [('next', 'truncated'), ('next', 'done'), ('next', 'terminated')]
    """

    def __init__(self, *, seed: int | None = None, **options: Any) -> None:
        SeededSampler.__init__(self, seed)
        if options.get("fragmented"):
            # TorchRL checks what goes with it, and that nobody has a `sample` of their own; ours hands over to its.
            torchrl_samplers.SliceSampler(**options)
        torchrl_samplers.SliceSampler.__init__(self, **{**options, "fragmented": False})
        self.fragmented = bool(options.get("fragmented"))
        if self.fragmented:
            self.draws_rows = False  # type: ignore[misc]
        self._follow(options)

    def _follow(self, options: Mapping[str, Any]) -> None:
        self._tracker = TrajectoryTracker()
        self._names_ends = any(options.get(name) is not None for name in _END_OPTIONS)

    # Where the trajectories are.

    def _table(self, storage: Storage) -> TrajectoryTable:
        return self._tracker.table(storage, self._whole_table, self._end_source)

    def _whole_table(self, storage: Storage) -> TrajectoryTable:
        if isinstance(storage, TrajectoryStorage) and not self._names_ends:
            segments = storage.store.segments
            return TrajectoryTable(segments.start, segments.length, len(storage))
        if len(storage) == 1:
            # One row is one trajectory; TorchRL trips over it.
            return TrajectoryTable.from_stops(np.zeros(1, dtype=np.int64), 1)
        boundaries = torchrl_samplers.SliceSampler._get_stop_and_length(self, storage)
        if boundaries[0].shape[1] != storage.ndim:
            raise RuntimeError(
                f"Expected the end-of-trajectory signal to be {storage.ndim}-dimensional, found "
                f"{boundaries[0].shape[1]} dimensions instead."
            )
        return TrajectoryTable.from_boundaries(boundaries, storage.shape[0])

    def _end_source(self, storage: Storage) -> EndSource | None:
        is_plain = isinstance(storage, TensorStorage) and isinstance(storage._storage, TensorDictBase)
        if "static-stop-and-length" in self._cache or not is_plain or storage.ndim > 1:
            return None
        if self._fetch_traj:
            return EndSource(self._used_traj_key)
        return EndSource(None, self.end_keys if self.end_keys is not None else (self.end_key,))

    def _get_stop_and_length(self, storage: Storage, fallback: bool = True) -> Boundaries:
        # Asked by TorchRL's methods; `fallback=False` by the very one that builds the table.
        if fallback:
            return self._table(storage).boundaries()
        boundaries: Boundaries = torchrl_samplers.SliceSampler._get_stop_and_length(self, storage, fallback=False)
        return boundaries

    def mark_update(self, index: Any, *, storage: Storage | None = None) -> None:
        """Note rows that were written; the writer calls this."""
        self._tracker.note_write(index, storage)
        super().mark_update(index, storage=storage)

    # Batches.

    def sample(self, storage: Storage, batch_size: int) -> Batch:
        """Return the index, one int64 [B] per dimension of the storage, and TorchRL's entries for the batch.

        Raises:
            RuntimeError: no trajectory has as many steps as a slice, and `strict_length` is set.
            ValueError: a span of as many steps as a slice has.
        """
        if self.fragmented:
            batch: Batch = torchrl_samplers.SliceSampler.sample(self, storage, batch_size)
            return batch
        return self._batch(storage, *self._next_draw(storage, batch_size))

    def sample_rows(self, storage: Any, batch_size: int, tells: bool = True) -> DrawnRows:
        """Return what `sample` does, and the rows; raises as it does."""
        return self._whole_batch(storage, *self._next_draw(storage, batch_size), tells)

    def _next_draw(self, storage: Storage, batch_size: int) -> tuple[TrajectoryTable, int, DrawSlices]:
        """Return the trajectories, the steps of a slice, and what draws the next slices."""
        table, length, num_slices = self._asked(storage, batch_size)
        self._meet(storage)
        self._check_some_reach(table, length)
        cut = table.cut(length, self.strict_length, self.pad_output, self.span)
        return table, length, partial(self._draws_below(1).next_slices, num_slices, cut)

    def _asked(self, storage: Storage, batch_size: int) -> tuple[TrajectoryTable, int, int]:
        """Return the trajectories, the steps of a slice and the number of slices."""
        return self._table(storage), *self._adjusted_batch_size(batch_size * (self._batch_size_multiplier or 1))

    def _check_some_reach(self, table: TrajectoryTable, length: int) -> None:
        if self.strict_length and table.longest < length:
            raise RuntimeError(table.none_reaches(length))

    def _batch(self, storage: Storage, table: TrajectoryTable, length: int, draw: DrawSlices) -> Batch:
        """Draw slices of `length` steps and describe them."""
        flags = flags_of(self.truncated_key, self.init_key)
        if isinstance(storage, TrajectoryStorage):
            keys, fields = storage.known(flags.keys)
            done = storage.plain_flag(flags.done) if flags.may_set_done else None
            rows, ends, real, _, arrays, _ = draw((storage.store.core, fields, None) if fields else None, done)
            stored = dict(zip(keys, storage.tensors(fields, arrays), strict=True))
            info = flags.info(stored, torch.from_numpy(ends), length, real, is_done_set=done is not None)
            return (torch.from_numpy(rows.reshape(-1)),), info
        rows, ends, real, holders, *_ = draw(None, None)
        index = tuple(on_device(column, storage) for column in (rows.reshape(-1), *table.coordinates(holders)))
        real = None if real is None else on_device(real, storage)
        return index, flags.info(read_keys(storage, index, flags.keys), on_device(ends, storage), length, real)

    def _whole_batch(
        self, storage: TrajectoryStorage, table: TrajectoryTable, length: int, draw: DrawSlices, tells: bool
    ) -> DrawnRows:
        """Draw slices of `length` steps with all their rows, and describe them."""
        flags = flags_of(self.truncated_key, self.init_key)
        keys, fields = storage.known(flags.keys)
        done = storage.plain_flag(flags.done) if tells and flags.may_set_done else None
        rows, ends, real, _, arrays, were_ready = draw(storage.whole_rows, done)
        leaves = storage.tensors(storage.fields, arrays)
        stored = {key: leaves[field] for key, field in zip(keys, fields, strict=True)}
        info = flags.info(stored, torch.from_numpy(ends), length, real, is_done_set=done is not None)
        return DrawnRows(torch.from_numpy(rows), info, leaves, were_ready)

    # Randomness and state.

    def _empty(self) -> None:
        torchrl_samplers.SliceSampler._empty(self)
        self._tracker.forget()

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "num_slices": self.num_slices, "slice_len": self.slice_len}

    def _prepare(self, saved: SavedState) -> TakeOver:
        self._check_shape(saved)
        return super()._prepare(saved)

    def _check_shape(self, saved: SavedState) -> None:
        for name in ("num_slices", "slice_len"):
            if saved.optional_integer(name) != getattr(self, name):
                raise saved.refuse(name, str(getattr(self, name)))


class SliceSamplerWithoutReplacement(
    SliceSampler,
    SamplerWithoutReplacement,
    torchrl_samplers.SliceSamplerWithoutReplacement,  # type: ignore[misc]
):
    """One slice of every trajectory per epoch, somewhere within it; then `ran_out` is set and the next epoch begins.

    Takes the arguments of TorchRL's `SliceSamplerWithoutReplacement`, and gives what it gives; see `SliceSampler` here.

    Args:
        drop_last: leave out the last batch of an epoch if it is not full.
        shuffle: False keeps the order of the trajectories.
        seed: as in `SamplerWithoutReplacement`.
        options: those of TorchRL's sampler.

    Examples:
        >>> from iltools_datasets.torchrl import TrajectoryStorage
        >>> storage = TrajectoryStorage(TrajectoryStore.open("walks"))
        >>> sampler = SliceSamplerWithoutReplacement(num_slices=3, seed=0)
        >>> (index,), _ = sampler.sample(storage, batch_size=30)
        >>> index.shape, sampler.ran_out
        (torch.Size([30]), True)
    """

    _takes_number_per: ClassVar[Literal["batch", "epoch"] | None] = "epoch"

    def __init__(
        self, *, drop_last: bool = False, shuffle: bool = True, seed: int | None = None, **options: Any
    ) -> None:
        SamplerWithoutReplacement.__init__(self, drop_last, shuffle, seed=seed)
        torchrl_samplers.SliceSamplerWithoutReplacement.__init__(self, drop_last=drop_last, shuffle=shuffle, **options)
        self._places_drawn = 0
        self._follow(options)

    def sample(self, storage: Storage, batch_size: int) -> Batch:
        """Return the index, one int64 [B] per dimension of the storage, and TorchRL's entries for the batch."""
        table, length, draw = self._next_draw(storage, batch_size)
        index, info = self._batch(storage, table, length, draw)
        self._check_some_came(table, length, index[0])
        return index, info

    def sample_rows(self, storage: Any, batch_size: int, tells: bool = True) -> DrawnRows:
        """Return what `sample` does, and the rows; raises as it does."""
        table, length, draw = self._next_draw(storage, batch_size)
        drawn = self._whole_batch(storage, table, length, draw, tells)
        self._check_some_came(table, length, drawn.rows)
        return drawn

    def _next_draw(self, storage: Storage, batch_size: int) -> tuple[TrajectoryTable, int, DrawSlices]:
        table, length, num_slices = self._asked(storage, batch_size)
        cut = table.cut(length, self.strict_length, self.pad_output, self.span)
        return table, length, partial(self._next_slices, storage, num_slices, cut)

    def _check_some_came(self, table: TrajectoryTable, length: int, rows: torch.Tensor) -> None:
        if self.strict_length and table.shortest < length and not len(rows):
            self._check_some_reach(table, length)
            raise RuntimeError(
                "None of the trajectories of this batch is of sufficient length: strict_length=False takes all."
            )

    def _next_slices(self, storage: Storage, count: int, cut: _core.SliceCut, *flags: Any) -> Any:
        def draw(stream: _core.EpochShuffle, count: int) -> Any:
            return stream.next_slices(count, cut, not self.drop_last, *flags)

        return self._next_items(storage, cut.total, count, draw)

    def _shuffled(self, total: int, seed: int, epoch: int, position: int) -> _core.EpochShuffle:
        return _core.EpochShuffle(total, seed, epoch, position, self.shuffle, **self._rank, places=self._num_places)

    @property
    def _num_places(self) -> int:
        """Places within trajectories that were drawn."""
        return self._places_drawn if self._stream is None else self._stream.places

    def _begin(self, total: int) -> _core.EpochShuffle:
        if self._follows:
            # A number decides the places of its epoch, too, from the first one on.
            self._stream, self._places_drawn = None, 0
        return SamplerWithoutReplacement._begin(self, total)

    def _turn(self, stream: _core.EpochShuffle, epoch: int) -> None:
        SamplerWithoutReplacement._turn(self, stream, epoch)
        if self._follows:
            stream.restore(stream.seed, stream.epoch, stream.position, places=0)

    def _number_of_epoch(self) -> int:
        return self._take_number(shared=True)

    def _reseed(self) -> None:
        SamplerWithoutReplacement._reseed(self)

    def _begin_anew(self) -> None:
        SamplerWithoutReplacement._begin_anew(self)
        self._places_drawn = 0

    def _empty(self) -> None:
        SliceSampler._empty(self)
        self._places_drawn = self._num_places
        SamplerWithoutReplacement._empty(self)

    def _state(self) -> dict[str, Any]:
        return {
            **SamplerWithoutReplacement._state(self),
            "places_drawn": self._num_places,
            "num_slices": self.num_slices,
            "slice_len": self.slice_len,
        }

    def _prepare(self, saved: SavedState) -> TakeOver:
        self._check_shape(saved)
        drawn = saved.integer("places_drawn")
        restore = SamplerWithoutReplacement._prepare(self, saved)

        def take_over() -> None:
            self._stream, self._places_drawn = None, drawn
            restore()

        return take_over

    def __repr__(self) -> str:
        return SamplerWithoutReplacement.__repr__(self)


class EveryWindowSampler(SliceSamplerWithoutReplacement):
    """Every window of every trajectory exactly once per epoch, in a shuffled order that needs no memory.

    The windows of a trajectory of L steps begin at 0, `stride`, 2 `stride`, ... as long as `slice_len` steps follow;
    shorter trajectories have none. Batches, flags and entries are those of `SliceSamplerWithoutReplacement`: `ran_out`
    is set with the last batch of an epoch, which may be shorter.

    Args:
        slice_len: steps of a window; batch sizes are multiples of it. Where no trajectory has as many, `sample` raises
            `RuntimeError`.
        stride: steps from one window to the next.
        drop_last: leave out the last batch of an epoch if it is not full.
        shuffle: False goes through the windows in their order.
        seed: as in `SamplerWithoutReplacement`.
        rank: as in `SamplerWithoutReplacement`: which of the ranks that share an epoch's windows this is.
        world_size: as in `SamplerWithoutReplacement`.
        options: where trajectories end and what goes into the batch, as for `SliceSampler`.

    Examples:
        >>> from iltools_datasets.torchrl import TrajectoryStorage
        >>> storage = TrajectoryStorage(TrajectoryStore.open("walks"))
        >>> sampler = EveryWindowSampler(slice_len=8, stride=4, seed=0)
        >>> sampler.num_windows(storage)
        20
        >>> (index,), _ = sampler.sample(storage, batch_size=80)
        >>> index.view(10, 8).diff().unique()
        tensor([1])
    """

    def __init__(
        self,
        slice_len: int,
        stride: int = 1,
        *,
        drop_last: bool = False,
        shuffle: bool = True,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ) -> None:
        if slice_len < 1 or stride < 1:
            raise ValueError(f"slice_len and stride of at least 1 are needed, found {slice_len} and {stride}")
        super().__init__(slice_len=slice_len, drop_last=drop_last, shuffle=shuffle, seed=seed, **options)
        self._share_with(rank, world_size)
        self.stride = stride

    def num_windows(self, storage: Storage) -> int:
        """Return how many windows an epoch over a storage has."""
        return self._windows(self._table(storage), self.slice_len).total

    def _windows(self, table: TrajectoryTable, length: int) -> _core.SliceCut:
        return table.cut(length, True, False, (0, 0), self.stride)

    def _check_some_came(self, table: TrajectoryTable, length: int, rows: torch.Tensor) -> None:
        """Any batch is right: an epoch has a window."""

    def _next_draw(self, storage: Storage, batch_size: int) -> tuple[TrajectoryTable, int, DrawSlices]:
        table, length, num_slices = self._asked(storage, batch_size)
        cut = self._windows(table, length)
        if not cut.total:
            raise RuntimeError(table.none_reaches(length))
        return table, length, partial(self._next_slices, storage, num_slices, cut)

    def _number_of_epoch(self) -> int:
        return SamplerWithoutReplacement._number_of_epoch(self)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "stride": self.stride}

    def _check_shape(self, saved: SavedState) -> None:
        super()._check_shape(saved)
        if saved.integer("stride") != self.stride:
            raise saved.refuse("stride", str(self.stride))


# As for `RandomSampler`.
with contextlib.suppress(ImportError):
    from torchrl.data.replay_buffers.samplers.base import _REPLACEMENT_DISPATCH

    _REPLACEMENT_DISPATCH[SliceSampler] = SliceSamplerWithoutReplacement
