"""Where the flags of a transition come from: terminated, truncated and done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import MissingKeyError, SchemaError, SourceError
from iltools_datasets.ingest.options import ExportOptions, where

if TYPE_CHECKING:
    from iltools_datasets.archive.schema import Trajectory
    from iltools_datasets.store.keys import Key

TERMINATED_NAMES = ("terminated", "done")
TRUNCATED_NAMES = ("truncated", "absorbing")
FLAG_NAMES = TERMINATED_NAMES + TRUNCATED_NAMES


@dataclass(frozen=True, slots=True)
class FlagPlan:
    """Which flags are exported.

    `inferred`: no trajectory has either flag; terminated is then the clip's end, nothing is truncated, and done needs
    no column of its own.
    """

    terminated: bool
    truncated: bool
    inferred: bool

    @property
    def alias(self) -> dict[Key, Key]:
        """Root names of the flags, and of done where it equals terminated, as views of the stored columns."""
        alias: dict[Key, Key] = {}
        if self.terminated:
            alias["terminated"] = ("next", "terminated")
        if self.truncated:
            alias["truncated"] = ("next", "truncated")
        if self._done_is_terminated:
            alias["next", "done"] = ("next", "terminated")
        return alias

    @property
    def _done_is_terminated(self) -> bool:
        return self.terminated and self.inferred

    def sources(self, trajectory: Trajectory) -> list[str]:
        """Return the arrays of the trajectory that the flags are taken from."""
        names = [
            names for names, used in ((TERMINATED_NAMES, self.terminated), (TRUNCATED_NAMES, self.truncated)) if used
        ]
        return [key for key in (source_key(trajectory, group) for group in names) if key is not None]

    def columns(self, trajectory: Trajectory, arrays: Mapping[str, np.ndarray]) -> dict[Key, NDArray[np.bool_]]:
        """Return the stored flags of one trajectory, bool [T-1, 1] each.

        done holds where either flag holds, and at the last transition: there the clip ends, whatever the flags say;
        unless its rows are transitions by themselves, of which nobody knows where an episode ended.
        """
        ended = np.zeros((trajectory.num_transitions, 1), dtype=np.bool_)
        ended[-1] = not trajectory.lacks_next
        columns: dict[Key, NDArray[np.bool_]] = {}
        if self.terminated:
            key = source_key(trajectory, TERMINATED_NAMES)
            columns["next", "terminated"] = ended if key is None else _per_transition(trajectory, key, arrays[key])
        if self.truncated:
            key = source_key(trajectory, TRUNCATED_NAMES)
            never = np.zeros_like(ended)
            columns["next", "truncated"] = never if key is None else _per_transition(trajectory, key, arrays[key])
        if columns and not self._done_is_terminated:
            columns["next", "done"] = np.logical_or.reduce([*columns.values(), ended])
        return columns


def source_key(trajectory: Trajectory, names: Sequence[str]) -> str | None:
    """Return the first of `names` that the trajectory has."""
    return next((name for name in names if name in trajectory.keys), None)


def plan_flags(trajectories: Sequence[Trajectory], options: ExportOptions, dropped: dict[str, str]) -> FlagPlan:
    """Decide from the arrays that are there which flags to export; reasons for those left out go into `dropped`."""
    terminated = options.include_terminated and (
        options.infer_terminated_if_missing or _all_have(TERMINATED_NAMES, trajectories, options, dropped)
    )
    nobody_is_truncated = not any(source_key(trajectory, TRUNCATED_NAMES) for trajectory in trajectories)
    if nobody_is_truncated:
        truncated = options.include_truncated is True
    else:
        truncated = options.include_truncated is not False and _all_have(
            TRUNCATED_NAMES, trajectories, options, dropped
        )
    given = not nobody_is_truncated or any(source_key(clip, TERMINATED_NAMES) for clip in trajectories)
    for names, used, wanted in (
        (TERMINATED_NAMES, terminated, options.include_terminated),
        (TRUNCATED_NAMES, truncated, options.include_truncated is not False),
    ):
        for key in names:
            holders = [trajectory for trajectory in trajectories if key in trajectory.keys]
            if not holders or key in options.obs_keys:
                continue
            if not wanted:
                dropped[key] = f"include_{names[0]}=False"
            elif all(source_key(trajectory, names) != key for trajectory in holders):
                dropped[key] = f"{names[0]!r} is there and used instead"
        if used:
            for trajectory in trajectories:
                if (source := source_key(trajectory, names)) is not None:
                    _check_shape(trajectory, source)
    return FlagPlan(terminated, truncated, inferred=terminated and not given)


def _all_have(
    names: Sequence[str], trajectories: Sequence[Trajectory], options: ExportOptions, dropped: dict[str, str]
) -> bool:
    """Whether all trajectories have the flag; where only some have it, an error or (not strict) a dropped key."""
    lacking = [trajectory for trajectory in trajectories if source_key(trajectory, names) is None]
    if not lacking:
        return True
    if len(lacking) == len(trajectories):
        return False
    message = f"{where(lacking[0])}: no array {names[0]!r} or {names[1]!r}, which other trajectories have"
    if options.strict:
        raise MissingKeyError(message)
    dropped[names[0]] = message
    return False


def _check_shape(trajectory: Trajectory, key: str) -> None:
    shape = tuple(trajectory.keys[key].shape)
    if shape[1:] not in ((), (1,)):
        raise SchemaError(f"{where(trajectory)}, key {key!r}: expected a flag per row, found shape {list(shape)}")


def _per_transition(trajectory: Trajectory, key: str, flag: np.ndarray) -> NDArray[np.bool_]:
    """Return the flag as bool [T-1, 1].

    A flag per state says what the state is, so a transition takes the flag of the state it leads to.
    """
    column = flag.reshape(len(flag), 1)
    if column.dtype != np.bool_:
        odd = ~((column == 0) | (column == 1))
        if odd.any():
            row = int(np.flatnonzero(odd)[0])
            raise SourceError(f"{where(trajectory)}, key {key!r}, row {row}: expected 0 or 1, found {column[row, 0]}")
    return np.ascontiguousarray(column[len(flag) - trajectory.num_transitions :], dtype=np.bool_)
