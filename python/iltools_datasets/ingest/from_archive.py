"""From a Zarr archive to a store, one trajectory at a time, without torch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from iltools_datasets._base.local_path import local_path
from iltools_datasets._base.terminal_progress import terminal_progress
from iltools_datasets.errors import MissingKeyError, SchemaError, SourceError, StoreExistsError
from iltools_datasets.ingest.archives import Archives, Place, Select
from iltools_datasets.ingest.columns import arrange, keys_to_read
from iltools_datasets.ingest.default_keys import default_obs_keys
from iltools_datasets.ingest.flags import TERMINATED_NAMES, source_key
from iltools_datasets.ingest.options import ExportOptions
from iltools_datasets.ingest.plan import ExportPlan, plan_export
from iltools_datasets.ingest.report import BuildReport
from iltools_datasets.motion.description import ATTRIBUTE
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.trajectory_store import TrajectoryStore

BUILT_FROM = "built_from"
"""The store's attribute that says of which files, and by which options, it was built."""
_MISSING_CHUNKS = "missing_chunks"


def build_store(
    zarr_path: Place | Sequence[Place],
    store_path: str | os.PathLike[str],
    obs_keys: Sequence[str] | None = None,
    act_key: str | None = None,
    concat_obs_to_key: str | None = "observation",
    include_terminated: bool = True,
    include_truncated: bool | None = None,
    original_obs_td_key: str = "lmj_observation",
    strict: bool = True,
    infer_terminated_if_missing: bool = True,
    float_dtype: str | None = "float32",
    on_nan: Literal["error", "keep"] = "error",
    exclude_keys: Sequence[str] = (),
    overwrite: bool = False,
    progress: bool | None = None,
    *,
    select: Select = (),
    reuse: bool = False,
) -> tuple[Path, BuildReport]:
    """Build the store of an archive, or of several; return its path and a report of what was exported and skipped.

    A trajectory of T states becomes T - 1 transitions: state t, action t, state t + 1 under `("next", key)`. One whose
    rows are transitions (`Trajectory.lacks_next`) becomes T of them, without a next, and no flag is inferred. What the
    trajectories say of rates, names and kinds goes into `store.attributes["motion"]`.

    Args:
        zarr_path: the archive, `<source>/<motion>/<trajectory>/<key>` or packed, arrays time-major [T, ...]; or
            several. Motions of one name in two archives are one task.
        store_path: the directory of the store.
        obs_keys: the arrays that make up the observation, [T, ...] each. Each is a column of its own and, flattened to
            [T, width] and side by side, a part of `concat_obs_to_key`; this costs no second copy on disk.
            None takes what `default_obs_keys` says.
        act_key: the action, [T, ...] or [T-1, ...], stored as "action". None takes `action`, else `actions`; with
            neither in the whole archive zeros of width 1 (float32) stand in.
        concat_obs_to_key: name of the concatenated observation; None leaves it out.
        include_terminated: export terminated, from the array `terminated` or `done`.
        include_truncated: export truncated, from the array `truncated` or `absorbing`. None = where there is one;
            True = also where no clip has one, false then; False = not.
        original_obs_td_key: name in the store of an array that the archive calls `obs`.
        strict: a trajectory that lacks an array or whose dtype or width differs is an error; otherwise it is skipped
            (required arrays) or the key is left out (further arrays), and the report says so.
        infer_terminated_if_missing: without a flag in the archive, the last transition of a clip is terminated.
        float_dtype: wider floats become this dtype; None keeps float64. Integers, bools and images keep theirs.
        on_nan: "error" refuses a NaN, naming trajectory, key and row; "keep" stores it.
        exclude_keys: arrays to leave out.
        overwrite: replace a store that is at `store_path`; readers of the old one keep it until they reopen.
        progress: show a progress bar; None shows one on a terminal if rich is installed.
        select: which clips: globs over `<source>/<motion>/<clip>`, where `*` passes over slashes and `!` in front
            leaves out, a `Choice`, or a function that tells of a `Trajectory` whether it is taken. Those taken are
            numbered from 0.
        reuse: leave the store alone if it was built by these options from these clips, and no file of the archive has
            changed since (by name, size and time); the report then says so. `overwrite` builds in any case.

    Flags are bool [..., 1], under "next" and, as a view, at the root. A flag given per state [T] is that of the state a
    transition leads to; one given per transition [T-1] is taken as it is. ("next", "done") holds where terminated or
    truncated does, and at the end of every clip.

    Raises:
        MissingKeyError, SchemaError: before anything is written; the message names trajectory and key. Trajectories
            that disagree in joint or body names, kinds of columns or the order of quaternions are such an error, too.
        SourceError: the archive cannot be read, a value is NaN or does not fit (trajectory, key, row), or no trajectory
            has two states. Nothing is left behind.
        ArgumentError: nothing is selected, or by a glob that no clip matches.
        DuplicateTrajectoryError: two archives have a clip of the same path.
        StoreExistsError: there is a store at `store_path` and `overwrite` is False. With `reuse` it says what differs.

    Examples:
        >>> path, report = build_store(
        ...     "walks.zarr", "store", obs_keys=["qpos", "qvel"], act_key="action", progress=False
        ... )
        >>> report.num_transitions, report.skipped
        (97, ())
        >>> TrajectoryStore.open(path).gather([0, 1], ["observation"])["observation"].shape
        (2, 13)
    """
    started = time.perf_counter()
    archives = Archives(zarr_path, select)
    if obs_keys is None:
        obs_keys = default_obs_keys(archives)
    options = ExportOptions(
        obs_keys=(obs_keys,) if isinstance(obs_keys, str) else tuple(obs_keys),
        act_key=act_key,
        concat_obs_to_key=concat_obs_to_key,
        include_terminated=include_terminated,
        include_truncated=include_truncated,
        original_obs_td_key=original_obs_td_key,
        strict=strict,
        infer_terminated_if_missing=infer_terminated_if_missing,
        float_dtype=float_dtype,
        on_nan=on_nan,
        exclude_keys=tuple(exclude_keys),
    )
    with naming(archives.path):
        plan = plan_export(archives.trajectories, options)
    path = local_path(store_path)
    refuse_within(path, archives)
    built_from = {"mark": archives.mark, "options": json.loads(json.dumps(asdict(options)))}
    if reuse and not overwrite and (path / "manifest.json").exists():
        store = _up_to_date(path, built_from)
        missing = store.attributes.get(_MISSING_CHUNKS, 0)
        return path, report_of(archives, plan, options, store, time.perf_counter() - started, missing, reused=True)
    with (
        naming(archives.path),
        StoreBuilder(
            path,
            overwrite=overwrite,
            concat=plan.concat,
            alias=plan.flags.alias,
            attributes={**_provenance(archives, options, plan), BUILT_FROM: built_from},
        ) as builder,
    ):
        ids = {clip.path: (clip.task_id, clip.traj_id) for clip in plan.trajectories}
        write_clips(builder, archives, plan, options, ids, progress)
        builder.attributes[_MISSING_CHUNKS] = archives.missing_chunks
    store = TrajectoryStore.open(path)
    return path, report_of(archives, plan, options, store, time.perf_counter() - started, archives.missing_chunks)


def write_clips(
    builder: StoreBuilder,
    archives: Archives,
    plan: ExportPlan,
    options: ExportOptions,
    ids: Mapping[str, tuple[int, int]],
    progress: bool | None,
) -> None:
    """Give the builder the clips of a plan; `ids` has of each, by its path, the task and its number in it."""
    with (
        terminal_progress("building", len(plan.trajectories), progress) as advance,
        closing(archives.stream(plan.trajectories, lambda clip: keys_to_read(clip, plan, options))) as clips,
    ):
        for trajectory, arrays in clips:
            columns = arrange(trajectory, arrays, plan, options)
            builder.add(
                *ids[trajectory.path],
                states=columns.states,
                transitions=columns.transitions,
                name=trajectory.name,
                task_name=f"{trajectory.dataset_source}/{trajectory.motion}",
            )
            advance()
            # Or it would stay alive while the reader already fetches another one.
            del arrays, columns


def _up_to_date(path: Path, wanted: dict[str, Any]) -> TrajectoryStore:
    """Open the store that is there if it is what would be built; StoreExistsError says what differs."""
    store = TrajectoryStore.open(path)
    found = store.attributes.get(BUILT_FROM)
    if not isinstance(found, dict) or not isinstance(found.get("options"), dict):
        why = "does not say what it was built from"
    elif changed := [key for key, value in wanted["options"].items() if found["options"].get(key) != value]:
        why = f"was built with {changed[0]}={found['options'].get(changed[0])!r}, not {wanted['options'][changed[0]]!r}"
    elif wanted["mark"] is None or found.get("mark") is None:
        why = "is of an archive of which nobody can tell whether it has changed"
    elif found["mark"] != wanted["mark"]:
        why = "is of other clips, or of files that have changed since"
    else:
        return store
    raise StoreExistsError(f"{path}: the store that is there {why}; pass overwrite=True to build it anew")


def refuse_within(store: Path, archives: Archives) -> None:
    """Refuse to build a store into an archive it is built from."""
    for archive in (reader.path for reader in archives.readers):
        if isinstance(archive, Path) and archive.resolve() in (store.resolve(), *store.resolve().parents):
            raise StoreExistsError(f"{store}: lies within the archive {archive}; a store needs a directory of its own")


@contextmanager
def naming(path: object) -> Generator[None, None, None]:
    """Put the archive's path in front of the message of an error."""
    try:
        yield
    except (MissingKeyError, SchemaError, SourceError) as error:
        if str(path) not in str(error):
            error.args = (f"{path}: {error}",)
        raise


def _provenance(archives: Archives, options: ExportOptions, plan: ExportPlan) -> dict[str, Any]:
    return {
        ATTRIBUTE: plan.motion.as_attribute(),
        **archives.attributes,
        "obs_keys": list(options.obs_keys),
        "act_key": options.act_key,
        "float_dtype": options.float_dtype,
    }


def report_of(
    archives: Archives,
    plan: ExportPlan,
    options: ExportOptions,
    store: TrajectoryStore,
    seconds: float,
    missing_chunks: int,
    reused: bool = False,
) -> BuildReport:
    unflagged = sum(source_key(clip, TERMINATED_NAMES) is None and not clip.lacks_next for clip in plan.trajectories)
    return BuildReport(
        source=archives.path,
        store=str(store.path),
        num_trajectories=store.num_trajectories,
        num_transitions=len(store),
        num_states=store.num_states,
        num_tasks=len({trajectory.task_id for trajectory in plan.trajectories}),
        obs_keys=options.obs_keys,
        keys=tuple("/".join((key,) if isinstance(key, str) else key) for key in store.keys),
        bytes_on_disk=store.bytes_on_disk,
        seconds=seconds,
        skipped=tuple(plan.skipped),
        dropped_keys=plan.dropped_keys,
        inferred_terminated=unflagged if plan.flags.terminated else 0,
        zero_action=not plan.has_action,
        missing_chunks=missing_chunks,
        skipped_arrays=tuple(archives.skipped),
        reused=reused,
    )
