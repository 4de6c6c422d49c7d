"""The loop that collects: an expert in an environment, until enough episodes or steps are recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iltools_datasets._base.extras import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.collection") from error

from iltools_datasets.collection.collector import ExpertTrajectoryCollector
from iltools_datasets.collection.envs import Groups, adapt
from iltools_datasets.collection.policies import as_policy
from iltools_datasets.collection.student_obs import StudentObsBuilder
from iltools_datasets.errors import ArgumentError, MissingKeyError

__all__ = ["collect"]


def collect(
    env: Any,
    policy: Any,
    collector: ExpertTrajectoryCollector,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    group: str | None = None,
    student: StudentObsBuilder | None = None,
    stochastic: bool = False,
    seed: int | None = None,
    on_step: Callable[[ExpertTrajectoryCollector], None] | None = None,
) -> None:
    """Let an expert act and record what it saw and did.

    What is recorded are the very tensors that the policy got, copied before the environment steps. Once enough episodes
    are over no new one begins, and those that run are recorded to their end, so that short ones are not favoured.

    Args:
        env: see `envs.adapt`: rsl_rl's VecEnv, a manager-based env, gymnasium's vector env.
        policy: see `policies.as_policy`: any callable, rsl_rl's models, what `policies` loads.
        collector: takes the rows; it is not closed.
        episodes: stop when so many are over, and those that ran then; never more than the collector's own limit.
        steps: stop after so many steps of all envs; what runs then is left running.
        group: the observation group that is recorded; None = "policy" or "actor", whichever there is.
        student: builds the student's observations out of the group's terms; its history is kept up here.
        stochastic: as in `as_policy`.
        seed: of the environment's first reset.
        on_step: called after each step.

    Raises:
        ArgumentError: neither `episodes` nor `steps`. MissingKeyError: no such observation group.
    """
    if episodes is None and steps is None:
        raise ArgumentError("say when to stop: episodes= or steps=")
    if episodes is not None:
        collector.stop_after(episodes)
    vector, expert = adapt(env), as_policy(policy, stochastic=stochastic)
    step, count = vector.reset(seed), 0
    while (steps is None or count < steps) and (not collector.is_full or collector.running):
        seen = group_of(step.groups, group)
        decision = expert(step)
        terms = None if student is None else student.split(seen)
        collector.add_step(
            seen,
            matrix(decision.actions),
            None if decision.mean is None else matrix(decision.mean),
            None if decision.sigma is None else matrix(decision.sigma),
            None if student is None or terms is None else student.get_observation(terms),
            step.live,
        )
        if student is not None and terms is not None:
            student.update_history(terms)
        live, step, count = step.live, vector.step(decision.actions), count + 1
        ended = step.ended if live is None else step.ended & live.to(step.ended.device)
        if bool(ended.any()):
            _mark(collector, step.terminated, step.truncated, ended, step.final, group, student)
            expert.reset(ended)
        if on_step is not None:
            on_step(collector)


def _mark(
    collector: ExpertTrajectoryCollector,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    ended: torch.Tensor,
    final: Groups | None,
    group: str | None,
    student: StudentObsBuilder | None,
) -> None:
    ids = ended.nonzero().squeeze(1).cpu()
    running = [int(env) for env in ids if int(env) in set(collector.running)]
    last = None if final is None else group_of(final, group)
    last_student = None if last is None or student is None else student.get_observation(student.split(last))
    if running:
        collector.mark_trajectory_end(
            env_ids=running,
            terminated=terminated[running],
            truncated=truncated[running],
            final_observations=None if last is None else last[running],
            final_student_observations=None if last_student is None else last_student[running],
        )
    if student is not None:
        student.reset_history(ids.to(student.device))


def group_of(groups: Groups, group: str | None) -> torch.Tensor:
    """Return an observation group; None is "policy", or else "actor". `MissingKeyError` with what there is."""
    names = ("policy", "actor") if group is None else (group,)
    for name in names:
        if name in groups:
            return groups[name]
    raise MissingKeyError(f"no observation group {' or '.join(map(repr, names))}; there are {sorted(groups)}")


def matrix(values: torch.Tensor) -> torch.Tensor:
    """Return actions as rows: an env with one discrete action takes [N]."""
    return values.reshape(len(values), -1)
