"""Several stores as one, without copying the files of the first."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from iltools_datasets import _core
from iltools_datasets._base.bfloat16 import as_bfloat16
from iltools_datasets._base.files import Maker, link_or_copy, make_directory, sync_directory, sync_tree
from iltools_datasets._base.local_path import local_path
from iltools_datasets._base.plain_json import as_json
from iltools_datasets.errors import (
    ArgumentError,
    DuplicateTrajectoryError,
    SchemaError,
    StoreBusyError,
    StoreExistsError,
)
from iltools_datasets.ingest.add_clips import Numbers, described, joined
from iltools_datasets.motion.description import ATTRIBUTE
from iltools_datasets.store.keys import Key, parts_of
from iltools_datasets.store.trajectory_store import TrajectoryStore

_Layout = dict[tuple[str, ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class CombinedStores:
    """What became of the parts: how many clips and transitions there are, and the bytes on the disk once for both."""

    path: str
    parts: tuple[str, ...]
    num_clips: int
    num_transitions: int
    shared_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, ready for JSON."""
        return asdict(self)


def combine_stores(parts: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]) -> CombinedStores:
    """Join stores of one schema into one: the first, longer, with its uuid.

    The files of the first are hard links in the new one: they are read-only, and no build writes to a file that is
    there, so neither store can change the other, and each may be removed by itself. The trajectories of the others are
    added behind (see `add_clips`), as rows of one column lie behind one another; those are copied. So are all files
    where the file system has no links. Tasks of one name are one task; a state saved on the first goes on.

    Args:
        parts: two stores or more.
        path: directory of the new store, where nothing is.

    Raises:
        ArgumentError: fewer than two parts.
        StoreNotFoundError, StoreCorruptError: a part is missing or damaged.
        StoreBusyError: a part grows.
        DuplicateTrajectoryError: a part is given twice, or trajectories of two have one name.
        SchemaError: a part has other columns, names, kinds or order of quaternions than the first.
        StoreExistsError: something is at the path. Nothing is left of the new store after an error.
    """
    if len(parts) < 2:
        raise ArgumentError(f"expected at least two stores to join, found {len(parts)}")
    place = local_path(path)
    if place.exists():
        raise StoreExistsError(f"{place}: is there already; stores are joined in a new directory")
    stores = [TrajectoryStore.open(local_path(part)) for part in parts]
    _refuse_doubles(stores)
    for store in stores[1:]:
        _check_schema(store, stores[0])
    make_directory(place.parent)
    stage, maker = place.parent / f".{place.name}.partial-{uuid.uuid4().hex}", Maker()
    try:
        shared = _link(stores[0], stage)
        for store in stores[1:]:
            _append(store, stage)
        (stage / ".lock").unlink(missing_ok=True)
        sync_tree(stage)
        stage.rename(place)
        sync_directory(place.parent)
    finally:
        maker.remove_tree(stage)
    whole = TrajectoryStore.open(place)
    return CombinedStores(str(place), tuple(map(str, parts)), whole.num_trajectories, len(whole), shared)


def _refuse_doubles(stores: Sequence[TrajectoryStore]) -> None:
    by_uuid: dict[str, TrajectoryStore] = {}
    by_clip: dict[str, TrajectoryStore] = {}
    for store in stores:
        if store.is_growing:
            raise StoreBusyError(f"{store.path}: grows; it can be joined once it is finished")
        other = by_uuid.setdefault(store.uuid, store)
        if other is not store:
            raise DuplicateTrajectoryError(f"{store.path}: is the same store as {other.path} (uuid {store.uuid})")
        for clip, name in zip(store.trajectory_paths, store.trajectory_names, strict=True):
            other = by_clip.setdefault(clip, store)
            if other is not store and name is not None:
                raise DuplicateTrajectoryError(f"trajectory {clip}: is in {other.path} and in {store.path}")


def _layout(store: TrajectoryStore) -> _Layout:
    return {
        field.key: (field.column, field.rows, field.offset, field.dtype, tuple(field.shape)) for field in store.layout
    }


def _check_schema(store: TrajectoryStore, first: TrajectoryStore) -> None:
    found, expected = _layout(store), _layout(first)
    for key in dict.fromkeys([*expected, *found]):
        if found.get(key) != expected.get(key):
            raise SchemaError(
                f"{store.path}: key {'/'.join(key)!r}: expected {_show(expected.get(key))} as in {first.path}, "
                f"found {_show(found.get(key))}"
            )
    joined(first, described(store), store.num_trajectories, str(store.path))


def _show(field: tuple[Any, ...] | None) -> str:
    return "none" if field is None else f"{field[3]} {list(field[4])} per {field[1]}, of {'/'.join(field[0])!r}"


def _link(store: TrajectoryStore, stage: Path) -> int:
    """Make a store at `stage` of the files of another; return the bytes that are on the disk once for both."""
    shared = 0
    stage.mkdir()
    shutil.copyfile(store.path / "manifest.json", stage / "manifest.json")
    for directory in map(Path, store.core.data_dirs):
        for file in directory.rglob("*"):
            target = stage / file.relative_to(store.path)
            if file.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if link_or_copy(file, target):
                shared += file.stat().st_size
    return shared


def _append(store: TrajectoryStore, stage: Path) -> None:
    """Add the trajectories of a store to the one at `stage`."""
    whole = TrajectoryStore.open(stage)
    attributes = whole.attributes
    motion = joined(whole, described(store), store.num_trajectories, str(store.path))
    attributes[ATTRIBUTE] = motion.as_attribute()
    attributes["joined"] = [
        *attributes.get("joined", []),
        {"uuid": store.uuid, "num_trajectories": store.num_trajectories, "attributes": store.attributes},
    ]
    numbers = Numbers(whole)
    columns: dict[str, list[Key]] = {"state": [], "transition": []}
    views = []
    for key, field in zip(store.keys, store.layout, strict=True):
        if field.rows == "next_state":
            continue
        if field.key == field.column:
            columns[field.rows].append(key)
        else:
            offset = field.offset // store.dtype(key).itemsize
            views.append((parts_of(key), tuple(field.column), offset, tuple(field.shape)))
    task_names: dict[int, str] = {}
    writer = _core.StoreWriter.add(str(stage))
    try:
        for position, (segment, name) in enumerate(zip(store.segments, store.trajectory_names, strict=True)):
            task_name = store.task_names.get(segment.task_id, f"task {segment.task_id}")
            task, number = numbers.of_next(task_name)
            if segment.task_id in store.task_names:
                task_names[task] = task_name
            arrays = store.trajectory(position, [*columns["state"], *columns["transition"]])
            for key in filter(store.is_bfloat16, arrays):
                arrays[key] = as_bfloat16(arrays[key])
            rows = {kind: [(parts_of(key), arrays[key]) for key in keys] for kind, keys in columns.items()}
            writer.append(task, number, name, rows["state"], rows["transition"], views)
        writer.set_attributes(as_json(attributes, "attributes"))
        writer.publish(task_names)
    except BaseException:
        writer.abort()
        raise
