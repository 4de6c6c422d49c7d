"""Roll-outs of an env with observation terms, recorded with a student's builder, and what that builder said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from iltools_datasets.collection import ExpertTrajectoryCollector, StudentObsBuilder

NUM_ENVS, ACTIONS = 5, 2
DIMS = {"command": 4, "joint_pos": 3, "body": 6}
OBSERVATION = sum(DIMS.values())


def make_builder(keys: Sequence[str] = tuple(DIMS), length: int = 3, **how: Any) -> StudentObsBuilder:
    manager = SimpleNamespace(
        active_terms={"policy": list(DIMS)}, group_obs_term_dim={"policy": [(dim,) for dim in DIMS.values()]}
    )
    env = SimpleNamespace(observation_manager=manager, num_envs=NUM_ENVS, device="cpu")
    return StudentObsBuilder(env, list(keys), length, **how)


class RollOut:
    """One step after the other: what happens is recorded, and kept as it should be read.

    Args:
        directory: of the store.
        builder: the student's.
        same: whether the student's frame is the very observation; else the teacher sees something of its own.
        updates_first: whether a step's frame is updated before an observation is asked for.
        options: of the collector.
    """

    def __init__(
        self,
        directory: Path | None,
        builder: StudentObsBuilder,
        *,
        same: bool = False,
        updates_first: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.builder, self.same, self.updates_first = builder, same, updates_first
        self.rng = np.random.default_rng(seed)
        options = {"directory": directory, "student_builder": builder, "max_trajectories": 10**6, **options}
        self.collector = ExpertTrajectoryCollector(OBSERVATION, ACTIONS, **options)
        self.running: list[list[Any]] = [[] for _ in range(NUM_ENVS)]
        self.over: list[tuple[list[Any], Any]] = []
        """Episodes in the order of their ends: what the student saw, row by row, and last (None = not known)."""

    def frames(self) -> dict[str, Any]:
        return {
            name: torch.from_numpy(self.rng.standard_normal((NUM_ENVS, dim), dtype=np.float32))
            for name, dim in DIMS.items()
        }

    def observation(self, now: dict[str, Any]) -> Any:
        told = torch.cat([now[name] for name in DIMS], dim=1)
        return told.clone() if self.same else told + 1

    def step(self, mask: Sequence[bool] | None = None) -> Any:
        """Act once; return what the student saw."""
        now = self.frames()
        if self.updates_first:
            self.builder.update_history(now)
        seen = self.builder.get_observation(now)
        actions = torch.zeros(NUM_ENVS, ACTIONS)
        self.collector.add_step(
            self.observation(now),
            actions,
            student_observations=seen,
            valid_mask=None if mask is None else torch.tensor(mask),
        )
        if not self.updates_first:
            self.builder.update_history(now)
        for env in range(NUM_ENVS):
            if mask is None or mask[env]:
                self.running[env].append(seen[env].numpy())
            elif self.running[env]:
                self._over(env, None)
        return seen

    def end(self, envs: Sequence[int], *, known: bool = False) -> None:
        """End the running episodes among `envs`, with what was seen last or without."""
        ended = [env for env in sorted(envs) if self.running[env]]
        if not ended:
            return
        last: dict[str, Any] = {}
        seen = None
        if known:
            now = self.frames()
            if self.updates_first:
                self.builder.update_history(now)
            seen = self.builder.get_observation(now)
            last = {"final_observations": self.observation(now), "final_student_observations": seen}
        self.collector.mark_trajectory_end(env_ids=ended, **last)
        self.builder.reset_history(ended)
        for env in ended:
            self._over(env, None if seen is None else seen[env].numpy())

    def _over(self, env: int, last: Any) -> None:
        self.over.append((self.running[env], last))
        self.running[env] = []

    def expected(self) -> tuple[Any, Any, Any]:
        """Return what is to be read: the student's rows, those of the next states, and where the latter are known."""
        rows = [row for seen, _ in self.over for row in seen]
        after = [row for seen, last in self.over for row in [*seen[1:], seen[-1] if last is None else last]]
        known = [at + 1 < len(seen) or last is not None for seen, last in self.over for at in range(len(seen))]
        width = self.builder.total_dim
        return np.array(rows).reshape(-1, width), np.array(after).reshape(-1, width), np.array(known, dtype=bool)
