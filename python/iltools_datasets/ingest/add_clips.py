"""Adding the clips of archives to a store that was built of others."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iltools_datasets._base.local_path import local_path
from iltools_datasets.errors import ArgumentError, DuplicateTrajectoryError, SchemaError, StoreChangedError
from iltools_datasets.ingest.archives import Archives, Place, Select
from iltools_datasets.ingest.from_archive import BUILT_FROM, naming, refuse_within, report_of, write_clips
from iltools_datasets.ingest.options import ExportOptions
from iltools_datasets.ingest.plan import plan_export
from iltools_datasets.motion.description import ATTRIBUTE, Description, describe, disagreement, merged
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.trajectory_store import TrajectoryStore

if TYPE_CHECKING:
    from iltools_datasets.archive.schema import Trajectory
    from iltools_datasets.ingest.report import BuildReport


def add_clips(
    zarr_path: Place | Sequence[Place],
    store_path: str | os.PathLike[str],
    *,
    select: Select = (),
    skip_present: bool = False,
    progress: bool | None = None,
) -> tuple[Path, BuildReport]:
    """Add the clips of an archive, or of several, to a store; return its path and a report of what was added.

    They become columns by the options that the store was built by, and come behind the clips that are there: a motion
    that the store has goes on where its numbers end, one that is new gets the next number, in natural order. What is
    there keeps its files, its numbers and its rows' index. Loops that run on the store are not disturbed, and take in
    what is new when they `refresh`.

    Args:
        zarr_path: the archive, or several, as in `build_store`.
        store_path: the directory of the store.
        select: which clips, as in `build_store`.
        skip_present: leave out clips of names that the store has, which are an error otherwise. Their values are not
            compared.
        progress: show a progress bar; None shows one on a terminal if rich is installed.

    Raises:
        StoreNotFoundError: there is no store.
        StoreBusyError: another process builds there, or a collector records.
        ArgumentError: the store was not built from an archive, so by which options is not known; `StoreBuilder(...,
            append=True)` adds to it. Or nothing is selected, or nothing is left that is not in the store.
        DuplicateTrajectoryError: a clip of that name is in the store.
        MissingKeyError, SchemaError, SourceError: as in `build_store`; or the clips disagree with the store in columns,
            names, kinds or the order of quaternions. The store is then as it was.

    Examples:
        >>> path, _ = build_store("walks.zarr", "growing", progress=False)
        >>> path, report = add_clips("runs.zarr", path, progress=False)
        >>> TrajectoryStore.open(path).task_names
        {0: 'lab/walk', 1: 'lab/run'}
    """
    started = time.perf_counter()
    path = local_path(store_path)
    store = TrajectoryStore.open(path)
    options = _options_of(store)
    archives = Archives(zarr_path, select)
    refuse_within(path, archives)
    present = set(store.trajectory_paths)
    taken = [clip for clip in archives.trajectories if clip.path not in present]
    num_present = len(archives.trajectories) - len(taken)
    if num_present and not skip_present:
        clip = next(clip for clip in archives.trajectories if clip.path in present)
        raise DuplicateTrajectoryError(
            f"{path}: has trajectory {clip.path} already, one of {num_present} of {archives.path}; "
            "pass skip_present=True to add the others alone"
        )
    if not taken:
        raise ArgumentError(f"{archives.path}: all of its {num_present} clips are in {path} already")
    with naming(archives.path):
        plan = plan_export(taken, options)
        motion = joined(store, plan.motion, len(plan.trajectories), f"trajectory {plan.trajectories[0].path}")
    attributes = {
        ATTRIBUTE: motion.as_attribute(),
        BUILT_FROM: {**store.attributes[BUILT_FROM], "mark": _joined_mark(store, archives.mark)},
        "added": [
            *store.attributes.get("added", []),
            {"num_trajectories": len(plan.trajectories), **archives.attributes},
        ],
    }
    with (
        naming(archives.path),
        StoreBuilder(path, concat=plan.concat, alias=plan.flags.alias, attributes=attributes, append=True) as builder,
    ):
        # Under the lock: from here on nobody else adds anything.
        if (found := TrajectoryStore.open(path)).uuid != store.uuid or len(found) != len(store):
            raise StoreChangedError(f"{path}: somebody else built or added meanwhile; try again")
        write_clips(builder, archives, plan, options, _numbers(store, plan.trajectories), progress)
    longer = TrajectoryStore.open(path)
    report = report_of(archives, plan, options, longer, time.perf_counter() - started, archives.missing_chunks)
    return path, replace(
        report,
        num_trajectories=len(plan.trajectories),
        num_transitions=len(longer) - len(store),
        num_states=longer.num_states - store.num_states,
        bytes_on_disk=longer.bytes_on_disk - store.bytes_on_disk,
        num_in_store=longer.num_trajectories,
        num_present=num_present,
    )


def _options_of(store: TrajectoryStore) -> ExportOptions:
    """Return the options that a store was built by."""
    built_from = store.attributes.get(BUILT_FROM)
    told = built_from.get("options") if isinstance(built_from, dict) else None
    known = {field.name for field in fields(ExportOptions)}
    if not isinstance(told, dict) or "obs_keys" not in told or not told.keys() <= known:
        raise ArgumentError(
            f"{store.path}: does not say by which options it was built from an archive; "
            "StoreBuilder(..., append=True) adds to any store"
        )
    options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return ExportOptions(**options)


def _numbers(store: TrajectoryStore, clips: Sequence[Trajectory]) -> dict[str, tuple[int, int]]:
    """Return the task and the number in it of each new clip, by its path."""
    numbers = Numbers(store)
    return {clip.path: numbers.of_next(f"{clip.dataset_source}/{clip.motion}") for clip in clips}


class Numbers:
    """Gives new clips numbers behind those that a store has: tasks are known by name, or as `task <number>`."""

    def __init__(self, store: TrajectoryStore) -> None:
        store_names = store.task_names
        self._tasks = {name: number for number, name in store_names.items()}
        self._next_in: dict[int, int] = {}
        for task, number in zip(store.segments.task_id.tolist(), store.segments.traj_id.tolist(), strict=True):
            self._next_in[task] = max(self._next_in.get(task, 0), number + 1)
            if task not in store_names:
                self._tasks.setdefault(f"task {task}", task)

    def of_next(self, task_name: str) -> tuple[int, int]:
        """Return the task and the number in it of one more clip of a task."""
        highest = max(*self._tasks.values(), *self._next_in, -1, -1)
        task = self._tasks.setdefault(task_name, highest + 1)
        number = self._next_in.get(task, 0)
        self._next_in[task] = number + 1
        return task, number


def joined(store: TrajectoryStore, added: Description, count: int, what: str) -> Description:
    """Return what the store and `count` new clips say of their motion together.

    Raises SchemaError, with `what` disagrees at the beginning, where they do not say the same.
    """
    there = described(store)
    difference = disagreement(added, there)
    if difference is not None:
        raise SchemaError(f"{what}: {difference} as in {store.path}")

    def rates(of: Description, count: int) -> tuple[float | None, ...]:
        return of.fps if isinstance(of.fps, tuple) else (of.fps,) * count

    # The store's kinds as they are written there, not those that names suggest.
    written = store.attributes.get(ATTRIBUTE, {}).get("kinds", {})
    kinds = {key: there.kinds[key] for key in written if key in there.kinds}
    both = rates(there, store.num_trajectories) + rates(added, count)
    return replace(merged(there, added), kinds=kinds).with_rates(both)


def described(store: TrajectoryStore) -> Description:
    """Return what a store says of its motion."""
    shapes = {"/".join((key,) if isinstance(key, str) else key): store.shape(key) for key in store.keys}
    return describe(store.attributes, shapes)


def _joined_mark(store: TrajectoryStore, mark: str | None) -> str | None:
    """Return a digest of what the store was built from and of what is added; None where either is not known."""
    before = store.attributes[BUILT_FROM].get("mark")
    return None if before is None or mark is None else hashlib.sha256(f"{before} {mark}".encode()).hexdigest()
