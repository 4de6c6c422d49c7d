"""TorchRL's slice samplers without their cost: change the import, nothing else.

Boundaries are looked for once and corrected where rows are written; a batch is read once, and beside it only the flags
that a slice ends with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torchrl.data.replay_buffers import samplers as torchrl_samplers
from torchrl.data.replay_buffers.storages import Storage, TensorStorage

from iltools_datasets import _core
from iltools_datasets._base.saved_state import SavedState
from iltools_datasets.torchrl.samplers import slice_rows
from iltools_datasets.torchrl.samplers.base import SeededSampler, on_device
from iltools_datasets.torchrl.samplers.elements import SamplerWithoutReplacement
from iltools_datasets.torchrl.samplers.slice_info import slice_info
from iltools_datasets.torchrl.samplers.slice_rows import Slices
from iltools_datasets.torchrl.samplers.trajectory_table import Boundaries, EndSource, TrajectoryTable, TrajectoryTracker
from iltools_datasets.torchrl.storage import TrajectoryStorage

Batch = tuple[tuple[torch.Tensor, ...], dict[Any, torch.Tensor]]

_END_OPTIONS = ("end_key", "end_keys", "traj_key", "ends", "trajectories")

_RESOLUTION = 2**53
"""Draws are integers below this, so a fraction is one of as many as a float64 can tell apart."""


class SliceSampler(SeededSampler, torchrl_samplers.SliceSampler):  # type: ignore[misc]
    """Slices of consecutive steps of trajectories, with replacement: first a trajectory, then where a slice begins.

    Takes the arguments of TorchRL's `SliceSampler`, and gives what it gives. Over a `TrajectoryStorage`, where no key
    is named, the trajectories are the store's. With `span` on the right a slice keeps at least one step, as TorchRL's
    documentation has it. In-place changes of the storage's tensors that bypass the storage are not noticed, whatever
    `cache_values` says.

    Args:
        seed: see `SeededSampler`; drawn from the buffer's generator if it is None.
        options: those of TorchRL's sampler.
    """

    draws_transitions = False  # the native generator draws trajectories and places within them

    def __init__(self, *, seed: int | None = None, **options: Any) -> None:
        SeededSampler.__init__(self, seed)
        torchrl_samplers.SliceSampler.__init__(self, **options)
        self._position = 0
        self._follow(options)

    def _follow(self, options: Mapping[str, Any]) -> None:
        self._tracker = TrajectoryTracker()
        self._names_ends = any(options.get(name) is not None for name in _END_OPTIONS)

    # Where the trajectories are.

    def _table(self, storage: Storage) -> TrajectoryTable:
        return self._tracker.table(storage, lambda: self._whole_table(storage), lambda: self._end_source(storage))

    def _whole_table(self, storage: Storage) -> TrajectoryTable:
        if isinstance(storage, TrajectoryStorage) and not self._names_ends:
            segments = storage.store.segments
            return TrajectoryTable(segments.start, segments.length)
        if len(storage) == 1:
            # One row is one trajectory; TorchRL trips over it.
            return TrajectoryTable.from_stops(np.zeros(1, dtype=np.int64), 1)
        boundaries = torchrl_samplers.SliceSampler._get_stop_and_length(self, storage)
        if boundaries[0].shape[1] != storage.ndim:
            raise RuntimeError(
                f"Expected the end-of-trajectory signal to be {storage.ndim}-dimensional, found "
                f"{boundaries[0].shape[1]} dimensions instead."
            )
        return TrajectoryTable.from_boundaries(boundaries)

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
            return self._table(storage).boundaries(storage.shape[0])
        boundaries: Boundaries = torchrl_samplers.SliceSampler._get_stop_and_length(self, storage, fallback=False)
        return boundaries

    def mark_update(self, index: Any, *, storage: Storage | None = None) -> None:
        """Note rows that were written; the writer calls this."""
        self._tracker.note_write(index, storage)
        super().mark_update(index, storage=storage)

    # Batches.

    def _sample_slices(self, *boundaries: Any, storage: Storage, **options: Any) -> Batch:
        """Return the index, one int64 [B] per dimension of the storage, and TorchRL's entries for the batch.

        TorchRL's `sample` calls this with the boundaries, which are in the table too.
        """
        length, num_slices = boundaries[3], boundaries[4]
        table = self._table(storage)
        self._meet(storage)
        counted = self._long_enough(table, length)
        draws = self._fractions(2 * num_slices)
        chosen = (draws[:num_slices] * (len(table) if counted is None else len(counted))).astype(np.int64)
        trajectory = chosen if counted is None else counted[chosen]
        return self._slices_within(storage, table, trajectory, draws[num_slices:], length)

    def _long_enough(self, table: TrajectoryTable, length: int) -> NDArray[np.int64] | None:
        """Return the positions of trajectories that count, None if all do; RuntimeError if none does."""
        if not self.strict_length or table.all_reach(length):
            return None
        reaching = table.reaching(length)
        if not len(reaching):
            raise RuntimeError(table.none_reaches(length))
        return reaching

    def _slices_within(
        self,
        storage: Storage,
        table: TrajectoryTable,
        trajectory: NDArray[np.int64],
        fraction: NDArray[np.float64],
        length: int,
    ) -> Batch:
        lengths: NDArray[np.int64] | int = length
        padded_length = None
        if not self.strict_length and not table.all_reach(length):
            lengths = np.minimum(table.length[trajectory], length)
            padded_length = length if self.pad_output else None
        slices = slice_rows.place(table, trajectory, fraction, lengths, self.span)
        return self._batch(storage, table, slices, padded_length)

    def _batch(
        self, storage: Storage, table: TrajectoryTable, slices: Slices, padded_length: int | None = None
    ) -> Batch:
        time, real = slice_rows.rows(table, slices, storage.shape[0], padded_length)
        index = [on_device(time, storage)]
        if storage.ndim > 1:
            copies = slices.length if padded_length is None else padded_length
            rest = np.repeat(table.rest[slices.trajectory], copies, axis=0)
            index += [on_device(np.ascontiguousarray(column), storage) for column in rest.T]
        info = slice_info(
            storage,
            tuple(index),
            slices.length if isinstance(slices.length, int) else torch.from_numpy(slices.length),
            len(slices.trajectory),
            truncated_key=self.truncated_key,
            init_key=self.init_key,
            padded_length=padded_length,
            real=None if real is None else on_device(real, storage),
        )
        return tuple(index), info

    def _finalize_index(
        self,
        *,
        index: torch.Tensor,
        num_slices: int,
        seq_length: int | torch.Tensor,
        target_seq_length: int | None,
        mask_flat: torch.Tensor | None,
        storage: Storage,
    ) -> Batch:
        # The last step of TorchRL's `fragmented=True`, which reads no whole batch this way.
        coordinates = index.to(torch.int64).unbind(-1)
        info = slice_info(
            storage,
            coordinates,
            seq_length,
            num_slices,
            truncated_key=self.truncated_key,
            init_key=self.init_key,
            padded_length=target_seq_length,
            real=mask_flat,
        )
        return coordinates, info

    # Randomness and state.

    def _fractions(self, count: int) -> NDArray[np.float64]:
        """Return independent draws from [0, 1), float64 [count]."""
        if self._stream is None:
            self._stream = _core.UniformDraws(_RESOLUTION, self._needed_seed(), self._position)
        return _fractions_of(self._stream, count)

    def _reseed(self) -> None:
        self._seed, self._stream, self._position = None, None, 0

    def _empty(self) -> None:
        torchrl_samplers.SliceSampler._empty(self)
        self._tracker.forget()

    def _state(self) -> dict[str, Any]:
        return {
            "seed": self._needed_seed(),
            "position": self._position if self._stream is None else self._stream.position,
            "num_slices": self.num_slices,
            "slice_len": self.slice_len,
        }

    def _restore(self, saved: SavedState) -> None:
        self._check_shape(saved)
        seed, position = saved.integer("seed"), saved.integer("position")
        self._seed, self._position, self._stream = seed, position, None

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
    """

    def __init__(
        self, *, drop_last: bool = False, shuffle: bool = True, seed: int | None = None, **options: Any
    ) -> None:
        SamplerWithoutReplacement.__init__(self, drop_last, shuffle, seed=seed)
        torchrl_samplers.SliceSamplerWithoutReplacement.__init__(self, drop_last=drop_last, shuffle=shuffle, **options)
        self._places: _core.UniformDraws | None = None
        self._places_drawn = 0
        self._follow(options)

    def sample(self, storage: Storage, batch_size: int) -> Batch:
        """Return the index, one int64 [B] per dimension of the storage, and TorchRL's entries for the batch."""
        table = self._table(storage)
        length, num_slices = self._adjusted_batch_size(batch_size)
        trajectory = self._next_items(storage, len(table), num_slices)
        if self._long_enough(table, length) is not None:
            trajectory = np.sort(trajectory[table.length[trajectory] >= length])
            if not len(trajectory):
                raise RuntimeError(
                    "None of the trajectories of this batch is of sufficient length: strict_length=False takes all."
                )
        return self._slices_within(storage, table, trajectory, self._fractions(len(trajectory)), length)

    def _fractions(self, count: int) -> NDArray[np.float64]:
        if self._places is None or self._places.seed != self._needed_seed():
            self._places = _core.UniformDraws(_RESOLUTION, self._needed_seed(), self._places_drawn)
        fractions = _fractions_of(self._places, count)
        self._places_drawn = self._places.position
        return fractions

    def _reseed(self) -> None:
        SamplerWithoutReplacement._reseed(self)

    def _empty(self) -> None:
        SliceSampler._empty(self)
        SamplerWithoutReplacement._empty(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_places": None}

    def _state(self) -> dict[str, Any]:
        return {
            **SamplerWithoutReplacement._state(self),
            "places_drawn": self._places_drawn,
            "num_slices": self.num_slices,
            "slice_len": self.slice_len,
        }

    def _restore(self, saved: SavedState) -> None:
        self._check_shape(saved)
        drawn = saved.integer("places_drawn")
        SamplerWithoutReplacement._restore(self, saved)
        self._places, self._places_drawn = None, drawn

    def __repr__(self) -> str:
        return SamplerWithoutReplacement.__repr__(self)


class EveryWindowSampler(SliceSamplerWithoutReplacement):
    """Every window of every trajectory exactly once per epoch, in a shuffled order that needs no memory.

    The windows of a trajectory of L steps begin at 0, `stride`, 2 `stride`, ... as long as `slice_len` steps follow;
    shorter trajectories have none. Batches, flags and entries are those of `SliceSamplerWithoutReplacement`: `ran_out`
    is set with the last batch of an epoch, which may be shorter.

    Args:
        slice_len: steps of a window; batch sizes are multiples of it.
        stride: steps from one window to the next.
        drop_last: leave out the last batch of an epoch if it is not full.
        shuffle: False goes through the windows in their order.
        seed: as in `SamplerWithoutReplacement`.
        rank: as in `SamplerWithoutReplacement`: which of the ranks that share an epoch's windows this is.
        world_size: as in `SamplerWithoutReplacement`.
        options: where trajectories end and what goes into the batch, as for `SliceSampler`.
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
        return self._table(storage).windows(self.slice_len, self.stride).total

    def sample(self, storage: Storage, batch_size: int) -> Batch:
        """Return the index, one int64 [B] per dimension of the storage, and TorchRL's entries for the batch.

        Raises:
            RuntimeError: no trajectory is as long as a window.
        """
        table = self._table(storage)
        length, num_slices = self._adjusted_batch_size(batch_size)
        windows = table.windows(length, self.stride)
        if not windows.total:
            raise RuntimeError(table.none_reaches(length))
        trajectory, step = windows.locate(self._next_items(storage, windows.total, num_slices))
        return self._batch(storage, table, Slices(trajectory, step, length))

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "stride": self.stride}

    def _check_shape(self, saved: SavedState) -> None:
        super()._check_shape(saved)
        if saved.integer("stride") != self.stride:
            raise saved.refuse("stride", str(self.stride))


def _fractions_of(draws: _core.UniformDraws, count: int) -> NDArray[np.float64]:
    return draws.next(count).astype(np.float64) / _RESOLUTION


# As for `RandomSampler`.
with contextlib.suppress(ImportError):
    from torchrl.data.replay_buffers.samplers.base import _REPLACEMENT_DISPATCH

    _REPLACEMENT_DISPATCH[SliceSampler] = SliceSamplerWithoutReplacement
