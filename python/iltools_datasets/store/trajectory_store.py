"""The store: the one door to the memory-mapped format (`docs/store-format.md`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets import _core
from iltools_datasets._base.files import bytes_below
from iltools_datasets._base.local_path import is_url, local_path
from iltools_datasets.errors import MissingKeyError, StoreChangedError
from iltools_datasets.store.bounds import Bounds, bounds_of
from iltools_datasets.store.keys import Backend, Boundary, Key, parts_of, public
from iltools_datasets.store.maintenance import Damage, read_damages
from iltools_datasets.store.segments import Segments, int64
from iltools_datasets.store.staging import staged

__all__ = ["TrajectoryStore"]


class TrajectoryStore:
    """An open store: immutable, memory-mapped, a snapshot of the build that was current when it was opened.

    `len(store)` is the number of transitions. A handle pickles as (path, uuid, number of trajectories, backend), never
    as data. Of a store that grows it is the trajectories that were there when it was opened; `refresh` gives more.

    Attributes:
        keys: what can be read.
        layout: what each of `keys` is: the stored `column` that it is part of; whether its `rows` are those of
            transitions ("transition"), of the states they lead from ("state") or of the states they lead to
            ("next_state"); `offset` and `width` in bytes within a row of the column; `dtype` and `shape` of a row.
        segments: where each trajectory lies.

    Examples:
        >>> store = TrajectoryStore.open("walks")
        >>> store.num_trajectories, len(store)
        (3, 97)
        >>> store.gather([0, 5], keys=["qpos", ("next", "qpos")])["next", "qpos"].shape
        (2, 7)
        >>> store.windows(segment=[0, 2], step=[10, 0], length=8, keys=["action"])["action"].shape
        (2, 8, 2)
    """

    def __init__(self, core: _core.Store, *, num_threads: int | None = None) -> None:
        self.core = core
        self.num_threads = num_threads
        self.layout: list[_core.Field] = core.layout
        self.keys: list[Key] = [public(field.key) for field in self.layout]
        self._numbers = {key: number for number, key in enumerate(self.keys)}
        self.segments = Segments(core.segments)
        self._reopen: tuple[Callable[..., TrajectoryStore], tuple[Any, ...]] = (
            _reopen,
            (core.path, core.uuid, len(self.segments), core.backend, num_threads),
        )

    @classmethod
    def open(
        cls, path: str | Path, backend: Backend = "mmap", *, cache: str | Path | None = None,
        storage_options: Mapping[str, Any] | None = None, num_threads: int | None = None,
    ) -> TrajectoryStore:  # fmt: skip
        """Open a store. Checks the manifest's checksum, the segment table and the length of every file.

        Args:
            path: directory of the store, or, with a `cache`, its URL on object storage, such as `s3://bucket/store`.
            backend: `"mmap"` reads through the page cache, which all processes share; `"ram"` reads everything into
                this process's memory first; `"pread"` reads each row from the file, and raises where a truncated file
                would kill a process that has it mapped.
            cache: directory of this machine to which a store at a URL is copied, by one process while others wait, and
                verified; a copy of the same manifest is used as it is (`docs/cluster.md`).
            storage_options: what fsspec gives the client of the URL's protocol, such as `{"endpoint_url": ...}`.
            num_threads: threads of large gathers; None = what `num_threads()` says: as many as there are cores, and one
                in a process that multiprocessing started, such as a DataLoader's worker.

        Raises:
            ArgumentError: the path is a URL and there is no `cache`: a store is mapped, and so lies on this machine.
            StorageError: object storage refuses, or fails; MissingExtraError without its client.
            StoreNotFoundError: there is no store.
            StoreCorruptError: a file is missing, has the wrong length or is not what the manifest says.
            StoreVersionError: written in another format version.
        """
        place = staged(os.fspath(path), cache, storage_options) if is_url(path) else local_path(path)
        return cls(_core.Store.open(str(place), backend), num_threads=num_threads)

    @classmethod
    def from_tensordict_memmap(
        cls,
        path: str | Path,
        traj_key: Key | None = None,
        end_key: Key | None = ("next", "done"),
        *,
        backend: Backend = "mmap",
        num_threads: int | None = None,
    ) -> TrajectoryStore:
        """Open a TensorDict memmap directory that somebody else wrote; only the segment table is built, in memory.

        Args:
            path: directory with TensorDict's `meta.json`; leaves `[N, ...]`, one row per transition.
            traj_key: leaf `[N]` or `[N, 1]` whose value changes where a trajectory begins. Takes precedence.
            end_key: bool leaf `[N]` or `[N, 1]` that is true at the last transition of a trajectory.
            backend: as in `open`.
            num_threads: as in `open`.

        Trajectories get task id 0 and trajectory ids 0, 1, ... in order; rows after the last end form a trajectory.

        Raises:
            StoreNotFoundError: there is no `meta.json`.
            StoreCorruptError: a leaf's file or a nested directory is missing, is a link, or has the wrong length.
            SchemaError: leaves differ in their number of rows, or one is of a dtype that numpy does not know.
            MissingKeyError: the key that is to tell trajectories apart is not there.

        Nothing is written in any case.
        """
        traj, end = (None if key is None else parts_of(key) for key in (traj_key, end_key))
        store = cls(_core.Store.open_foreign(str(local_path(path)), traj, end, backend), num_threads=num_threads)
        # No uuid protects a foreign directory, so its handle re-opens by the same arguments.
        store._reopen = (_reopen_foreign, (str(path), traj_key, end_key, backend, num_threads))
        return store

    def __reduce__(self) -> tuple[Callable[..., TrajectoryStore], tuple[Any, ...]]:
        return self._reopen

    def __len__(self) -> int:
        return self.core.num_transitions

    def __repr__(self) -> str:
        return (
            f"TrajectoryStore({str(self.path)!r}, {self.num_trajectories} trajectories, {len(self)} transitions, "
            f"backend={self.core.backend!r})"
        )

    @property
    def is_growing(self) -> bool:
        """Whether it was opened while a collector recorded it."""
        return self.core.is_growing

    def refresh(self) -> TrajectoryStore:
        """Return the store as it is now: the same trajectories, and behind them those that have come.

        The same rows keep the same index, and readers of this one are not disturbed. Where nothing is new this store
        is returned.

        Raises:
            StoreChangedError: another build has taken its place.
            StoreNotFoundError, StoreCorruptError: as `open` does.
        """
        if not self.uuid:
            return self
        now = TrajectoryStore.open(self.path, self.core.backend, num_threads=self.num_threads)
        if now.uuid != self.uuid or len(now) < len(self):
            raise StoreChangedError(
                f"{self.path}: expected build {self.uuid}, found {now.uuid}: the store was rebuilt meanwhile"
            )
        # Before the first trajectory the columns may still become others.
        return self if now.is_growing == self.is_growing and 0 < len(now) == len(self) else now

    @property
    def path(self) -> Path:
        """Directory of the store."""
        return Path(self.core.path)

    @property
    def data_dir(self) -> Path:
        """Directory of the columns, a TensorDict memmap directory; the first one of a store that was added to."""
        return Path(self.core.data_dirs[0])

    @property
    def uuid(self) -> str:
        """Identity of this build; empty for a foreign directory."""
        return self.core.uuid

    @property
    def num_states(self) -> int:
        """Number of states: transitions plus one per trajectory."""
        return self.core.num_states

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories."""
        return len(self.segments)

    @property
    def task_names(self) -> dict[int, str]:
        """Name of each task that was given one."""
        return self.core.task_names

    @property
    def attributes(self) -> dict[str, Any]:
        """What the builder kept with the data."""
        attributes = json.loads(self.core.attributes)
        return attributes if isinstance(attributes, dict) else {}

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of all files of this build, manifest included."""
        manifest = self.path / "manifest.json"
        return sum(bytes_below(Path(data)) for data in self.core.data_dirs) + (
            manifest.stat().st_size if manifest.exists() else 0
        )

    @cached_property
    def trajectory_names(self) -> tuple[str | None, ...]:
        """The name each trajectory was added with, by its position in `segments`."""
        return tuple(self.core.trajectory_names)

    def trajectory_name(self, segment: int) -> str | None:
        """Return the name the trajectory at this position was added with."""
        return self.trajectory_names[segment]

    @property
    def trajectory_paths(self) -> list[str]:
        """`<task>/<name>` of each trajectory; numbers stand for those that were given no name."""
        tasks, segments = self.task_names, self.core.segments
        return [
            f"{tasks.get(task, f'task {task}')}/{name or f'trajectory {number}'}"
            for task, number, name in zip(
                segments.task_id.tolist(), segments.traj_id.tolist(), self.trajectory_names, strict=True
            )
        ]

    def dtype(self, key: Key) -> np.dtype[Any]:
        """Return the dtype that `gather` returns for a key; bfloat16 comes as its bits, uint16 (see `is_bfloat16`)."""
        name = self.layout[self._number(key)].dtype
        return np.dtype("uint16" if name == "bfloat16" else name)

    def is_bfloat16(self, key: Key) -> bool:
        """Return whether a key's uint16 values are bfloat16 bits."""
        return self.layout[self._number(key)].dtype == "bfloat16"

    def shape(self, key: Key) -> tuple[int, ...]:
        """Return the shape of one row of a key."""
        return self.layout[self._number(key)].shape

    def successor(self, key: Key) -> Key | None:
        """Return the key of a state's next state, `("next", key)`; None for a key that belongs to transitions.

        The trajectory's rows of a key with a successor are one more than its transitions: the last is its successor's.
        In a foreign directory, where each key is stored on its own, any key with a `next` like it is taken for a state.
        """
        return self._successors[self._number(key)]

    @cached_property
    def _successors(self) -> list[Key | None]:
        return [self._following(field) for field in self.layout]

    def _following(self, here: _core.Field) -> Key | None:
        number = self._numbers.get(("next", *here.key))
        if number is None:
            return None
        there = self.layout[number]
        follows = here.rows == "state" or (not self.uuid and (here.dtype, here.shape) == (there.dtype, there.shape))
        return self.keys[number] if follows else None

    def bounds(self) -> dict[Key, Bounds]:
        """Return the smallest and the largest value of every element of a key's rows, over the whole store.

        Returns:
            `{key: (low, high)}`, arrays of the row's shape and dtype (bfloat16 as float32). A state and its successor
            have the same: those of all states. Complex keys, and those that hold a NaN or an infinity, are left out.

        The first call reads the store once; where its directory can be written to, the result is kept beside the
        manifest as `bounds.json` and later calls, also of other processes, read that. A longer prefix of a store that
        grows is measured anew.
        """
        return bounds_of(self)

    def field_ids(self, keys: Sequence[Key] | None = None) -> list[int]:
        """Return the positions by which `core.gather` addresses keys; all of them for None."""
        return list(range(len(self.keys))) if keys is None else [self._number(key) for key in keys]

    def _number(self, key: Key) -> int:
        number = self._numbers.get(key if isinstance(key, str) else public(parts_of(key)))
        if number is None:
            raise MissingKeyError(f"{self.path}: no key {key!r}; there are {self.keys}")
        return number

    def gather(
        self, index: ArrayLike, keys: Sequence[Key] | None = None, out: Mapping[Key, NDArray[Any]] | None = None
    ) -> dict[Key, NDArray[Any]]:
        """Copy transitions out.

        Args:
            index: int `[B]`, each in [0, len(store)).
            keys: what to copy; None = everything.
            out: `{key: C-contiguous, writeable array [B, ...] of the key's dtype}` to fill instead of new arrays.

        Returns:
            `{key: [B, ...]}`; new arrays begin at multiples of 64 bytes and belong to the caller.

        Raises:
            OutOfRangeError: an index is out of range; nothing was written.
            MissingKeyError: there is no such key.
            ValueError, TypeError: an output does not fit; nothing was written.
        """
        names = list(self.keys if keys is None else keys)
        outputs = None if out is None else [self._output(out, key) for key in names]
        arrays = self.core.gather(self.field_ids(names), int64(index), outputs, self.num_threads)
        return dict(zip(names, arrays, strict=True))

    @staticmethod
    def _output(out: Mapping[Key, NDArray[Any]], key: Key) -> NDArray[Any]:
        if key not in out:
            raise MissingKeyError(f"out: no array for key {key!r}")
        return out[key]

    def trajectory(self, position: int, keys: Sequence[Key] | None = None) -> dict[Key, NDArray[Any]]:
        """Copy a whole trajectory of T states out.

        Args:
            position: of the trajectory in `segments`.
            keys: what to copy; None = everything that is not another's `successor`.

        Returns:
            `{key: [T, ...]}` for keys that have a `successor`, `[T - 1, ...]` for those of transitions.

        Raises:
            OutOfRangeError: there is no such trajectory.
            MissingKeyError: there is no such key.
        """
        segment = self.segments[position]
        following = {key: self.successor(key) for key in (self.keys if keys is None else keys)}
        if keys is None:
            following = {key: after for key, after in following.items() if key not in following.values()}
        index = np.arange(segment.start, segment.start + segment.length)
        count = segment.length
        arrays = {
            key: np.empty((count + (after is not None), *self.shape(key)), self.dtype(key))
            for key, after in following.items()
        }
        self.gather(index, list(arrays), out={key: array[:count] for key, array in arrays.items()})
        ends = [(self._number(after), arrays[key][count:]) for key, after in following.items() if after is not None]
        self.core.gather([number for number, _ in ends], index[-1:], [rows for _, rows in ends], self.num_threads)
        return arrays

    def windows(
        self,
        segment: ArrayLike,
        step: ArrayLike,
        length: int,
        boundary: Boundary = "wrap",
        keys: Sequence[Key] | None = None,
    ) -> dict[Key, NDArray[Any]]:
        """Copy windows of consecutive transitions, each within one trajectory.

        Args:
            segment: int `[B]`, positions of trajectories in `segments`.
            step: int `[B]`, first transition of each window within its trajectory; may be negative.
            length: number of transitions per window.
            boundary: outside the trajectory `"wrap"` continues at its other end, `"clamp"` repeats its first or last
                transition, `"mask"` does the same and adds the key `"mask"`, bool `[B, length]`, false there, and
                `"error"` raises.
            keys: what to copy; None = everything.

        Returns:
            `{key: [B, length, ...]}`.

        Raises:
            OutOfRangeError: no such trajectory, or a window leaves its trajectory with `boundary="error"`.
        """
        names = list(self.keys if keys is None else keys)
        if boundary == "mask" and "mask" in names:
            raise ValueError(
                "boundary='mask' returns its mask as 'mask', which is also a key of the store; name other keys"
            )
        fields, threads = self.field_ids(names), self.num_threads
        arrays, mask = self.core.windows(fields, int64(segment), int64(step), length, boundary, threads)
        windows: dict[Key, NDArray[Any]] = dict(zip(names, arrays, strict=True))
        if mask is not None:
            windows["mask"] = mask.reshape(-1, length)
        return windows

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[Damage]:
        """Compare every byte with its checksum and return what is wrong, nothing if all is well; see `verify_store`.

        Args:
            progress: called with (bytes done, bytes in all) now and then.

        Raises:
            StoreChangedError: the store was rebuilt since it was opened.
            ValueError: a foreign directory, which has no checksums.
        """
        return read_damages(self.core.verify(progress))


def _reopen(path: str, uuid: str, trajectories: int, backend: Backend, num_threads: int | None) -> TrajectoryStore:
    return TrajectoryStore(_core.Store.open_prefix(path, uuid, trajectories, backend), num_threads=num_threads)


def _reopen_foreign(
    path: str, traj_key: Key | None, end_key: Key | None, backend: Backend, num_threads: int | None
) -> TrajectoryStore:
    return TrajectoryStore.from_tensordict_memmap(path, traj_key, end_key, backend=backend, num_threads=num_threads)
