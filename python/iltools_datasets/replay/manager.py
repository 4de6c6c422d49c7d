"""Sampling from a store: which envs follow which trajectories, and what `buffer.sample()` draws."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.integers import checked_integer

try:
    import torch
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import ImmutableDatasetWriter
    from torchrl.data.replay_buffers.samplers import Sampler
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.replay_manager") from error

from iltools_datasets import _core
from iltools_datasets.errors import OutOfRangeError
from iltools_datasets.ingest.report import BuildReport
from iltools_datasets.ranks import ONLY_RANK, Rank, checked_rank
from iltools_datasets.replay.builder import ExpertMemmapBuilder, checked_length
from iltools_datasets.replay.devices import ToDevice, check_sampling, checked_device
from iltools_datasets.replay.manager_state import load_manager_state, save_manager_state
from iltools_datasets.store.env_cursors import Assignments, EnvCursors, FollowsEnvs
from iltools_datasets.store.keys import Key
from iltools_datasets.store.segments import EnvAssignment, Segments
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.torchrl.buffer import TensorDictReplayBuffer
from iltools_datasets.torchrl.samplers.segments import (
    AssignedUniformSampler,
    EpochUniformSampler,
    SequentialPerEnvSampler,
)
from iltools_datasets.torchrl.storage import TrajectoryStorage

__all__ = [
    "AssignedUniformSampler",
    "EnvAssignment",
    "ExpertReplayManager",
    "ExpertReplaySpec",
    "SequentialPerEnvSampler",
]

Trajectories = Sequence[TensorDictBase] | Mapping[int, TensorDictBase]


@dataclass(frozen=True, slots=True)
class ExpertReplaySpec:
    """What to build a replay from.

    Attributes:
        tasks: task_id -> its trajectories, each a TensorDict of [T] transitions; a sequence (trajectory ids 0, 1, ...)
            or a mapping of trajectory id to trajectory.
        scratch_dir: directory of the store that is built.
        device: where batches go; the store itself lives on the CPU.
        sample_batch_size: batch size before any sampler is chosen.
        overwrite: replace a store that is in `scratch_dir`.
        prefetch: number of batches a native thread makes ahead; None or 0 makes each when it is asked for.
        pin_memory: put batches into pinned memory, from where they move to a CUDA device faster.
    """

    tasks: Mapping[int, Trajectories]
    scratch_dir: str | os.PathLike[str]
    device: torch.device | str = "cpu"
    sample_batch_size: int = 256
    overwrite: bool = False
    prefetch: int | None = None
    pin_memory: bool = False


class ExpertReplayManager(FollowsEnvs):
    """A `TensorDictReplayBuffer` over a store, and the assignment of envs to trajectories.

    Made from trajectories in memory (`ExpertReplayManager(spec)`), from a directory that was built before (`load`) or
    from an open store (`from_store`). It begins with uniform batches without replacement over everything.

    Attributes:
        buffer: the buffer; `buffer.sample()` draws with the sampler chosen last. Its storage and its transforms stay
            when the sampler is changed.
        store: the open `TrajectoryStore`.
        report: what was exported and skipped, if the manager was built from an archive, else None.

    Examples:
        >>> mgr = ExpertReplayManager.load("walks")
        >>> mgr.set_uniform_sampler(batch_size=32, seed=0)
        >>> [len(batch) for batch in mgr.buffer], mgr.buffer.epoch
        ([32, 32, 32, 32], 0)
        >>> mgr.set_assignment([EnvAssignment(task_id=0, traj_id=clip) for clip in range(3)])
        >>> mgr.buffer.sample()["observation"].shape
        torch.Size([3, 13])
        >>> mgr.sample_per_env_window(8)["action"].shape
        torch.Size([3, 8, 2])
    """

    def __init__(self, spec: ExpertReplaySpec) -> None:
        check_sampling(spec.device, spec.sample_batch_size, spec.prefetch, spec.pin_memory)
        tasks = {
            task_id: dict(trajectories if isinstance(trajectories, Mapping) else enumerate(trajectories))
            for task_id, trajectories in spec.tasks.items()
        }
        total = sum(
            checked_length(f"task {task_id}, trajectory {traj_id}", td)
            for task_id, trajectories in tasks.items()
            for traj_id, td in trajectories.items()
        )
        with ExpertMemmapBuilder(spec.scratch_dir, max(total, 1), overwrite=spec.overwrite) as builder:
            for task_id, trajectories in tasks.items():
                for traj_id, transitions in trajectories.items():
                    builder.add_trajectory(task_id, traj_id, transitions)
        store = TrajectoryStore.open(Path(spec.scratch_dir))
        self._open(store, spec.device, spec.sample_batch_size, spec.prefetch, spec.pin_memory)

    @classmethod
    def load(
        cls,
        scratch_dir: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        sample_batch_size: int = 256,
        prefetch: int | None = None,
        *,
        pin_memory: bool = False,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> ExpertReplayManager:
        """Open what was built in `scratch_dir` before, in this or another process.

        Args:
            scratch_dir: directory of the store.
            device: where batches go.
            sample_batch_size: batch size before another sampler is chosen.
            prefetch: number of batches a native thread makes ahead while the training step runs; None or 0 makes each
                when it is asked for. What is sampled stays the same.
            pin_memory: put batches into pinned memory, from where they move to a CUDA device faster.
            seed: seed of uniform batches where none is given with them; None takes it from the buffer's generator.
            rank: which of the processes that share each epoch of uniform batches this is; see `iltools_datasets.ranks`.
            world_size: how many there are; more than one need a seed.
        """
        store = TrajectoryStore.open(Path(scratch_dir))
        return cls.from_store(
            store,
            device,
            sample_batch_size,
            prefetch,
            pin_memory=pin_memory,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    @classmethod
    def from_store(
        cls,
        store: TrajectoryStore,
        device: torch.device | str = "cpu",
        sample_batch_size: int = 256,
        prefetch: int | None = None,
        *,
        pin_memory: bool = False,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> ExpertReplayManager:
        """Sample from an open store; arguments as in `load`."""
        manager = cls.__new__(cls)
        share = checked_rank(rank, world_size)
        manager._open(store, device, sample_batch_size, prefetch, pin_memory, seed, share)
        return manager

    def _open(
        self,
        store: TrajectoryStore,
        device: torch.device | str,
        batch_size: int,
        prefetch: int | None,
        pin_memory: bool,
        seed: int | None = None,
        share: Rank = ONLY_RANK,
    ) -> None:
        target = check_sampling(device, batch_size, prefetch, pin_memory)
        batch_size = int(batch_size)  # numpy's integers were let through
        self.store = store
        self.report: BuildReport | None = None
        self._cursors: EnvCursors | None = None
        self._to_device: ToDevice | None = None
        self._uniform_batch_size = batch_size
        self._seed, self._share = seed, share
        self.buffer = TensorDictReplayBuffer(
            storage=TrajectoryStorage(store),
            sampler=EpochUniformSampler(store.segments, seed=seed, **share),
            writer=ImmutableDatasetWriter(),
            batch_size=batch_size,
            prefetch=int(prefetch) if prefetch else None,
            pin_memory=pin_memory,
        )
        if target.type != "cpu":
            self.set_device_transform(target)

    def refresh(self) -> int:
        """Take in the trajectories that a store that grows has by now; return how many there are.

        Without replacement the epoch that runs goes on over what it began with, and the next one has everything; draws
        with replacement have it at once. Envs stay where they are. A sampler of the caller's finds a longer storage.

        Raises:
            StoreChangedError: another build has taken the store's place. Nothing was changed.
        """
        store = self.store.refresh()
        if store is self.store:
            return len(self.segments)
        sampler = self.buffer.sampler
        with self.buffer._replay_lock:
            self.buffer.storage.refresh(store)
            self.store = store
            if isinstance(sampler, EpochUniformSampler | SequentialPerEnvSampler):
                sampler.refresh(store.segments)
            if self._cursors is not None and self._cursors.segments is not store.segments:
                self._cursors.refresh(store.segments)
        return len(self.segments)

    @property
    def segments(self) -> Segments:
        """The trajectories of the store, as a sequence of `Segment`."""
        return self.store.segments

    # Assignments

    @property
    def assignment(self) -> list[EnvAssignment] | None:  # type: ignore[override]
        """The trajectory and the next step of each env, as a snapshot; None if nothing is assigned."""
        return None if self._cursors is None else self._cursors.assignment

    def set_assignment(self, assign: Assignments) -> None:
        """Assign one trajectory and step per env, and march: each `buffer.sample()` returns one row per env.

        `assign` holds an `EnvAssignment` or `(task_id, traj_id, step)` per env, or is an integer array or tensor
        [num_envs, 3] of these. Every cursor moves by one per sample and wraps at the end of its trajectory. Raises
        `UnknownSegmentError` (a KeyError), `OutOfRangeError` (an IndexError, for a negative step) or
        `NotAnIntegerError` (a TypeError) with nothing changed.
        """
        cursors = EnvCursors(self.segments, assign)
        sampler = SequentialPerEnvSampler(self.segments, cursors)
        self._cursors = cursors
        self._use(sampler, len(cursors))

    def clear_assignment(self) -> None:
        """Forget the assignment; a sampler that follows it gives way to uniform batches over everything."""
        self._cursors = None
        if isinstance(self.buffer.sampler, SequentialPerEnvSampler | AssignedUniformSampler):
            self.set_uniform_sampler(self._uniform_batch_size)

    # Samplers

    def set_uniform_sampler(
        self,
        batch_size: int,
        without_replacement: bool = True,
        respect_assignment: bool = False,
        *,
        seed: int | None = None,
    ) -> None:
        """Draw batches of exactly `batch_size` transitions, uniformly.

        Args:
            batch_size: rows per batch; one larger than the data set spans several epochs.
            without_replacement: every transition exactly once per epoch, else independent draws.
            respect_assignment: only from trajectories that an env is assigned to. Without an assignment, from all.
                Ranks need the same set of assigned trajectories.
            seed: same seed, same batches. None takes the manager's, and if that is None, one from the buffer's
                generator (`buffer.set_rng`).
        """
        batch_size = checked_integer("batch_size", batch_size, low=1)
        sampler: Sampler
        seed = self._seed if seed is None else seed
        if respect_assignment and self._cursors is not None:
            sampler = AssignedUniformSampler(
                self.segments, self._cursors, without_replacement, seed=seed, **self._share
            )
        else:
            sampler = EpochUniformSampler(self.segments, without_replacement, seed=seed, **self._share)
        self._uniform_batch_size = batch_size
        self._use(sampler, batch_size)

    def set_custom_sampler(self, sampler: Sampler, batch_size: int | None = None) -> None:
        """Draw with a sampler of the caller's, TorchRL's own included; None keeps the batch size."""
        kept = self.buffer.batch_size
        self._use(sampler, kept if batch_size is None else checked_integer("batch_size", batch_size, low=1))

    def _use(self, sampler: Sampler, batch_size: int) -> None:
        # TorchRL has no public way to do these two, and its set_sampler leaves the generator with the old sampler.
        sampler._rng = self.buffer._rng
        self.buffer._batch_size = batch_size
        self.buffer.set_sampler(sampler)

    # Windows

    def sample_per_env_window(self, window_size: int, wrap: bool = True) -> TensorDict:
        """Return the next `window_size` transitions of every env, a TensorDict of [num_envs, window_size].

        The first is the one that sequential sampling would return next; cursors do not move. The buffer's transforms
        apply.

        Args:
            window_size: number of consecutive steps.
            wrap: continue at the trajectory's start after its end; without it such a window raises `OutOfRangeError`.
        """
        rows = self._window_rows(window_size, wrap)
        flat = self.buffer.storage.get(torch.from_numpy(rows))
        window = flat.reshape(len(self.cursors), window_size)
        return self.buffer.transform(window) if len(self.buffer.transform) else window

    def env_windows(
        self, window_size: int, wrap: bool = True, keys: Sequence[Key] | None = None
    ) -> dict[Key, NDArray[Any]]:
        """Return the same windows as numpy arrays, `{key: [num_envs, window_size, ...]}`, without transforms."""
        rows = self._window_rows(window_size, wrap)
        arrays = self.store.gather(rows, keys)
        windows = len(self.cursors), window_size
        return {key: array.reshape(*windows, *array.shape[1:]) for key, array in arrays.items()}

    def _window_rows(self, window_size: int, wrap: bool) -> NDArray[np.int64]:
        cursors, length = self.cursors, checked_integer("window_size", window_size, low=0)
        rows, _ = _core.window_rows(
            self.segments.table, cursors.segment, cursors.step, length, "wrap" if wrap else "error"
        )
        return rows

    @property
    def cursors(self) -> EnvCursors:  # type: ignore[override]
        """Where the envs are; `OutOfRangeError` if nothing is assigned."""
        if self._cursors is None:
            raise OutOfRangeError("there are no envs: call set_assignment first")
        return self._cursors

    # Devices and state

    def set_device_transform(self, device: torch.device | str, non_blocking: bool = True) -> None:
        """Move every batch and window to `device`; called again, to another one.

        Raises `RuntimeError` if the device is a CUDA device and there is none.
        """
        target = checked_device(device)
        if self._to_device is None:
            self._to_device = ToDevice()
            self.buffer.append_transform(self._to_device)
        self._to_device.device, self._to_device.non_blocking = target, non_blocking

    def state_dict(self) -> dict[str, Any]:
        """Return where sampling stands: assignment, cursors, sampler and batch size, kilobytes whatever the data.

        With samplers of this package it holds only numbers, strings and lists, so JSON can keep it. Where ranks share
        uniform batches it is the same on all of them, and any number of ranks continues from it; an assignment is each
        rank's own.
        """
        return save_manager_state(self.store, self.buffer, self._cursors)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue bit for bit where `state_dict` was taken, with the same data and, if it was custom, sampler.

        Raises `StateError` or `StoreChangedError` for a damaged or impossible state or one of another store; everything
        is as it was then.
        """
        cursors, sampler, batch_size, changes = load_manager_state(
            state_dict, self.store, self.buffer, self._seed, self._share
        )
        changes.make()
        self._cursors = cursors
        if isinstance(sampler, EpochUniformSampler):
            self._uniform_batch_size = batch_size
        self.buffer._batch_size = batch_size
        self.buffer.set_sampler(sampler)

    def __repr__(self) -> str:
        envs = 0 if self._cursors is None else len(self._cursors)
        return f"ExpertReplayManager({self.store!r}, {envs} envs, {type(self.buffer.sampler).__name__})"
