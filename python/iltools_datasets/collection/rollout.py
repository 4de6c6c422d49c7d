"""The loop that collects: an expert in an environment, until enough episodes or steps are recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iltools_datasets._base.extras import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.collection") from error

from iltools_datasets.collection.collector import ExpertTrajectoryCollector
from iltools_datasets.collection.envs import Groups, Step, adapt, group_of
from iltools_datasets.collection.policies import as_policy
from iltools_datasets.collection.student_obs import StudentObsBuilder
from iltools_datasets.errors import ArgumentError

__all__ = ["Tally", "collect"]


@dataclass(slots=True)
class Tally:
    """What a run has seen: steps of all envs, and episodes by how they ended."""

    steps: int = 0
    terminated: int = 0
    truncated: int = 0


def collect(
    env: Any,
    policy: Any,
    collector: ExpertTrajectoryCollector,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    group: str | None = None,
    student: StudentObsBuilder | str | None = None,
    stochastic: bool = False,
    seed: int | None = None,
    first: Step | None = None,
    on_step: Callable[[ExpertTrajectoryCollector, Tally], None] | None = None,
) -> Tally:
    """Let an expert act and record what it saw and did.

    What is recorded are the very tensors that the policy got, copied before the environment steps. Once enough episodes
    are over no new one begins, and those that run are recorded to their end, so that short ones are not favoured.

    Args:
        env: see `envs.adapt`: rsl_rl's VecEnv, a manager-based env, gymnasium's vector env.
        policy: see `policies.as_policy`: any callable, rsl_rl's models, what `policies` and `checkpoints` load.
        collector: takes the rows; it is not closed.
        episodes: stop when so many are over, and those that ran then; never more than the collector's own limit.
        steps: stop after so many steps of all envs; what runs then is left running.
        group: the observation group that is recorded; None = "policy" or "actor", whichever there is.
        student: builds the student's observations out of the group's terms, its history is kept up here; or the name of
            the environment's own group that a student sees. None = the collector's builder, if it has one.
        stochastic: as in `as_policy`.
        seed: of the environment's first reset.
        first: what the environment was reset to already; it is not reset again.
        on_step: called after each step.

    Returns:
        What was seen, also of what the collector did not take because it was full.

    Raises:
        ArgumentError: neither `episodes` nor `steps`. MissingKeyError: no such observation group.
    """
    if episodes is None and steps is None:
        raise ArgumentError("say when to stop: episodes= or steps=")
    if episodes is not None:
        collector.stop_after(episodes)
    vector, expert = adapt(env), as_policy(policy, stochastic=stochastic)
    watcher = _Student(collector.student_builder if student is None else student, group)
    step, tally = vector.reset(seed) if first is None else first, Tally()
    while (steps is None or tally.steps < steps) and (not collector.is_full or collector.running):
        seen = group_of(step.groups, group)
        decision = expert(step)
        collector.add_step(
            seen,
            matrix(decision.actions),
            None if decision.mean is None else matrix(decision.mean),
            None if decision.sigma is None else matrix(decision.sigma),
            watcher.sees(step.groups),
            step.live,
        )
        watcher.keep(step.groups)
        live, step = step.live, vector.step(decision.actions)
        ended = step.ended if live is None else step.ended & live.to(step.ended.device)
        # An env that was not live has begun anew, and what was seen before is none of its episode's.
        begun = ended if live is None else ended | ~live.to(ended.device)
        if bool(ended.any()):
            _mark(collector, step, ended, group, watcher)
            tally.terminated += int((step.terminated & ended).sum())
            tally.truncated += int((step.truncated & ended).sum())
        if bool(begun.any()):
            expert.reset(begun)
            watcher.forget(begun)
        tally.steps += 1
        if on_step is not None:
            on_step(collector, tally)
    return tally


class _Student:
    """What a student sees of the groups of a step: what is built of the expert's terms, a group, or nothing."""

    def __init__(self, student: StudentObsBuilder | str | None, group: str | None) -> None:
        self._own = student if isinstance(student, str) else None
        self._builder = None if isinstance(student, str) else student
        self._group = group

    def sees(self, groups: Groups) -> torch.Tensor | None:
        if self._own is not None:
            return group_of(groups, self._own)
        return None if self._builder is None else self._builder.get_observation(self._terms(groups))

    def keep(self, groups: Groups) -> None:
        if self._builder is not None:
            self._builder.update_history(self._terms(groups))

    def forget(self, envs: torch.Tensor) -> None:
        if self._builder is not None:
            self._builder.reset_history(envs.to(self._builder.device))

    def _terms(self, groups: Groups) -> dict[str, torch.Tensor]:
        assert self._builder is not None
        return self._builder.split(group_of(groups, self._group))


def _mark(
    collector: ExpertTrajectoryCollector, step: Step, ended: torch.Tensor, group: str | None, student: _Student
) -> None:
    running = sorted({int(env) for env in ended.nonzero().squeeze(1).cpu()} & set(collector.running))
    if not running:
        return
    last = None if step.final is None else group_of(step.final, group)
    last_student = None if step.final is None else student.sees(step.final)
    collector.mark_trajectory_end(
        env_ids=running,
        terminated=step.terminated[running],
        truncated=step.truncated[running],
        final_observations=None if last is None else last[running],
        final_student_observations=None if last_student is None else last_student[running],
    )


def matrix(values: torch.Tensor) -> torch.Tensor:
    """Return actions as rows: an env with one discrete action takes [N]."""
    return values.reshape(len(values), -1)
