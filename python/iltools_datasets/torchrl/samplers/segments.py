"""Samplers over segments: marching per env, and uniform over all or over the assigned trajectories.

Their batches are exact: one that reaches the end of an epoch takes its rest from the next. All work without a storage,
`sample(None, batch_size)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchrl.data.replay_buffers.storages import Storage

from iltools_datasets import _core
from iltools_datasets._base.saved_state import SavedState, TakeOver
from iltools_datasets.store.env_cursors import Assignments, EnvCursors, FollowsEnvs, saved_places
from iltools_datasets.store.segments import Segment, Segments
from iltools_datasets.torchrl.samplers.base import LAST_EPOCH, DrawnRows, SeededSampler, on_device

Stream = _core.EpochShuffle | _core.UniformDraws


class EpochUniformSampler(SeededSampler):
    """Uniform over all transitions, in batches of exactly the size asked for.

    Without replacement every transition comes exactly once per epoch; a batch that crosses the end of an epoch takes
    its rest from the next shuffle, and a batch larger than the data set spans several. `ran_out` is set with the batch
    that ends an epoch, so a loop over a buffer ends there. With replacement the draws are independent and never run
    out. Ranks draw disjoint parts of both, `world_size` batches per step.

    Args:
        segments: the segments of the data set.
        without_replacement: see above.
        seed: see `SeededSampler`; drawn from the buffer's generator if it is None. Another generator begins anew.
        rank: which of the ranks that share an epoch this is.
        world_size: how many ranks there are; more than one need a seed.

    Examples:
        >>> sampler = EpochUniformSampler(TrajectoryStore.open("walks").segments, seed=0)
        >>> index, _ = sampler.sample(batch_size=97)
        >>> sorted(index.tolist()) == list(range(97)), sampler.ran_out, sampler.epoch
        (True, True, 0)
    """

    def __init__(
        self,
        segments: Segments | Iterable[Segment],
        without_replacement: bool = True,
        *,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(seed, rank, world_size)
        self.segments = Segments.from_segments(segments)
        self.without_replacement = without_replacement
        self._stream: Stream | None = None
        self._ran_out = False
        self._batch_epoch = 0

    def sample(
        self, storage: Storage | None = None, batch_size: int | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return `batch_size` transition indices, int64 [B], and an empty dict."""
        if batch_size is None:
            raise ValueError(f"{type(self).__name__} needs a batch_size")
        return on_device(self._next(storage, batch_size, lambda stream: stream.next(batch_size)), storage), {}

    def sample_rows(self, storage: Any, batch_size: int, tells: bool = True) -> DrawnRows:
        """Return what `sample` does, and the rows."""

        def draw(stream: Stream) -> Any:
            return stream.next_rows(batch_size, False, storage.whole_rows)

        index, arrays, were_ready = self._next(storage, batch_size, draw)
        return DrawnRows(torch.from_numpy(index), {}, storage.tensors(storage.fields, arrays), were_ready)

    def _next(self, storage: Storage | None, batch_size: int, draw: Callable[[Stream], Any]) -> Any:
        """Return what `draw` makes of the next batch; sets the flags."""
        self._meet(storage)
        stream = self._current()
        if isinstance(stream, _core.UniformDraws):
            return draw(stream)
        before = stream.epoch
        drawn = draw(stream)
        epoch, position = stream.place
        self._ran_out, self._batch_epoch = epoch != before, before
        # How many batches end the epoch that follows: a buffer of TorchRL's makes no more ahead.
        self._remaining_batches = -((position - stream.total) // max(batch_size * self.world_size, 1))
        return drawn

    @property
    def ran_out(self) -> bool:
        """Whether the last batch ended an epoch."""
        return self._ran_out

    @ran_out.setter
    def ran_out(self, value: bool) -> None:
        self._ran_out = value

    @property
    def epoch(self) -> int | None:
        """Which epoch the last batch is of, from 0, or begins in; 0 before the first, None with replacement."""
        return self._batch_epoch if self.without_replacement else None

    def _chosen(self) -> NDArray[np.int64]:
        """Return the positions of the segments to draw from."""
        return np.arange(len(self.segments), dtype=np.int64)

    def _current(self) -> Stream:
        if self._stream is None:
            self._stream = self._make(self._chosen(), self._needed_seed(), 0, 0)
        return self._stream

    def _make(self, chosen: NDArray[np.int64], seed: int, epoch: int, position: int) -> Stream:
        items = self.segments.table, chosen
        if self.without_replacement:
            return _core.EpochShuffle(items, seed, epoch, position, **self._rank)
        return _core.UniformDraws(items, seed, position, **self._rank)

    def _reseed(self) -> None:
        self._seed, self._stream, self._batch_epoch = None, None, 0

    def _empty(self) -> None:
        """Begin a new epoch."""
        if isinstance(self._stream, _core.EpochShuffle):
            self._stream.restore(self._stream.seed, self._stream.epoch + 1, 0)

    def refresh(self, segments: Segments) -> None:
        """Draw from a data set that has become longer, in which the segments of this one come first.

        Without replacement the epoch that runs goes on over what it began with, and the next one has everything.
        """
        self.segments = segments
        if self._stream is not None:
            self._stream.grow((segments.table, self._chosen()))

    def _num_running(self, stream: Stream) -> int:
        """Return how many of the segments, from the first one on, the epoch that runs began with."""
        ends = self.segments.start + self.segments.length
        return int(np.searchsorted(ends, stream.total)) + 1

    def _state(self) -> dict[str, Any]:
        stream = self._current()
        count = self._num_running(stream)
        return {
            "segments": self.segments.fingerprint(count),
            "num_segments": count,
            "without_replacement": self.without_replacement,
            "seed": stream.seed,
            "epoch": stream.epoch if isinstance(stream, _core.EpochShuffle) else 0,
            "position": stream.position,
            "batch_epoch": self._batch_epoch,
            "ran_out": self._ran_out,
        }

    def _prepare(self, saved: SavedState) -> TakeOver:
        return self._prepare_stream(saved, self._chosen())

    def _prepare_stream(self, saved: SavedState, chosen: NDArray[np.int64]) -> TakeOver:
        stream = self._saved_stream(saved, chosen)
        # States of before lack these two.
        ran_out = saved.flag("ran_out", default=False)
        over = saved.integer("epoch") - ran_out
        batch_epoch = saved.integer("batch_epoch", high=LAST_EPOCH) if "batch_epoch" in saved else max(over, 0)

        def take_over() -> None:
            self._stream, self._seed = stream, stream.seed
            self._ran_out, self._batch_epoch = ran_out, batch_epoch

        return take_over

    def _saved_stream(self, saved: SavedState, chosen: NDArray[np.int64]) -> Stream:
        """Return the stream of a state, after checking it; nothing is changed."""
        count = check_segments(saved, self.segments)
        if saved.flag("without_replacement") != self.without_replacement:
            raise saved.refuse("without_replacement", str(self.without_replacement))
        seed, epoch, position = saved.integer("seed"), saved.integer("epoch"), saved.integer("position")
        running = chosen[chosen < count]
        if self.without_replacement:
            total = int(self.segments.length[running].sum())
            saved.integer("position", high=total - 1)
        stream = self._make(running, seed, epoch, position)
        if isinstance(stream, _core.EpochShuffle) and len(running) < len(chosen):
            stream.grow((self.segments.table, chosen))
        return stream


class AssignedUniformSampler(FollowsEnvs, EpochUniformSampler):
    """`EpochUniformSampler` over the union of the trajectories that envs are assigned to.

    The shuffle begins anew when its epoch ends or when the set of assigned trajectories has changed, not when only a
    step has. A trajectory that several envs follow counts once.

    Args:
        segments: the segments of the data set.
        assignment: one `EnvAssignment` per env, or `EnvCursors` shared with others. Nothing assigned means everything.
        without_replacement: as in `EpochUniformSampler`.
        seed: as in `EpochUniformSampler`.
        rank: as in `EpochUniformSampler`. All ranks need the same set of assigned trajectories.
        world_size: as in `EpochUniformSampler`.

    Raises:
        UnknownSegmentError, OutOfRangeError: as `EnvCursors` does.

    Examples:
        >>> sampler = AssignedUniformSampler(TrajectoryStore.open("walks").segments, [(0, 2, 0), (0, 2, 5)], seed=0)
        >>> index, _ = sampler.sample(batch_size=19)
        >>> int(index.min()), int(index.max()), sampler.ran_out
        (78, 96, True)
    """

    def __init__(
        self,
        segments: Segments | Iterable[Segment],
        assignment: Assignments | EnvCursors | None = None,
        without_replacement: bool = True,
        *,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(segments, without_replacement, seed=seed, rank=rank, world_size=world_size)
        self.cursors = shared_cursors(self.segments, () if assignment is None else assignment)
        self._revision = self.cursors.revision
        self._assigned = self._chosen()

    def refresh(self, segments: Segments) -> None:
        """Draw from a data set that has become longer; envs stay where they are, and may be put on what is new."""
        self.cursors.refresh(segments)
        super().refresh(segments)
        self._revision, self._assigned = self.cursors.revision, self._chosen()

    def _num_running(self, stream: Stream) -> int:
        # Of assigned trajectories, whatever the data set has besides makes no difference.
        return len(self.segments) if len(self.cursors) else super()._num_running(stream)

    def _chosen(self) -> NDArray[np.int64]:
        return np.unique(self.cursors.segment) if len(self.cursors) else super()._chosen()

    def _current(self) -> Stream:
        if self._revision != self.cursors.revision:
            self._revision = self.cursors.revision
            assigned, stream = self._chosen(), self._stream
            if stream is not None and not np.array_equal(assigned, self._assigned):
                epoch, position = (
                    (stream.epoch + 1, 0) if isinstance(stream, _core.EpochShuffle) else (0, stream.position)
                )
                self._stream = self._make(assigned, stream.seed, epoch, position)
            self._assigned = assigned
        return super()._current()

    def _state(self) -> dict[str, Any]:
        return {
            **super()._state(),
            "num_envs": len(self.cursors),
            "segment": self.cursors.segment.tolist(),
            "step": self.cursors.step.tolist(),
        }

    def _prepare(self, saved: SavedState) -> TakeOver:
        check_segments(saved, self.segments)
        segment, step = _own_places(saved, self.cursors)
        chosen = np.unique(segment) if len(segment) else super()._chosen()
        take_over_stream = self._prepare_stream(saved, chosen)

        def take_over() -> None:
            take_over_stream()
            self.cursors.place(segment, step)
            self._revision, self._assigned = self.cursors.revision, chosen

        return take_over


class SequentialPerEnvSampler(FollowsEnvs, SeededSampler):
    """One transition per env, then every env moves on by one, wrapping at the end of its trajectory.

    The workers of a `torch.utils.data.DataLoader` take the steps in turn: what comes out of the loader is one march.

    Args:
        segments: the segments of the data set.
        assignment: one `EnvAssignment` per env, or `EnvCursors` shared with others.

    Raises:
        ValueError: no env.
        UnknownSegmentError, OutOfRangeError: as `EnvCursors` does.

    Examples:
        >>> sampler = SequentialPerEnvSampler(TrajectoryStore.open("walks").segments, [(0, 0, 48), (0, 1, 3)])
        >>> sampler.sample()[0], sampler.sample()[0]
        (tensor([48, 52]), tensor([ 0, 53]))
    """

    def __init__(self, segments: Segments | Iterable[Segment], assignment: Assignments | EnvCursors) -> None:
        super().__init__(seed=0)
        self.cursors = shared_cursors(Segments.from_segments(segments), assignment)
        if not len(self.cursors):
            raise ValueError("an assignment of at least one env is needed")

    def sample(
        self, storage: Storage | None = None, batch_size: int | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return one transition index per env, int64 [num_envs], and an empty dict; `batch_size` is ignored."""
        self._meet(storage)
        index = self.cursors.native.next()
        self._leave_to_others()
        return on_device(index, storage), {}

    def sample_rows(self, storage: Any, batch_size: int, tells: bool = True) -> DrawnRows:
        """Return what `sample` does, and the rows."""
        self._meet(storage)
        index, arrays, were_ready = self.cursors.native.next_rows(0, False, storage.whole_rows)
        self._leave_to_others()
        return DrawnRows(torch.from_numpy(index), {}, storage.tensors(storage.fields, arrays), were_ready)

    def _leave_to_others(self) -> None:
        if self._worker is not None:
            self._skip(self._worker.num_workers - 1)

    def _share_anew(self) -> None:
        if self._worker is not None:
            self._skip(self._worker.id)

    def _skip(self, steps: int) -> None:
        if steps:
            self.cursors.place(self.cursors.segment, self.cursors.step + steps)

    @property
    def index_stream(self) -> _core.SequentialCursors:
        """The native cursors."""
        return self.cursors.native

    def _reseed(self) -> None:
        """Nothing here is random."""

    def _empty(self) -> None:
        """The assignment stays."""

    def refresh(self, segments: Segments) -> None:
        """Follow a data set that has become longer; envs stay where they are, and may be put on what is new."""
        self.cursors.refresh(segments)

    def _state(self) -> dict[str, Any]:
        count = len(self.cursors.segments)
        return {
            "segments": self.cursors.segments.fingerprint(),
            "num_segments": count,
            "num_envs": len(self.cursors),
            "segment": self.cursors.segment.tolist(),
            "step": self.cursors.step.tolist(),
        }

    def _prepare(self, saved: SavedState) -> TakeOver:
        check_segments(saved, self.cursors.segments)
        segment, step = _own_places(saved, self.cursors)
        return lambda: self.cursors.place(segment, step)


def shared_cursors(segments: Segments, assignment: Assignments | EnvCursors) -> EnvCursors:
    """Return cursors over `segments`: those given, or new ones."""
    if not isinstance(assignment, EnvCursors):
        return EnvCursors(segments, assignment)
    if assignment.segments is not segments and assignment.segments.fingerprint() != segments.fingerprint():
        raise ValueError("the cursors are over other segments than the sampler")
    return assignment


def check_segments(saved: SavedState, segments: Segments) -> int:
    """Return how many segments, from the first one on, a state is of; `StateError` if they are others, or more."""
    # States of before are of all there were.
    has_count = "num_segments" in saved
    count = saved.integer("num_segments", low=1, high=len(segments)) if has_count else len(segments)
    expected = segments.fingerprint(count)
    if saved.text("segments") != expected:
        raise saved.refuse("segments", f"the segments with fingerprint {expected}")
    return count


def _own_places(saved: SavedState, cursors: EnvCursors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if saved.integer("num_envs") != len(cursors):
        raise saved.refuse("num_envs", f"{len(cursors)} envs")
    return saved_places(saved, cursors.segments, len(cursors))
