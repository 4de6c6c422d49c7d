"""Trajectories in memory into a store on disk, one at a time."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra

try:
    import torch
    from tensordict import TensorDictBase
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.replay_memmap") from error

from iltools_datasets.errors import DuplicateTrajectoryError, OutOfRangeError, SchemaError
from iltools_datasets.replay.trajectory_td import (
    build_trajectory_td,
    build_trajectory_td_from_components,
    concat_components,
)
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.segments import Segment, Segments
from iltools_datasets.store.shifted_next import Parts, shifted_keys
from iltools_datasets.store.spool import StoreSpool
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.torchrl.storage import TrajectoryStorage

__all__ = [
    "ExpertMemmapBuilder",
    "Segment",
    "Segments",
    "build_trajectory_td",
    "build_trajectory_td_from_components",
    "concat_components",
    "load",
]


def load(scratch_dir: str | os.PathLike[str]) -> tuple[TrajectoryStorage, Segments]:
    """Open what a builder wrote, in this or any other process; raises `StoreNotFoundError` if there is nothing.

    Returns the storage, of one row per transition, and its segments.
    """
    store = TrajectoryStore.open(Path(scratch_dir))
    return TrajectoryStorage(store), store.segments


class ExpertMemmapBuilder:
    """Appends trajectories to one store; nothing is visible in `scratch_dir` before `finalize`.

    Args:
        scratch_dir: directory of the store; made if it is not there.
        max_size: most transitions that may be added.
        device: where the storage lives; only "cpu", since it is a memory map.
        overwrite: replace a store that is in `scratch_dir`. Without it, `StoreExistsError`.

    A key k whose ("next", k) is k one step later, bit for bit in every trajectory, is stored once. If a later
    trajectory breaks that, what was written is laid out anew with an explicit next; nobody has to say which it is.

    Used as a context manager it finalizes at the end of the block, and leaves nothing behind if the block raises.
    """

    def __init__(
        self,
        scratch_dir: str | os.PathLike[str],
        max_size: int,
        device: torch.device | str = "cpu",
        *,
        overwrite: bool = False,
    ) -> None:
        if torch.device(device).type != "cpu":
            raise ValueError(f"the storage lives on the CPU, got device={device!r}; move batches, not the storage")
        if max_size < 1:
            raise ValueError(f"max_size must be at least 1, got {max_size}")
        self.scratch_dir = Path(scratch_dir)
        self.max_size = max_size
        self._overwrite = overwrite
        self._begin()

    def _begin(self) -> None:
        # The target is locked, and refused if it is taken, before anything is written. Trajectories go to a spool
        # beside it that can become the target as it is, or be read once more if the layout has to change.
        self._target: StoreBuilder | None = StoreBuilder(self.scratch_dir, overwrite=self._overwrite)
        self._spools: list[StoreSpool] = []
        # A builder that is forgotten, or the end of the process, leaves as little behind as abort() does.
        self._discard = weakref.finalize(self, _discard, self._target, self._spools)
        self._schema: dict[Parts, tuple[str, tuple[int, ...]]] = {}
        self._stored_once: set[Parts] = set()
        self._segments: dict[tuple[int, int], Segment] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """Transitions added so far."""
        return self._size

    @property
    def segments(self) -> list[Segment]:
        """The trajectories added so far."""
        return list(self._segments.values())

    def clear(self) -> None:
        """Drop what was added and start over; after `finalize`, begin a new store in place of that one."""
        self.abort()
        self._begin()

    def abort(self) -> None:
        """Drop what was added and leave `scratch_dir` as it was before."""
        self._discard()
        self._target = None

    def add_trajectory(
        self,
        task_id: int,
        traj_id: int,
        transitions: TensorDictBase,
        *,
        name: str | None = None,
        task_name: str | None = None,
    ) -> Segment:
        """Append a trajectory and return its segment.

        Args:
            task_id, traj_id: the pair must be new, else `DuplicateTrajectoryError`.
            transitions: TensorDict of batch size [T], T >= 1, tensors [T, ...] only.
            name, task_name: where it came from, kept in the store.

        Raises `SchemaError` if keys, dtypes or trailing shapes differ from earlier trajectories, and `OutOfRangeError`
        if there would be more than `max_size` transitions. The builder is then as it was before.
        """
        self._require_open()
        label = f"{self.scratch_dir}: task {task_id}, trajectory {traj_id}"
        if (task_id, traj_id) in self._segments:
            raise DuplicateTrajectoryError(f"{label}: this id was added before")
        arrays = _to_arrays(label, transitions)
        length = transitions.batch_size[0]
        if self.size + length > self.max_size:
            raise OutOfRangeError(f"{label}: {self.size} + {length} transitions exceed max_size={self.max_size}")
        self._check_schema(label, arrays)

        shifted = shifted_keys(arrays)
        stored_once = self._stored_once & shifted if self._spools else shifted
        self._spool(task_id, traj_id, arrays, stored_once, name, task_name)
        self._schema = self._schema or {key: (str(array.dtype), array.shape[1:]) for key, array in arrays.items()}
        segment = Segment(task_id, traj_id, self.size, length)
        self._segments[task_id, traj_id] = segment
        self._size += length
        return segment

    def finalize(self) -> tuple[TrajectoryStorage, Segments]:
        """Publish the store and return its storage, of one row per transition, and its segments.

        Raises `SchemaError` if no trajectory was added.
        """
        target = self._require_open()
        if not self._spools:
            raise SchemaError(f"{self.scratch_dir}: no trajectory was added")
        try:
            self._spools[-1].close()
            if len(self._spools) == 1:
                target.adopt(self._spools[0].path)
            else:
                for spool in self._spools:
                    spool.copy_to(target, self._stored_once)
                target.publish()
        finally:
            self.abort()
        self._overwrite = True
        return load(self.scratch_dir)

    def __enter__(self) -> ExpertMemmapBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif self._target is not None:
            self.finalize()

    def _require_open(self) -> StoreBuilder:
        if self._target is None:
            raise ValueError(f"{self.scratch_dir}: this build is over; clear() begins a new one")
        return self._target

    def _spool(
        self,
        task_id: int,
        traj_id: int,
        arrays: dict[Parts, NDArray[Any]],
        stored_once: set[Parts],
        name: str | None,
        task_name: str | None,
    ) -> None:
        """Append to the last spool or, where the layout changes, to a new one, which counts once it holds something."""
        if self._spools and stored_once == self._stored_once:
            self._spools[-1].add(task_id, traj_id, arrays, stored_once, name, task_name)
            return
        spool = StoreSpool(self.scratch_dir)
        try:
            spool.add(task_id, traj_id, arrays, stored_once, name, task_name)
            if self._spools:
                self._spools[-1].close()
        except BaseException:
            spool.remove()
            raise
        self._spools.append(spool)
        self._stored_once = stored_once

    def _check_schema(self, label: str, arrays: dict[Parts, NDArray[Any]]) -> None:
        if not self._schema:
            return
        for key in self._schema.keys() | arrays.keys():
            if key not in arrays:
                raise SchemaError(f"{label}: key {_shown(key)} is missing; earlier trajectories have it")
            if key not in self._schema:
                raise SchemaError(f"{label}: key {_shown(key)} is new; earlier trajectories lack it")
            found, expected = (str(arrays[key].dtype), arrays[key].shape[1:]), self._schema[key]
            if found != expected:
                raise SchemaError(
                    f"{label}, key {_shown(key)}: expected {expected[0]} {list(expected[1])} per transition, "
                    f"found {found[0]} {list(found[1])}"
                )


def _discard(target: StoreBuilder, spools: list[StoreSpool]) -> None:
    for spool in spools:
        spool.remove()
    target.abort()


def checked_length(label: str, transitions: TensorDictBase) -> int:
    """Return the transitions of a trajectory; `SchemaError` if it is no TensorDict of batch size [T], T >= 1."""
    if not isinstance(transitions, TensorDictBase):
        raise SchemaError(f"{label}: expected a TensorDict, found {type(transitions).__name__}")
    if len(transitions.batch_size) != 1 or transitions.batch_size[0] < 1:
        raise SchemaError(f"{label}: expected batch size [T] with T >= 1, found {list(transitions.batch_size)}")
    return int(transitions.batch_size[0])


def _to_arrays(label: str, transitions: TensorDictBase) -> dict[Parts, NDArray[Any]]:
    checked_length(label, transitions)
    arrays: dict[Parts, NDArray[Any]] = {}
    for key, value in transitions.items(include_nested=True, leaves_only=True):
        parts = (key,) if isinstance(key, str) else tuple(key)
        if not isinstance(value, torch.Tensor):
            raise SchemaError(f"{label}, key {_shown(parts)}: expected a tensor, found {type(value).__name__}")
        try:
            arrays[parts] = value.detach().cpu().contiguous().numpy()
        except TypeError as error:
            raise SchemaError(f"{label}, key {_shown(parts)}: {value.dtype} cannot be stored: {error}") from error
    if not arrays:
        raise SchemaError(f"{label}: the TensorDict holds no tensors")
    return arrays


def _shown(key: Parts) -> str:
    return repr(key[0] if len(key) == 1 else key)
