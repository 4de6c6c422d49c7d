"""From the arrays of one trajectory to the columns of one segment: casts, flags and checks of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from iltools_datasets.errors import SourceError
from iltools_datasets.ingest.options import ExportOptions, where
from iltools_datasets.ingest.plan import ExportPlan, action_key, stored_dtype

if TYPE_CHECKING:
    from iltools_datasets.archive.schema import Trajectory
    from iltools_datasets.store.keys import Key


@dataclass(frozen=True, slots=True)
class SegmentArrays:
    """The columns of one segment: `states` [T, ...] and `transitions` [T-1, ...]."""

    states: dict[Key, np.ndarray]
    transitions: dict[Key, np.ndarray]


def keys_to_read(trajectory: Trajectory, plan: ExportPlan, options: ExportOptions) -> list[str]:
    """Return the arrays of the trajectory that the plan needs."""
    keys = [key for key in trajectory.keys if key in plan.columns]
    keys += [key for key in (action_key(trajectory, options),) if key is not None and key not in keys]
    return keys + [key for key in plan.flags.sources(trajectory) if key not in keys]


def arrange(
    trajectory: Trajectory, arrays: Mapping[str, np.ndarray], plan: ExportPlan, options: ExportOptions
) -> SegmentArrays:
    """Return the columns of one trajectory as the plan lays them out.

    Raises `SourceError` naming trajectory, key and row for a NaN (unless `on_nan="keep"`), for a value that does not
    fit the dtype it is stored in, and for a flag that is neither 0 nor 1.
    """
    num_states = trajectory.num_states
    states: dict[Key, np.ndarray] = {}
    transitions: dict[Key, np.ndarray] = {}
    for key, column in plan.columns.items():
        group = states if column.kind == "state" else transitions
        group[column.key] = _converted(trajectory, key, arrays[key], column.dtype, options)

    action_name = action_key(trajectory, options)
    if action_name is None:
        transitions["action"] = np.zeros((trajectory.num_transitions, 1), dtype=np.float32)
    else:
        # The action of the last state leads to no state of the clip.
        action = arrays[action_name][: trajectory.num_transitions]
        transitions["action"] = _converted(
            trajectory, action_name, action, stored_dtype(action.dtype, options.float_dtype), options
        )
    transitions.update(plan.flags.columns(trajectory, arrays))
    if plan.mixed_concat is not None:
        assert options.concat_obs_to_key is not None
        parts = [
            _converted(trajectory, key, arrays[key], plan.mixed_concat, options).reshape(num_states, -1)
            for key in options.obs_keys
        ]
        group = transitions if trajectory.lacks_next else states
        group[options.concat_obs_to_key] = np.concatenate(parts, axis=1)
    return SegmentArrays(states, transitions)


def _converted(
    trajectory: Trajectory, key: str, array: np.ndarray, dtype: np.dtype[np.generic], options: ExportOptions
) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype=dtype)
    if array.dtype.kind != "f":
        if array.dtype.kind != dtype.kind:
            # Integers into floats: the concatenation of parts whose dtypes differ.
            _refuse(trajectory, key, array, converted.astype(array.dtype) != array, f"has no exact {dtype}")
        return converted
    # A sum is finite only if all its terms are, and costs a fifth of looking at each.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(converted.sum()) or np.isfinite(converted).all():
            return converted
    if options.on_nan == "error":
        _refuse(trajectory, key, array, np.isnan(converted), "; pass on_nan='keep' to store it")
    _refuse(trajectory, key, array, np.isinf(converted) & np.isfinite(array), f"does not fit {dtype}")
    return converted


def _refuse(trajectory: Trajectory, key: str, array: np.ndarray, bad: np.ndarray, why: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0])
        value = array[row][bad[row]].flat[0] if array.ndim > 1 else array[row]
        raise SourceError(f"{where(trajectory)}, key {key!r}, row {row}: {value}{'' if why[0] == ';' else ' '}{why}")
