"""Which arrays of an archive become which columns of a store, decided before any value is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from iltools_datasets.archive.schema import TRANSITION_KEYS, longest_and_misfit
from iltools_datasets.errors import IltoolsError, MissingKeyError, SchemaError, SourceError
from iltools_datasets.ingest.flags import FLAG_NAMES, FlagPlan, plan_flags, source_key
from iltools_datasets.ingest.motion import MotionCheck
from iltools_datasets.ingest.options import ACTION_NAMES, ExportOptions, where
from iltools_datasets.ingest.report import SkippedTrajectory
from iltools_datasets.motion.description import Description

if TYPE_CHECKING:
    from iltools_datasets.archive.schema import Trajectory
    from iltools_datasets.store.keys import Key

Kind = Literal["state", "transition"]


@dataclass(frozen=True, slots=True)
class Column:
    """One array of the archive and what it becomes."""

    key: str
    kind: Kind
    dtype: np.dtype[np.generic]


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """The layout of the store and the trajectories that go into it.

    `columns` maps a name in the archive to its column. The action and the flags are not in it: each trajectory has its
    own name for them. `mixed_concat` is the dtype of the concatenation where it is a column of its own, because the
    observation's parts differ in dtype or rows are transitions, else None. `motion` is what the clips say of their
    motion together.
    """

    trajectories: list[Trajectory]
    columns: dict[str, Column]
    has_action: bool
    flags: FlagPlan
    concat: dict[str, list[str]]
    mixed_concat: np.dtype[np.generic] | None = None
    skipped: list[SkippedTrajectory] = field(default_factory=list)
    dropped_keys: dict[str, str] = field(default_factory=dict)
    motion: Description = field(default_factory=Description)


def action_key(trajectory: Trajectory, options: ExportOptions) -> str | None:
    """Return the trajectory's name of its action, or None; with two candidates raise `SchemaError`."""
    if options.act_key is not None:
        return options.act_key if options.act_key in trajectory.keys else None
    if all(name in trajectory.keys for name in ACTION_NAMES):
        raise SchemaError(f"{where(trajectory)}: both 'action' and 'actions' are there; say which with act_key=")
    return source_key(trajectory, ACTION_NAMES)


def plan_export(trajectories: Iterable[Trajectory], options: ExportOptions) -> ExportPlan:
    """Decide the layout of the store for these trajectories, reading none of their values.

    Raises `MissingKeyError` (a trajectory lacks a required array) and `SchemaError` (lengths, dtypes, trailing shapes
    or names disagree), naming trajectory and key; with `strict=False` such a trajectory is skipped instead. Raises
    `SourceError` if no trajectory with two states is left.
    """
    skipped: list[SkippedTrajectory] = []
    dropped: dict[str, str] = {}
    kept: list[Trajectory] = []
    for trajectory in (_without_excluded(trajectory, options, dropped) for trajectory in trajectories):
        try:
            num_states = _check_required(trajectory, options, kept[0] if kept else None)
        except IltoolsError as error:
            if options.strict:
                raise
            skipped.append(SkippedTrajectory(trajectory.path, str(error)))
            continue
        if trajectory.num_transitions < 1:
            skipped.append(SkippedTrajectory(trajectory.path, f"{num_states} states: a transition needs two"))
            continue
        kept.append(trajectory)

    motion = MotionCheck()
    kept = _agreeing(kept, options, skipped, motion)
    if not kept:
        reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in skipped[:3])
        raise SourceError("no trajectory with at least two states to export" + (f" ({reasons})" if reasons else ""))
    columns = _columns(kept, options, dropped)
    states = {key: column.key for key, column in columns.items() if column.kind == "state"}
    plan = _lay_out(kept, columns, options, skipped, dropped)
    return replace(plan, motion=motion.describe(states, kept))


def _without_excluded(trajectory: Trajectory, options: ExportOptions, dropped: dict[str, str]) -> Trajectory:
    excluded = trajectory.keys.keys() & set(options.exclude_keys)
    dropped.update(dict.fromkeys(excluded, "named in exclude_keys"))
    if not excluded:
        return trajectory
    keys = {key: spec for key, spec in trajectory.keys.items() if key not in excluded}
    if trajectory.misfit is None or not keys:
        return replace(trajectory, keys=keys)
    num_states, misfit = longest_and_misfit({key: spec.shape[0] for key, spec in keys.items()})
    return replace(trajectory, keys=keys, num_states=num_states, misfit=misfit)


def _check_required(trajectory: Trajectory, options: ExportOptions, first: Trajectory | None) -> int:
    """Return T, after checking that the arrays asked for are there, the observation's with T rows.

    Where its arrays do not fit together, and such a trajectory may be left out, only what was asked for has to.
    """
    required = [*options.obs_keys]
    # An archive may have no action at all, but a name that only the caller uses must exist, and so must the one chosen
    # of two.
    if options.act_key is not None and (options.act_key not in ACTION_NAMES or source_key(trajectory, ACTION_NAMES)):
        required.append(options.act_key)
    for key in required:
        if key not in trajectory.keys:
            here = f"{where(trajectory)}: no array {key!r}"
            if first is None:
                raise MissingKeyError(f"{here}; it has {sorted(trajectory.keys)}")
            raise MissingKeyError(
                f"{here}, which {first.path} has; it has {sorted(trajectory.keys)}; {_some_of(trajectory, first)}"
            )
    if trajectory.misfit is not None:
        if options.strict:
            raise SchemaError(f"{where(trajectory)}: {trajectory.misfit}")
        for key in trajectory.keys.keys() & {*options.obs_keys, action_key(trajectory, options), *FLAG_NAMES}:
            _kind(trajectory, key)
    for key in options.obs_keys:
        if (found := trajectory.keys[key].shape[0]) != trajectory.num_states:
            raise SchemaError(f"{where(trajectory)}, key {key!r}: expected {trajectory.num_states} rows, found {found}")
    return trajectory.num_states


def _signature(trajectory: Trajectory, key: str) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    spec = trajectory.keys[key]
    return np.dtype(spec.dtype).newbyteorder("="), tuple(spec.shape[1:])


def _agreeing(
    kept: list[Trajectory], options: ExportOptions, skipped: list[SkippedTrajectory], motion: MotionCheck
) -> list[Trajectory]:
    """Return the trajectories whose arrays and names agree with the first one's; the others are errors or skipped."""
    if not kept:
        return kept
    first = kept[0]
    first_action = action_key(first, options)
    agreeing = []
    for trajectory in kept:
        try:
            for key in options.obs_keys:
                _check_signature(trajectory, key, first, key)
            _check_rows(trajectory, first)
            _check_action(trajectory, first, first_action, options)
            motion.add(trajectory)
        except IltoolsError as error:
            if options.strict:
                raise
            skipped.append(SkippedTrajectory(trajectory.path, str(error)))
        else:
            agreeing.append(trajectory)
    return agreeing


def _check_rows(trajectory: Trajectory, first: Trajectory) -> None:
    if trajectory.lacks_next != first.lacks_next:
        kinds = [f"a row per {'transition' if clip.lacks_next else 'state'}" for clip in (first, trajectory)]
        raise SchemaError(f"{where(trajectory)}: expected {kinds[0]} as in {first.path}, found {kinds[1]}")


def _check_signature(trajectory: Trajectory, key: str, first: Trajectory, first_key: str) -> None:
    found, expected = _signature(trajectory, key), _signature(first, first_key)
    if found != expected:
        raise SchemaError(
            f"{where(trajectory)}, key {key!r}: expected {expected[0]} [T, *{list(expected[1])}] "
            f"as in {first.path}, found {found[0]} [T, *{list(found[1])}]; {_some_of(trajectory, first)}"
        )


def _some_of(trajectory: Trajectory, first: Trajectory) -> str:
    """Say how to take clips that are like this one, and not like the first."""
    source, motion = trajectory.dataset_source, trajectory.motion
    some = source if source != first.dataset_source else f"{source}/{motion}"
    return f"clips of one robot and of one kind make a store: select='{some}/*' takes some of them"


def _check_action(trajectory: Trajectory, first: Trajectory, first_key: str | None, options: ExportOptions) -> None:
    key = action_key(trajectory, options)
    if key is None and first_key is None:
        return
    if key is None or first_key is None:
        holder, lacking = (first, trajectory) if key is None else (trajectory, first)
        raise MissingKeyError(
            f"{where(lacking)}: no array {first_key or key!r}, which {holder.path} has; it has {sorted(lacking.keys)}"
        )
    _check_signature(trajectory, key, first, first_key)


def _columns(kept: Sequence[Trajectory], options: ExportOptions, dropped: dict[str, str]) -> dict[str, Column]:
    """Return the columns of the observation and of every further array that all trajectories share."""
    actions = {action_key(trajectory, options) for trajectory in kept}
    candidates = dict.fromkeys(options.obs_keys)
    for trajectory in kept:
        candidates.update(dict.fromkeys(trajectory.keys))
    columns: dict[str, Column] = {}
    for key in candidates:
        if (key in FLAG_NAMES and key not in options.obs_keys) or key in actions:
            continue
        if key == "action" and options.act_key not in (None, "action"):
            dropped[key] = f"act_key={options.act_key!r} takes the name 'action'"
            continue
        try:
            columns[key] = _column(key, kept, options)
        except IltoolsError as error:
            if options.strict:
                raise
            dropped[key] = str(error)
    return columns


def _column(key: str, kept: Sequence[Trajectory], options: ExportOptions) -> Column:
    holder = next(trajectory for trajectory in kept if key in trajectory.keys)
    kind = _kind(holder, key)
    for trajectory in kept:
        if key not in trajectory.keys:
            raise MissingKeyError(
                f"{where(trajectory)}: no array {key!r}, which {holder.path} has; {_some_of(trajectory, holder)}"
            )
        if (found := _kind(trajectory, key)) != kind:
            raise SchemaError(f"{where(trajectory)}, key {key!r}: a row per {found}, but per {kind} in {holder.path}")
        _check_signature(trajectory, key, holder, key)
    name = options.original_obs_td_key if key == "obs" else key
    return Column(name, kind, stored_dtype(holder.keys[key].dtype, options.float_dtype))


def _kind(trajectory: Trajectory, key: str) -> Kind:
    rows = trajectory.keys[key].shape[0]
    if rows == trajectory.num_states:
        return "transition" if trajectory.lacks_next else "state"
    is_step = rows == trajectory.num_states - 1 and (trajectory.misfit is None or key in TRANSITION_KEYS)
    if trajectory.lacks_next or not is_step:
        raise SchemaError(f"{where(trajectory)}, key {key!r}: expected {trajectory.num_states} rows, found {rows}")
    return "transition"


def stored_dtype(dtype: np.typing.DTypeLike, float_dtype: str | None) -> np.dtype[np.generic]:
    """Return the dtype in the store: floats wider than `float_dtype` become it, all else stays (native order)."""
    native = np.dtype(dtype).newbyteorder("=")
    if float_dtype is None or native.kind != "f":
        return native
    target = np.dtype(float_dtype)
    return target if native.itemsize > target.itemsize else native


def _lay_out(
    kept: list[Trajectory],
    columns: dict[str, Column],
    options: ExportOptions,
    skipped: list[SkippedTrajectory],
    dropped: dict[str, str],
) -> ExportPlan:
    has_action = action_key(kept[0], options) is not None
    flags = plan_flags(kept, options, dropped)
    concat: dict[str, list[str]] = {}
    mixed: np.dtype[np.generic] | None = None
    name = options.concat_obs_to_key
    parts = [columns[key].key for key in options.obs_keys]
    concatenated = [] if name is None or parts == [name] else [name]
    dtypes = {columns[key].dtype for key in options.obs_keys}
    if concatenated and len(dtypes) == 1 and not kept[0].lacks_next:
        concat[concatenated[0]] = parts
    elif concatenated:
        mixed = np.result_type(*([dtype for dtype in dtypes if dtype.kind == "f"] or dtypes))
    _check_names(columns, [*flags.alias, "action", "next", *concatenated])
    return ExportPlan(kept, columns, has_action, flags, concat, mixed, skipped, dropped)


def _check_names(columns: Mapping[str, Column], reserved: Sequence[Key]) -> None:
    seen: dict[str, str] = {}
    for source, column in columns.items():
        if column.key in reserved:
            raise SchemaError(
                f"array {source!r} of the archive would be stored as {column.key!r}, which the export itself uses; "
                "rename with concat_obs_to_key= or leave it out with exclude_keys="
            )
        if column.key in seen:
            raise SchemaError(f"arrays {seen[column.key]!r} and {source!r} would both be stored as {column.key!r}")
        seen[column.key] = source
