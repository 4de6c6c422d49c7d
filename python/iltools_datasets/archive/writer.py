"""Writing an archive: checked, complete, and there only once it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from zarr.abc.store import Store

from iltools_datasets.archive.layouts import Layout, NestedLayout, PackedLayout, add_groups, add_pack
from iltools_datasets.archive.place import Location, open_place
from iltools_datasets.archive.reader import FORMATS, ArchiveReader
from iltools_datasets.archive.schema import Trajectory, check_name, count_states, is_per_state
from iltools_datasets.archive.targets import ROOT_METADATA, DirectoryTarget, StoreTarget, Target
from iltools_datasets.errors import ArchiveCorruptError, DuplicateTrajectoryError, SchemaError

_LAYOUTS: dict[str, Callable[[Target], Layout]] = {"nested": NestedLayout, "packed": PackedLayout}


class ArchiveWriter:
    """Writes a Zarr v3 archive; use it as a context manager.

    Args:
        path: the Zarr root: a path, a URL such as `s3://bucket/archive.zarr`, or a zarr store.
        overwrite: replace an archive that is there.
        layout: "nested" for `<dataset_source>/<motion>/<trajectory>/<key>`; "packed" to lay the clips of a source back
            to back, for thousands of short ones. `ArchiveReader` reads both alike.
        metadata: a description of the data set, kept in the root's attributes.

    A directory is built beside `path`, brought to disk and renamed, so a reader, or a kill at any time, sees the old
    archive or the new one. Every chunk is written and carries a checksum, and the root says so: a missing or damaged
    one is an error when read. Leaving the block with an exception leaves nothing behind.

    Raises:
        ArchiveExistsError: something is at the path and `overwrite` is False.

    Examples:
        >>> with ArchiveWriter("made.zarr", metadata={"name": "walks of a Tuesday"}) as writer:
        ...     writer.add("lab", "walk", "traj0", {"qpos": np.zeros((50, 7)), "action": np.zeros((49, 2))})
    """

    def __init__(
        self,
        path: Location,
        overwrite: bool = False,
        *,
        layout: Literal["nested", "packed"] = "nested",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if layout not in _LAYOUTS:
            raise ValueError(f"layout must be one of {sorted(_LAYOUTS)}, got {layout!r}")
        self.path = path
        self.metadata: dict[str, Any] | None = None if metadata is None else dict(metadata)
        self._layout_name = layout
        self._overwrite = overwrite
        self._target: Target | None = None
        self._layout: Layout | None = None
        self._names: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._target = _target_at(open_place(self.path, read_only=False), self._overwrite)
        self._layout = _LAYOUTS[self._layout_name](self._target)
        return self

    def add(
        self,
        dataset_source: str,
        motion: str,
        trajectory_name: str,
        arrays: Mapping[str, ArrayLike],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one trajectory: arrays `[T, ...]` by key, and what there is to say about it as JSON.

        Values and dtypes are kept; numpy scalars and arrays among the attributes become numbers and lists.

        Raises:
            SchemaError: a name that cannot be one, an array that is not numeric or bool, arrays that disagree in T, or
                attributes that JSON cannot hold. Nothing of the trajectory has been written then.
            DuplicateTrajectoryError: the trajectory is there already.
        """
        if self._layout is None:
            raise RuntimeError("ArchiveWriter.add works inside a with block only")
        task = (check_name(dataset_source, "dataset source"), check_name(motion, "motion"))
        path = "/".join((*task, check_name(trajectory_name, "trajectory")))
        where = f"{self.path}: {path}"
        checked = {check_name(key, f"{where}: key"): _checked(array, where, key) for key, array in arrays.items()}
        num_states = count_states({key: len(array) for key, array in checked.items()}, where)
        if num_states < 1:
            raise SchemaError(f"{where}: has no states")
        if len({key.casefold() for key in checked}) < len(checked):
            raise SchemaError(f"{where}: keys differ in upper and lower case only: {sorted(checked)}")
        description = _as_json(dict(attributes or {}), where)
        self._refuse_twins(path)
        self._layout.add(task, trajectory_name, checked, num_states, description)
        for name in (dataset_source, "/".join(task), path):
            self._names[name.casefold()] = name

    def take_over(self, reader: ArchiveReader, group: str, clips: Iterable[Trajectory]) -> int:
        """Take a group of another archive as it is, with the chunks of its arrays, linked where that can be.

        The other archive has to be one of this package in a directory: its files are never written to again. A pack
        gets a name that no other has here.

        Args:
            reader: the other archive.
            group: that of a trajectory, or of a pack.
            clips: all that lie in it.

        Returns:
            The bytes that are on the disk once for both.

        Raises:
            DuplicateTrajectoryError: as `add`.
            ArchiveCorruptError: what lies among the chunks is no plain file.
        """
        if self._layout is None or self._target is None:
            raise RuntimeError("ArchiveWriter.take_over works inside a with block only")
        taken = list(clips)
        for clip in taken:
            self._refuse_twins(clip.path)
            for part in (clip.dataset_source, f"{clip.dataset_source}/{clip.motion}", clip.path):
                self._names[part.casefold()] = part
        documents, here = reader.documents_of(group), group
        if taken[0].path == group:
            add_groups(self._layout.nodes, (taken[0].dataset_source, taken[0].motion))
        else:
            here = add_pack(self._layout.nodes, taken[0].dataset_source)
            marks = documents[group]["attributes"].get("iltools", {})
            motions = marks.get("motions", [group.split("/")[1]] * len(taken))
            documents[group]["attributes"]["iltools"] = {**marks, "motions": motions}
        renamed = {path: f"{here}{path.removeprefix(group)}" for path in documents}
        self._layout.nodes.update({renamed[path]: document for path, document in documents.items()})
        shared = 0
        assert isinstance(reader.path, Path)
        for path in documents.keys() - {group}:
            with os.scandir(reader.path / path) as entries:
                for entry in entries:
                    if entry.name == ROOT_METADATA:
                        continue
                    if not entry.is_file(follow_symlinks=False):
                        raise ArchiveCorruptError(f"{entry.path}: is no plain file, expected a chunk")
                    if self._target.link(f"{renamed[path]}/{entry.name}", Path(entry.path)):
                        shared += entry.stat().st_size
        return shared

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        target, layout = self._target, self._layout
        assert target is not None
        assert layout is not None
        self._target = self._layout = None
        if kind is not None:
            target.discard(at_once=issubclass(kind, KeyboardInterrupt))
            return
        try:
            layout.finish()
            documents = {path: _dump(node) for path, node in layout.nodes.items()}
            for path, document in documents.items():
                target.put(f"{path}/{ROOT_METADATA}", document)
            target.publish(self._root(documents))
        except BaseException as failure:
            target.discard(at_once=isinstance(failure, KeyboardInterrupt))
            raise

    def _root(self, documents: Mapping[str, bytes]) -> bytes:
        marks: dict[str, Any] = {"format": FORMATS[self._layout_name], "layout": self._layout_name}
        marks["all_chunks_written"] = True
        if self.metadata is not None:
            marks["metadata"] = _as_json(self.metadata, f"{self.path}: metadata")
        consolidated = {"kind": "inline", "must_understand": False, "metadata": {}}
        root = {"zarr_format": 3, "node_type": "group", "attributes": {"iltools": marks}}
        around = _dump({**root, "consolidated_metadata": consolidated}).removesuffix(b"}}}")
        # zarr-python expects the children of a group to follow each other. They are put together document by document:
        # no signal gets through to one call that writes those of thousands of clips.
        by_depth = sorted(documents, key=lambda path: (path.count("/"), path))
        return around + b",".join(_dump(path) + b":" + documents[path] for path in by_depth) + b"}}}"

    def _refuse_twins(self, path: str) -> None:
        # Names that differ in case only would be one directory on a Mac.
        if self._names.get(path.casefold()) == path:
            raise DuplicateTrajectoryError(f"{self.path}: trajectory {path} is there already")
        source, motion, _ = path.split("/")
        for name in (source, f"{source}/{motion}", path):
            known = self._names.get(name.casefold(), name)
            if known != name:
                raise DuplicateTrajectoryError(f"{self.path}: {name} differs from {known} in upper and lower case only")


def _checked(array: ArrayLike, where: str, key: str) -> NDArray[Any]:
    values = np.asarray(array)
    if not is_per_state(values.dtype, values.shape) or values.dtype.itemsize > 8:
        raise SchemaError(
            f"{where}: {key!r} is {values.dtype} {list(values.shape)}, expected numbers or bools [T, ...]"
        )
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _as_json(value: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(value, default=_plain))
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{where}: attributes cannot be stored as JSON: {error}") from error
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} {value!r}")


def _dump(document: Mapping[str, Any] | str) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _target_at(place: Path | Store, overwrite: bool) -> Target:
    return DirectoryTarget(place, overwrite) if isinstance(place, Path) else StoreTarget(place, overwrite)
