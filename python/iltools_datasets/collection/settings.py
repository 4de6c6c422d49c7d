"""What a collector is set up with: checked once, and compared with a recording that is gone on with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from iltools_datasets._base.integers import checked_integer
from iltools_datasets.collection.histories import HistoryRule
from iltools_datasets.collection.rows import OnNan, RecordedColumn
from iltools_datasets.collection.student_obs import StudentObsBuilder
from iltools_datasets.errors import ArgumentError, SchemaError

__all__ = ["OnNan", "Settings"]

_ENDLESS = 100_000


@dataclass(frozen=True, slots=True)
class Settings:
    """Widths, limits and options of a collector; see `ExpertTrajectoryCollector`."""

    obs_dim: int
    action_dim: int
    student_obs_dim: int | None
    max_trajectories: int
    num_envs: int | None
    student_builder: StudentObsBuilder | None
    float_dtype: str | None
    on_nan: OnNan
    longest: int

    @classmethod
    def checked(
        cls,
        obs_dim: Any,
        action_dim: Any,
        student_obs_dim: Any,
        max_trajectories: Any,
        num_envs: Any,
        student_builder: StudentObsBuilder | None,
        float_dtype: str | None,
        on_nan: OnNan,
        max_episode_steps: Any,
    ) -> Self:
        """Return the settings; `ArgumentError` names one that cannot be."""
        if float_dtype is not None and np.dtype(float_dtype).kind != "f":
            raise ArgumentError(f"float_dtype: expected a floating dtype or None, found {float_dtype!r}")
        if on_nan not in ("error", "drop", "keep"):
            raise ArgumentError(f"on_nan: expected 'error', 'drop' or 'keep', found {on_nan!r}")
        if student_builder is not None:
            built = {"student_obs_dim": student_builder.total_dim, "num_envs": student_builder.num_envs}
            given = {"student_obs_dim": student_obs_dim, "num_envs": num_envs}
            for name, value in given.items():
                if value not in (None, built[name]):
                    raise ArgumentError(f"{name}: expected {built[name]} as student_builder has, found {value!r}")
            student_obs_dim, num_envs = built.values()
        return cls(
            checked_integer("obs_dim", obs_dim, low=1),
            checked_integer("action_dim", action_dim, low=1),
            None if student_obs_dim is None else checked_integer("student_obs_dim", student_obs_dim, low=1),
            checked_integer("max_trajectories", max_trajectories, low=1),
            None if num_envs is None else checked_integer("num_envs", num_envs, low=1),
            student_builder,
            float_dtype,
            on_nan,
            checked_integer("max_episode_steps", _ENDLESS if max_episode_steps is None else max_episode_steps, low=1),
        )

    @property
    def widths(self) -> dict[str, int]:
        """Widths of the arguments of a step."""
        student, action = self.student_obs_dim or 0, self.action_dim
        known = {"observations": self.obs_dim, "student_observations": student, "actions": action}
        return {**known, "action_mean": action, "action_sigma": action}

    def check_student(self, is_given: bool) -> None:
        """Raise `SchemaError` unless a student's observations are given with a step exactly where they are to be."""
        if is_given != (self.student_obs_dim is not None):
            expected = "none, as student_obs_dim is not given" if self.student_obs_dim is None else "one per step"
            raise SchemaError(f"student_observations: expected {expected}")

    def check_resumed(
        self, label: str, num_envs: int, columns: list[RecordedColumn], history: HistoryRule | None
    ) -> None:
        """Raise `SchemaError` unless a recording has the widths, number of envs and history of these settings."""
        widths = {column.argument: column.width for column in columns}
        if history is not None:
            widths["student_observations"] = history.width
        expected = {"observations": self.obs_dim, "actions": self.action_dim}
        if self.student_obs_dim is not None:
            expected["student_observations"] = self.student_obs_dim
        found = {name: widths[name] for name in (*expected, "student_observations") if name in widths}
        if found != expected or self.num_envs not in (None, num_envs):
            raise SchemaError(
                f"{label}: expected to go on with {expected} of {self.num_envs or 'any number of'} envs, found {found} "
                f"of {num_envs}"
            )
        rule = None if self.student_builder is None else HistoryRule.of(self.student_builder, 0)
        if rule != (None if history is None else replace(history, lag=0)):
            told = ["observations in full" if one is None else str(one) for one in (rule, history)]
            raise SchemaError(f"{label}: expected to go on with the student's {told[0]}, found {told[1]}")
