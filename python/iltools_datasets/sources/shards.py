"""A data set of raw files in parts: which files belong together, a part as an archive, and the parts as one again."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from iltools_datasets._base.object_storage import RemoteDirectory
from iltools_datasets.archive.reader import ArchiveReader, description_at
from iltools_datasets.archive.schema import Trajectory, natural_key
from iltools_datasets.archive.writer import ArchiveWriter
from iltools_datasets.errors import ArchiveExistsError, IltoolsError, SourceError
from iltools_datasets.sources.export import describe
from iltools_datasets.sources.fetched import Fetched
from iltools_datasets.sources.protocol import Recording, Source, SourceFile
from iltools_datasets.sources.readers import read_file
from iltools_datasets.sources.registry import is_claimed, open_sources, recognise
from iltools_datasets.sources.unrecognised import UnrecognisedSource, describe_unrecognised

_LAYOUT = 1
"""Counted up when the same files would give another shard."""
_ROOTS = ("zarr.json", ".zgroup", ".zarray")
_ABOUT = "meta/info.json"
_MAIN = "qpos.npy"


@dataclass(frozen=True, slots=True)
class Shard:
    """Files that one task reads, and where it writes what is in them.

    Attributes:
        root: directory of the data set: a URL, or a path that all machines have.
        files: bytes by name below it.
        archive: where the shard lies; its name is a digest of the files, of their sizes and of what is done to them.
        options: of the sources, as `open_sources` takes them.
        fps: rate to resample to, None for that of each file.
        keep_going: whether a file that cannot be read is left out.
    """

    root: str
    files: Mapping[str, int]
    archive: str
    format: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    fps: float | None = None
    keep_going: bool = False


def plan_shards(
    root: str, files: Mapping[str, int], parts: str, units: int, *, format: str = "auto",
    options: Mapping[str, Any] | None = None, fps: float | None = None, keep_going: bool = False,
) -> list[Shard]:  # fmt: skip
    """Return shards of so many units, a unit being a file or a directory that is one thing (Zarr, LeRobot, npy)."""
    whole = _directories_that_are_one(files)
    by_unit: dict[str, dict[str, int]] = {}
    for name in sorted(files, key=lambda name: [natural_key(part) for part in name.split("/")]):
        above = ["/".join(name.split("/")[:depth]) for depth in range(name.count("/") + 1)]
        unit = next((directory for directory in above if directory in whole), name)
        by_unit.setdefault(unit, {})[name] = files[name]
    wanted = list(by_unit.values())
    shards = []
    for first in range(0, len(wanted), units):
        own = {name: size for unit in wanted[first : first + units] for name, size in unit.items()}
        about = [_LAYOUT, root, list(own.items()), format, options, fps, keep_going]
        digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=12).hexdigest()
        shards.append(Shard(root, own, f"{parts}/{digest}.zarr", format, options or {}, fps, keep_going))
    return shards


def _directories_that_are_one(files: Mapping[str, int]) -> set[str]:
    whole = set()
    for name in files:
        directory, _, last = name.rpartition("/")
        if last in _ROOTS or last.endswith(_MAIN):
            whole.add(directory)
        elif f"/{name}".endswith(f"/{_ABOUT}"):
            whole.add(name.removesuffix(_ABOUT).rstrip("/"))
    return whole


def write_shard(shard: Shard) -> bool:
    """Fetch a shard's files, and write what is in them; False if it was there already.

    Each clip's name in the archive is the number of its file and its own within that.

    Raises:
        SourceError: a file is damaged or not what it claims to be, and the shard does not keep going.
        StorageError: files cannot be fetched, or the archive cannot be written.
    """
    if description_at(shard.archive) is not None:
        return False
    remote = RemoteDirectory(shard.root)
    with tempfile.TemporaryDirectory(prefix="iltools-shard-") as scratch:
        copy = Path(scratch) / (remote.url.rpartition("/")[2] or "root")
        remote.fetch(shard.files, copy)
        names = Fetched([copy], {copy: remote.url})
        try:
            _write(shard, copy, names)
        except ArchiveExistsError:  # an attempt that was given up for dead was not
            return False
        except IltoolsError as error:
            raise type(error)(names.in_urls(str(error))) from error
    return True


def _write(shard: Shard, copy: Path, names: Fetched) -> None:
    described: list[dict[str, Any]] = []
    notes: list[str] = []
    sources: list[Source] = []
    try:
        if shard.format == "auto":
            recognise(copy)
    except SourceError as error:
        claimed = {name: describe_unrecognised(copy / name) for name in shard.files if is_claimed(copy / name)}
        if claimed and not shard.keep_going:
            raise SourceError(next(iter(claimed.values()))) from error
        described += [_entry(name, UnrecognisedSource, name, 0, reason) for name, reason in claimed.items()]
        notes += [] if claimed else [str(error)]
    else:
        sources = open_sources([copy], shard.format, **shard.options)
    with ArchiveWriter(shard.archive, layout="packed") as writer:
        for source in sources:
            for file in source.wanted_files():
                count, failure = 0, None
                try:
                    for index, recording in enumerate(read_file(source, file, shard.fps)):
                        attributes = describe(source, file, index, recording)
                        name = f"{len(described):08d}-{index:08d}"
                        writer.add(source.dataset_source, file.motion, name, recording.arrays, attributes)
                        count += 1
                except IltoolsError as error:
                    if not shard.keep_going:
                        raise
                    failure = str(error)
                path = str(file.path.relative_to(copy))
                described.append(_entry(path, source, file.motion, count, failure))
        notes += [note for source in sources for note in source.notes]
        for entry in described:
            entry["failure"] = entry["failure"] and names.in_urls(entry["failure"])
        writer.metadata = {"files": described, "notes": [names.in_urls(note) for note in notes]}


def _entry(path: str, source: Source | type[Source], motion: str, clips: int, failure: str | None) -> dict[str, Any]:
    first = source.dataset_source if isinstance(source, Source) else source.format
    return {
        "path": path, "format": source.format, "dataset_source": first, "motion": motion, "clips": clips,
        "failure": failure,
    }  # fmt: skip


class ShardedSource(Source):
    """The files of one format out of all shards of a data set, read from their archives."""

    format, summary = "sharded", "files that were read already"

    def __init__(self, root: str, format: str, dataset_source: str) -> None:
        self.format, self._dataset_source = format, dataset_source  # type: ignore[misc]
        self.path, self.motion = Path(root.rstrip("/").rpartition("/")[2]), None
        self.notes, self._told, self.only = [], {}, None
        self._files: list[SourceFile] = []
        self._places: dict[Path, tuple[str, list[str]]] = {}
        self._failures: dict[Path, str] = {}
        self._archive = ""
        self._reader: ArchiveReader | None = None
        self._clips: Iterator[tuple[Trajectory, Mapping[str, NDArray[Any]]]] = iter(())

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return False

    @property
    def dataset_source(self) -> str:
        return self._dataset_source

    def take(self, archive: str, number: int, entry: Mapping[str, Any]) -> None:
        """Have one more file: the `number`-th of a shard, as its archive describes it."""
        file = SourceFile(Path(entry["path"]), entry["motion"])
        task = f"{entry['dataset_source']}/{entry['motion']}"
        self._files.append(file)
        if entry["failure"] is not None:
            self._failures[file.path] = entry["failure"]
        self._places[file.path] = archive, [f"{task}/{number:08d}-{index:08d}" for index in range(entry["clips"])]

    def files(self) -> list[SourceFile]:
        return self._files

    def read(self, file: SourceFile) -> Iterator[Recording]:
        archive, paths = self._places[file.path]
        if paths and archive != self._archive:
            self._open(archive)
        for path in paths:
            clip, arrays = next(self._clips)
            assert clip.path == path, (clip.path, path)  # files are read in order, each once
            said = dict(clip.attributes)
            yield Recording(
                arrays,
                fps=said.get("fps"),
                quaternions={key: tuple(columns) for key, columns in said.get("quaternions", {}).items()},
                quaternion_order=said.get("quaternion_order", "wxyz"),
                velocities=said.get("velocities", {}),
                attributes=said,
            )
        if file.path in self._failures:
            raise SourceError(self._failures[file.path])

    def _open(self, archive: str) -> None:
        """Begin with the clips of this format in a shard, of which chunks are read once and not for each clip.

        The reader is closed here and not by an iterator, which the garbage collector might end: see `RowReader`.
        """
        if self._reader is not None:
            self._reader.close()
        self._archive, self._reader = archive, ArchiveReader(archive)
        clips = {clip.path: clip for clip in self._reader.trajectories}
        own = [path for place, paths in self._places.values() if place == archive for path in paths]
        self._clips = self._reader.stream([clips[path] for path in own])


def joined(root: str, shards: Sequence[Shard]) -> list[Source]:
    """Return the sources that give what is in finished shards, in the order of one process.

    Reading a file that was left out raises what there was to say of it.
    """
    sources: dict[str, ShardedSource] = {}
    notes: list[str] = []
    for shard in shards:
        about = description_at(shard.archive)
        assert about is not None
        for number, entry in enumerate(about["files"]):
            found = sources.setdefault(entry["format"], ShardedSource(root, entry["format"], entry["dataset_source"]))
            found.take(shard.archive, number, entry)
        notes += about["notes"]
    if not sources:
        raise SourceError("\n".join([f"{root}: nothing to export", *notes]))
    next(iter(sources.values())).notes += dict.fromkeys(notes)
    return list(sources.values())
