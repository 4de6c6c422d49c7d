"""From a Zarr archive to a store, one trajectory at a time, without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from iltools_datasets._base.terminal_progress import terminal_progress
from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.errors import MissingKeyError, SchemaError, SourceError, StoreExistsError
from iltools_datasets.ingest.columns import arrange, keys_to_read
from iltools_datasets.ingest.flags import TERMINATED_NAMES, source_key
from iltools_datasets.ingest.options import ExportOptions
from iltools_datasets.ingest.plan import ExportPlan, plan_export
from iltools_datasets.ingest.report import BuildReport
from iltools_datasets.motion.description import ATTRIBUTE
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.trajectory_store import TrajectoryStore

if TYPE_CHECKING:
    from iltools_datasets.archive.schema import Trajectory


def build_store(
    zarr_path: str | os.PathLike[str],
    store_path: str | os.PathLike[str],
    obs_keys: Sequence[str],
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
) -> tuple[Path, BuildReport]:
    """Build the store of an archive and return its path and a report of what was exported and what was skipped.

    A trajectory of T states becomes T - 1 transitions: state t, action t, state t + 1 under `("next", key)`. One whose
    rows are transitions (`Trajectory.lacks_next`) becomes T of them, without a next, and no flag is inferred. What the
    trajectories say of rates, names and kinds goes into `store.attributes["motion"]`.

    Args:
        zarr_path: the archive, `<source>/<motion>/<trajectory>/<key>` or packed, arrays time-major [T, ...].
        store_path: the directory of the store.
        obs_keys: the arrays that make up the observation, [T, ...] each. Each is a column of its own and, flattened to
            [T, width] and side by side, a part of `concat_obs_to_key`; this costs no second copy on disk.
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

    Flags are bool [..., 1], under "next" and, as a view, at the root. A flag given per state [T] is that of the state a
    transition leads to; one given per transition [T-1] is taken as it is. ("next", "done") holds where terminated or
    truncated does, and at the end of every clip.

    Raises:
        MissingKeyError, SchemaError: before anything is written; the message names trajectory and key. Trajectories
            that disagree in joint or body names, kinds of columns or the order of quaternions are such an error, too.
        SourceError: the archive cannot be read, a value is NaN or does not fit (trajectory, key, row), or no trajectory
            has two states. Nothing is left behind.
        StoreExistsError: there is a store at `store_path` and `overwrite` is False.
    """
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
    started = time.perf_counter()
    reader = ArchiveReader(zarr_path)
    with _naming(reader.path):
        plan = plan_export(reader.trajectories, options)
    task_names = {task.task_id: task.name for task in reader.tasks}
    path = Path(store_path)
    _refuse_within(path, zarr_path)
    with (
        _naming(reader.path),
        StoreBuilder(
            path,
            overwrite=overwrite,
            concat=plan.concat,
            alias=plan.flags.alias,
            attributes=_provenance(reader, options, plan),
        ) as builder,
        terminal_progress("building", len(plan.trajectories), progress) as advance,
        closing(_stream(reader, plan, options)) as clips,
    ):
        for trajectory, arrays in clips:
            columns = arrange(trajectory, arrays, plan, options)
            builder.add(
                trajectory.task_id,
                trajectory.traj_id,
                states=columns.states,
                transitions=columns.transitions,
                name=trajectory.name,
                task_name=task_names[trajectory.task_id],
            )
            advance()
            # Or it would stay alive while the reader already fetches another one.
            del arrays, columns
    store = TrajectoryStore.open(path)
    return path, _report(reader, plan, options, store, time.perf_counter() - started)


def _stream(
    reader: ArchiveReader, plan: ExportPlan, options: ExportOptions
) -> Generator[tuple[Trajectory, dict[str, np.ndarray]], None, None]:
    """Yield each trajectory with its arrays; the reader fetches the next ones meanwhile.

    Clips of one archive nearly always have the same keys, but may call their action or flags differently.
    """
    for keys, trajectories in groupby(plan.trajectories, key=lambda clip: keys_to_read(clip, plan, options)):
        yield from reader.stream(trajectories, keys)


def _refuse_within(store: Path, archive: str | os.PathLike[str]) -> None:
    """Refuse to build a store into the archive it is built from."""
    if "://" not in str(archive) and Path(archive).resolve() in (store.resolve(), *store.resolve().parents):
        raise StoreExistsError(f"{store}: lies within the archive {archive}; a store needs a directory of its own")


@contextmanager
def _naming(path: object) -> Generator[None, None, None]:
    """Put the archive's path in front of the message of an error."""
    try:
        yield
    except (MissingKeyError, SchemaError, SourceError) as error:
        if str(path) not in str(error):
            error.args = (f"{path}: {error}",)
        raise


def _provenance(reader: ArchiveReader, options: ExportOptions, plan: ExportPlan) -> dict[str, Any]:
    return {
        ATTRIBUTE: plan.motion.as_attribute(),
        "archive": dict(reader.attributes),
        "metadata": reader.metadata,
        "obs_keys": list(options.obs_keys),
        "act_key": options.act_key,
        "float_dtype": options.float_dtype,
    }


def _report(
    reader: ArchiveReader, plan: ExportPlan, options: ExportOptions, store: TrajectoryStore, seconds: float
) -> BuildReport:
    unflagged = sum(source_key(clip, TERMINATED_NAMES) is None and not clip.lacks_next for clip in plan.trajectories)
    return BuildReport(
        source=str(reader.path),
        store=str(store.path),
        num_trajectories=store.num_trajectories,
        num_transitions=len(store),
        num_states=store.num_states,
        num_tasks=len({trajectory.task_id for trajectory in plan.trajectories}),
        keys=tuple("/".join((key,) if isinstance(key, str) else key) for key in store.keys),
        bytes_on_disk=store.bytes_on_disk,
        seconds=seconds,
        skipped=tuple(plan.skipped),
        dropped_keys=plan.dropped_keys,
        inferred_terminated=unflagged if plan.flags.terminated else 0,
        zero_action=not plan.has_action,
        missing_chunks=sum(reader.missing_chunks.values()),
        skipped_arrays=tuple(reader.skipped),
    )
