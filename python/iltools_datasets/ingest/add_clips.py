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
    from iltools_datasets.ingest.plan import ExportPlan
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
        motion = _joined(store, plan)
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
    tasks = {name: number for number, name in store.task_names.items()}
    next_task = max(tasks.values(), default=-1) + 1
    next_in: dict[int, int] = {}
    for segment in store.segments:
        next_in[segment.task_id] = max(next_in.get(segment.task_id, 0), segment.traj_id + 1)
        next_task = max(next_task, segment.task_id + 1)
    numbers = {}
    for clip in clips:
        name = f"{clip.dataset_source}/{clip.motion}"
        if name not in tasks:
            tasks[name] = next_task
            next_task += 1
        task = tasks[name]
        numbers[clip.path] = task, next_in.get(task, 0)
        next_in[task] = next_in.get(task, 0) + 1
    return numbers


def _joined(store: TrajectoryStore, plan: ExportPlan) -> Description:
    """Return what the store and new clips say of their motion together; SchemaError where they disagree."""
    shapes = {"/".join((key,) if isinstance(key, str) else key): store.shape(key) for key in store.keys}
    there = describe(store.attributes, shapes)
    difference = disagreement(plan.motion, there)
    if difference is not None:
        raise SchemaError(f"trajectory {plan.trajectories[0].path}: {difference} as in {store.path}")

    def rates(of: Description, count: int) -> tuple[float | None, ...]:
        return of.fps if isinstance(of.fps, tuple) else (of.fps,) * count

    both = rates(there, store.num_trajectories) + rates(plan.motion, len(plan.trajectories))
    # The store's kinds as they are written there, not those that names suggest.
    kinds = {
        key: there.kinds[key] for key in store.attributes.get(ATTRIBUTE, {}).get("kinds", {}) if key in there.kinds
    }
    return replace(merged(there, plan.motion), kinds=kinds).with_rates(both)


def _joined_mark(store: TrajectoryStore, mark: str | None) -> str | None:
    """Return a digest of what the store was built from and of what is added; None where either is not known."""
    before = store.attributes[BUILT_FROM].get("mark")
    return None if before is None or mark is None else hashlib.sha256(f"{before} {mark}".encode()).hexdigest()
