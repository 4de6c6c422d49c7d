"""Reading an archive: what it holds, in an order every machine agrees on, and its rows."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store

from iltools_datasets.archive.chunks import native_dtype, stated_shape
from iltools_datasets.archive.contents import Clip, find_clips
from iltools_datasets.archive.held import HeldPlace, hold
from iltools_datasets.archive.listing import Hierarchy, list_hierarchy
from iltools_datasets.archive.place import Location, as_path_or_url
from iltools_datasets.archive.rows import RowRange, RowReader
from iltools_datasets.archive.schema import ArraySpec, Task, Trajectory, natural_key
from iltools_datasets.errors import (
    ArchiveChangedError,
    MissingKeyError,
    OutOfRangeError,
    SourceError,
    SourceNotFoundError,
    UnknownSegmentError,
)

FORMATS = {"nested": 1, "packed": 2}
"""Layout -> version of the archive format this release writes; it reads all of them. Packs of format 1 hold one motion
each, whose name is that of their group."""

_READ_AHEAD_BYTES = 32 << 20
_GROUP_BYTES = 1 << 20
_ATTEMPTS = 3


class ArchiveReader:
    """A Zarr archive of expert motion, nested or packed, Zarr format 2 or 3, local or in an object store.

    Args:
        path: the Zarr root: a path, a URL such as `s3://bucket/archive.zarr`, or a zarr store.

    Everything is listed and checked at once: all arrays of a trajectory should agree in T (keys of
    `schema.TRANSITION_KEYS` may have T - 1 rows). Where they do not, the trajectory's `misfit` says so, and T is that
    of its longest array. Arrays that are no rows per state (scalars, text) and arrays outside the layout are left out
    and named in `skipped`.

    Attributes:
        tasks: every (dataset_source, motion), natural-sorted, numbered from 0.
        trajectories: every clip, by task and natural-sorted within it; traj_id restarts at 0 in each task.
        attributes: attributes of the root group.
        all_chunks_written: whether the archive vows that every chunk was written, so that a missing one is damage.
        skipped: a line for each array that was left out.

    Raises:
        SourceNotFoundError: there is nothing at the path.
        SourceError: it is no archive, its metadata is damaged or of a newer format.

    Examples:
        >>> archive = ArchiveReader("walks.zarr")
        >>> [(clip.path, clip.length) for clip in archive.trajectories]
        [('lab/walk/traj0', 50), ('lab/walk/traj1', 30), ('lab/walk/traj2', 20)]
        >>> archive.read(archive.trajectories[0], ["qpos"], 10, 12)["qpos"].shape
        (2, 7)
    """

    def __init__(self, path: Location) -> None:
        self.path = path if isinstance(path, Store) else as_path_or_url(path)
        place, hierarchy = _hold_and_list(self.path)
        self.attributes: Mapping[str, Any] = hierarchy.attributes
        marks = self.attributes.get("iltools", {})
        if not isinstance(marks, dict) or marks.get("format", 1) not in FORMATS.values():
            found = marks.get("format") if isinstance(marks, dict) else marks
            raise SourceError(f"{self.path}: archive format {found}, this release reads {sorted(FORMATS.values())}")
        self.all_chunks_written = bool(marks.get("all_chunks_written", False))
        self._rows = RowReader(place, self.all_chunks_written, hierarchy.is_consolidated)
        self._nodes = hierarchy.arrays
        self._group_attributes = hierarchy.groups
        self._place = place
        try:
            clips, self.skipped = find_clips(str(self.path), hierarchy, self._whole_array)
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise SourceError(f"{self.path}: damaged attributes of a group: {error}") from error
        names = sorted({clip.task for clip in clips}, key=lambda task: tuple(map(natural_key, task)))
        self.tasks: list[Task] = [Task(number, *name) for number, name in enumerate(names)]
        self._clips: dict[tuple[int, int], Clip] = {}
        self.trajectories: list[Trajectory] = self._number(clips)

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The data set's description: from the root's attributes, else a `meta.json` beside or inside, else None."""
        described = self.attributes.get("iltools", {}).get("metadata")
        if described is not None:
            return dict(described)
        if isinstance(self.path, Path):
            for place in (self.path.parent / "meta.json", self.path / "meta.json"):
                if place.is_file():
                    return read_metadata(place)
        return None

    @property
    def missing_chunks(self) -> dict[str, int]:
        """Array path -> number of its chunks that were not there and were read as the fill value, so far."""
        return dict(self._rows.missing)

    @property
    def unchecked(self) -> list[str]:
        """Paths of the arrays whose chunks carry no checksum: what was altered in them, nobody can tell."""
        places = {clip.place(key)[0] for clip in self._clips.values() for key in clip.keys}
        return sorted(path for path in places if not self._rows.is_checked(self._nodes[path]))

    @property
    def misfits(self) -> list[Trajectory]:
        """Trajectories whose arrays do not fit together."""
        return [trajectory for trajectory in self.trajectories if trajectory.misfit is not None]

    @property
    def is_current(self) -> bool:
        """Whether the archive is still the one at its place."""
        return self._place.is_current()

    @property
    def is_packed(self) -> bool:
        """Whether trajectories lie behind one another in the arrays of a pack."""
        return any(self.group_of(trajectory) != trajectory.path for trajectory in self.trajectories)

    @property
    def lends_files(self) -> bool:
        """Whether its files may be those of another archive, too: they are local, all there, and written only once."""
        return self.all_chunks_written and isinstance(self.path, Path) and self.path.is_dir()

    def group_of(self, trajectory: Trajectory) -> str:
        """Return the path of the group whose arrays hold a trajectory: its own, or that of its pack."""
        return self._clip(trajectory).group

    def documents_of(self, group: str) -> dict[str, dict[str, Any]]:
        """Return the metadata of a group and of its arrays, by path."""
        attributes = dict(self._group_attributes.get(group, {}))
        documents = {path: dict(self._nodes[path]) for path in self._arrays_of[group]}
        return {group: {"zarr_format": 3, "node_type": "group", "attributes": attributes}, **documents}

    @cached_property
    def _arrays_of(self) -> dict[str, list[str]]:
        arrays: dict[str, list[str]] = {}
        for path in self._nodes:
            arrays.setdefault(path.rpartition("/")[0], []).append(path)
        return arrays

    def trajectory(self, task_id: int, traj_id: int) -> Trajectory:
        """Return the trajectory with these ids; UnknownSegmentError (a KeyError) if there is none."""
        if (task_id, traj_id) not in self._clips:
            raise UnknownSegmentError(f"{self.path}: no trajectory {traj_id} in task {task_id}")
        return self.trajectories[self._first[task_id] + traj_id]

    def read(
        self, trajectory: Trajectory, keys: Iterable[str] | None = None, start: int = 0, stop: int | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) of a trajectory's arrays, by default whole, as fresh writable arrays.

        Big reads are spread over threads. Rows of a partial read come from chunks that stay decoded for the next one
        (up to 32 MiB), so walking through a clip in windows decodes every chunk once.

        Raises:
            MissingKeyError: the trajectory has no such key.
            OutOfRangeError: the rows lie outside the trajectory. An array with T - 1 rows ends one row earlier.
            ArchiveCorruptError: a chunk is damaged, or missing from an archive that vows to hold all.
            ArchiveChangedError: the archive was replaced since it was opened, and these rows went with the old one.
        """
        clip = self._clip(trajectory)
        names = list(clip.keys) if keys is None else list(keys)
        last = trajectory.num_states if stop is None else stop
        if not 0 <= start <= last <= trajectory.num_states:
            raise OutOfRangeError(
                f"{self.path}: {trajectory.path}: rows [{start}, {last}) of {trajectory.num_states} states"
            )
        ranges = [self._range(clip, trajectory, key, start, last) for key in names]
        return dict(zip(names, self._rows.read(ranges), strict=True))

    def stream(
        self, trajectories: Iterable[Trajectory] | None = None, keys: Sequence[str] | None = None
    ) -> Iterator[tuple[Trajectory, dict[str, NDArray[Any]]]]:
        """Yield (trajectory, its arrays) in order, reading the next ones while the caller works on this one.

        Short clips are read some dozens at a time. At most 32 MiB are read ahead, by one thread of the reader's for all
        its streams; a bigger clip is read when its turn comes.
        """
        wanted = self.trajectories if trajectories is None else trajectories
        pending: deque[tuple[list[Trajectory], Future[list[dict[str, NDArray[Any]]]], int]] = deque()
        waiting = 0
        try:
            for group, size in self._groups(wanted, keys):
                while pending and waiting + size > _READ_AHEAD_BYTES:
                    done, arrays, bytes_done = pending.popleft()
                    yield from zip(done, self._read_ahead(arrays, done, keys), strict=True)
                    waiting -= bytes_done
                pending.append((group, self._rows.submit_ahead(partial(self._read_group, group, keys)), size))
                waiting += size
            while pending:
                done, arrays, _ = pending.popleft()
                yield from zip(done, self._read_ahead(arrays, done, keys), strict=True)
        finally:
            for _, arrays, _ in pending:
                arrays.cancel()

    def _groups(
        self, trajectories: Iterable[Trajectory], keys: Sequence[str] | None
    ) -> Iterator[tuple[list[Trajectory], int]]:
        """Yield runs of trajectories that are worth handing to another thread, and their bytes."""
        group: list[Trajectory] = []
        total = 0
        for trajectory in trajectories:
            size = self._bytes(trajectory, keys)
            if group and total + size > _GROUP_BYTES:
                yield group, total
                group, total = [], 0
            group.append(trajectory)
            total += size
        if group:
            yield group, total

    def _read_ahead(
        self, ahead: Future[list[dict[str, NDArray[Any]]]], group: list[Trajectory], keys: Sequence[str] | None
    ) -> list[dict[str, NDArray[Any]]]:
        try:
            return ahead.result()
        except CancelledError:
            # The reader was closed meanwhile, and opens again.
            return self._read_group(group, keys)

    def _read_group(self, group: list[Trajectory], keys: Sequence[str] | None) -> list[dict[str, NDArray[Any]]]:
        return [self.read(trajectory, keys) for trajectory in group]

    def close(self) -> None:
        """End the threads, and let go of decoded chunks and of the archive. Reading again opens it again."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.trajectories)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def __repr__(self) -> str:
        return f"ArchiveReader({str(self.path)!r}: {len(self.tasks)} tasks, {len(self)} trajectories)"

    def _number(self, clips: list[Clip]) -> list[Trajectory]:
        task_ids = {(task.dataset_source, task.motion): task.task_id for task in self.tasks}
        clips.sort(key=lambda clip: (task_ids[clip.task], natural_key(clip.name)))
        trajectories: list[Trajectory] = []
        self._first: dict[int, int] = {}
        for position, clip in enumerate(clips):
            task_id = task_ids[clip.task]
            traj_id = position - self._first.setdefault(task_id, position)
            self._clips[task_id, traj_id] = clip
            path = "/".join((*clip.task, clip.name))
            trajectories.append(
                Trajectory(task_id, traj_id, clip.name, path, clip.num_states, clip.keys, clip.attributes, clip.misfit)
            )
        return trajectories

    def _clip(self, trajectory: Trajectory) -> Clip:
        clip = self._clips.get((trajectory.task_id, trajectory.traj_id))
        if clip is None or clip.name != trajectory.name:
            raise UnknownSegmentError(f"{self.path}: has no trajectory {trajectory.path!r}")
        return clip

    def _range(self, clip: Clip, trajectory: Trajectory, key: str, start: int, stop: int) -> RowRange:
        if key not in clip.keys:
            raise MissingKeyError(f"{self.path}: {trajectory.path}: no key {key!r}, there are {sorted(clip.keys)}")
        path, first = clip.place(key)
        node = self._nodes[path]
        rows, dtype = clip.keys[key].shape[0], clip.keys[key].dtype
        spec = ArraySpec(stated_shape(node), dtype)
        if not rows:
            return RowRange(path, node, spec, 0, 0)
        return RowRange(path, node, spec, first + min(start, rows), first + min(stop, rows))

    def _bytes(self, trajectory: Trajectory, keys: Sequence[str] | None) -> int:
        wanted = trajectory.keys if keys is None else [key for key in keys if key in trajectory.keys]
        specs = [trajectory.keys[key] for key in wanted]
        return sum(int(np.prod(spec.shape)) * spec.dtype.itemsize for spec in specs)

    def _whole_array(self, path: str) -> NDArray[Any]:
        node = self._nodes[path]
        dtype = native_dtype(node)
        assert dtype is not None
        spec = ArraySpec(stated_shape(node), dtype)
        return self._rows.read([RowRange(path, node, spec, 0, spec.shape[0])])[0]


def _hold_and_list(location: Location) -> tuple[HeldPlace, Hierarchy]:
    """Hold an archive and list it, both of the same one, even if it is being replaced."""
    for attempt in range(_ATTEMPTS):
        place = hold(location)
        try:
            hierarchy = list_hierarchy(place)
        except (SourceError, OSError):
            if attempt + 1 == _ATTEMPTS or place.is_current():
                place.close()
                raise
        else:
            if place.is_current():
                return place, hierarchy
        place.close()
    raise ArchiveChangedError(f"{location}: is replaced again and again while it is opened")


def description_at(path: Location) -> dict[str, Any] | None:
    """Return the metadata an archive of this package was written with, without listing it; None if there is none."""
    try:
        place = hold(path)
    except SourceNotFoundError:
        return None
    content = place.read("zarr.json")
    place.close()
    if content is None:
        return None
    try:
        described = json.loads(content)["attributes"]["iltools"]["metadata"]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: expected an archive that says what it is, found none: {error!r}") from error
    return dict(described)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the JSON object in a `meta.json`; SourceError if it is not one."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise SourceError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise SourceError(f"{path}: expected a JSON object, found {type(document).__name__}")
    return document
