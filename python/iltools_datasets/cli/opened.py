"""An archive or a store, looked at in the same way."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.cli.looked_at import ClipInfo, KeyInfo, Opened, size_on_disk
from iltools_datasets.errors import IltoolsError, MissingKeyError, SourceError, SourceNotFoundError, UnknownSegmentError
from iltools_datasets.motion.description import ATTRIBUTE, declared_rate
from iltools_datasets.store.keys import Key
from iltools_datasets.store.trajectory_store import TrajectoryStore

if TYPE_CHECKING:
    from iltools_datasets.archive.reader import ArchiveReader


def open_path(path: str) -> Opened:
    """Open an archive (a path or a URL), a store or a LeRobot set.

    Raises SourceNotFoundError if there is nothing, and SourceError with what else it is.
    """
    if is_lerobot(path):
        from iltools_datasets.cli.opened_lerobot import OpenedLeRobot

        return OpenedLeRobot(path)
    return OpenedStore(path) if is_store(path) else OpenedArchive(path)


def open_archive(path: str) -> ArchiveReader:
    """Open an archive (a path or a URL).

    Raises SourceNotFoundError if there is nothing, and SourceError with what else it is.
    """
    if "://" not in path:
        if not Path(path).exists():
            raise SourceNotFoundError(f"{path}: no such file or directory")
        if is_store(path):
            raise SourceError(f"{path}: is a store, expected the archive that it was built from")
        taken_for = raw_format(path)
        if taken_for is not None:
            raise SourceError(
                f"{path}: raw files ({taken_for}); make an archive of them with: "
                f"iltools export auto {path} --out ARCHIVE"
            )
        _refuse_what_is_no_zarr(Path(path))
    # Imported here, for a store is looked at without zarr.
    from iltools_datasets.archive.reader import ArchiveReader

    return ArchiveReader(path)


def _refuse_what_is_no_zarr(path: Path) -> None:
    from iltools_datasets.archive.held import ROOT_FILES

    if path.is_dir():
        is_zarr = any((path / name).exists() for name in ROOT_FILES)
    elif is_zarr := zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            is_zarr = any(Path(name).name in ROOT_FILES for name in file.namelist())
    if not is_zarr:
        from iltools_datasets.sources.unrecognised import describe_unrecognised

        raise SourceError(f"{describe_unrecognised(path)} (expected an archive, which is a Zarr group)")


def is_store(path: str) -> bool:
    """Tell whether there is a store, sound or not, at the path."""
    return (Path(path) / "manifest.json").is_file()


def is_lerobot(path: str) -> bool:
    """Tell whether there is a LeRobot set, sound or not, at the path."""
    return "://" not in path and (Path(path) / "meta" / "info.json").is_file()


def raw_format(path: str) -> str | None:
    """Return the format of raw files at the path, or None if there are none of a known one."""
    if "://" in path or ((Path(path) / "zarr.json").is_file() and not (Path(path) / "meta").exists()):
        return None
    from iltools_datasets.sources import recognise

    try:
        return recognise(path).format
    except IltoolsError:
        return None


def find_clip(opened: Opened, wanted: str | None) -> int:
    """Return the position of a clip named by `<task>/<name>`, by its name or by its number; None is the longest."""
    if wanted is None:
        return int(np.argmax([clip.num_states for clip in opened.clips]))
    for position, clip in enumerate(opened.clips):
        if wanted in (clip.path, clip.name):
            return position
    if wanted.isdigit() and int(wanted) in opened.numbers:
        return opened.numbers.index(int(wanted))
    raise UnknownSegmentError(
        f"{opened.path}: no clip {wanted!r}; there are {len(opened.clips)}, the first is {opened.clips[0].path!r}"
    )


class OpenedArchive:
    """A Zarr archive."""

    kind: Literal["archive", "store", "LeRobot set"] = "archive"

    def __init__(self, path: str) -> None:
        self.path = path
        self._reader = open_archive(path)
        names = {task.task_id: task.name for task in self._reader.tasks}
        trajectories = self._reader.trajectories
        if not trajectories:
            raise SourceError(f"{path}: holds no trajectory; expected <dataset_source>/<motion>/<trajectory>/<key>")
        self.clips = [
            ClipInfo(
                names[entry.task_id], entry.name, entry.num_states, declared_rate(entry.attributes), entry.lacks_next
            )
            for entry in trajectories
        ]
        self.numbers: Sequence[int] = range(len(self.clips))
        rows: dict[str, dict[tuple[np.dtype[Any], tuple[int, ...]], list[int]]] = {}
        for entry in trajectories:
            for key, spec in entry.keys.items():
                rows.setdefault(key, {}).setdefault((spec.dtype, spec.shape[1:]), []).append(spec.shape[0])
        self.keys = {
            key: _key_info([(dtype.name, shape) for dtype, shape in kinds], sum(map(len, kinds.values())))
            for key, kinds in rows.items()
        }
        self.array_bytes: int | None = sum(
            sum(lengths) * prod(shape) * dtype.itemsize
            for kinds in rows.values()
            for (dtype, shape), lengths in kinds.items()
        )
        self.notes = [f"left out: {line}" for line in self._reader.skipped]
        self.notes += [f"does not fit together: {clip.path}: {clip.misfit}" for clip in self._reader.misfits]

    @property
    def bytes_on_disk(self) -> int | None:
        """Bytes of all files, None behind a URL; each is looked at."""
        return size_on_disk(self.path)

    def attributes(self, position: int) -> Mapping[str, Any]:
        """Return the attributes of a clip."""
        return self._reader.trajectories[position].attributes

    def read(self, position: int, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return whole arrays of a clip."""
        return self._reader.read(self._reader.trajectories[position], keys)


class OpenedStore:
    """A store."""

    kind: Literal["archive", "store", "LeRobot set"] = "store"

    def __init__(self, path: str) -> None:
        self.path = path
        self._store = store = TrajectoryStore.open(path)
        names = store.task_names
        self._motion = _motion_of(store)
        rates = _rates_of(self._motion.get("fps"), store.num_trajectories)
        has_states = any(store.successor(key) is not None for key in store.keys)
        self.clips = [
            ClipInfo(
                names.get(segment.task_id, f"task {segment.task_id}"),
                name or f"trajectory {segment.traj_id}",
                segment.length + has_states,
                rate,
                not has_states,
            )
            for segment, name, rate in zip(store.segments, store.trajectory_names, rates, strict=True)
        ]
        self.numbers: Sequence[int] = range(len(self.clips))
        self.keys = {
            _text(key): KeyInfo(store.dtype(key).name, store.shape(key), len(self.clips)) for key in store.keys
        }
        self._parts = {_text(key): key for key in store.keys}
        self.array_bytes: int | None = None  # keys share columns
        self.notes: list[str] = []
        if store.is_growing:
            self.notes.append("this store grows: whoever records it finishes it, or, if it died, iltools repair")

    @property
    def bytes_on_disk(self) -> int | None:
        """Bytes of the store's files."""
        return self._store.bytes_on_disk

    @property
    def is_growing(self) -> bool:
        """Whether it was opened while it grew."""
        return self._store.is_growing

    def returns(self) -> NDArray[np.float64] | None:
        """Return the sum of each trajectory's rewards, [K]; None if there are no rewards."""
        key = next((key for key in self._store.keys if key in ("reward", ("next", "reward"))), None)
        if key is None or not len(self._store):
            return None
        sums = []
        for segment in self._store.segments:
            rows = np.arange(segment.start, segment.start + segment.length)
            sums.append(self._store.gather(rows, [key])[key].sum(dtype=np.float64))
        return np.array(sums)

    def attributes(self, position: int) -> Mapping[str, Any]:
        """Return what a store says of all its clips: names, and the order of quaternions."""
        return self._motion

    def read(self, position: int, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return whole columns of a clip."""
        names = list(keys)
        for name in names:
            if name not in self._parts:
                raise MissingKeyError(f"{self.path}: no key {name!r}; there are {sorted(self.keys)}")
        arrays = self._store.trajectory(position, [self._parts[name] for name in names])
        return {name: arrays[self._parts[name]] for name in names}


def _motion_of(store: TrajectoryStore) -> dict[str, Any]:
    """Return what a store says of its motion, as far as it does."""
    told = store.attributes.get(ATTRIBUTE)
    return {name: value for name, value in told.items() if value is not None} if isinstance(told, dict) else {}


def _rates_of(fps: object, count: int) -> list[float | None]:
    """Return the rate of each of so many clips; of a store that is longer by now, those of its first ones."""
    told = fps[:count] if isinstance(fps, list) and len(fps) >= count else [fps] * count
    return [float(rate) if isinstance(rate, int | float) and rate > 0 else None for rate in told]


def _key_info(rows: Sequence[tuple[str, tuple[int, ...]]], num_clips: int) -> KeyInfo:
    return KeyInfo(*rows[0], num_clips, tuple(rows[1:]))


def _text(key: Key) -> str:
    return key if isinstance(key, str) else "/".join(key)
