"""`iltools collect`: an expert in a simulator, recorded."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from iltools_datasets.cli.output import AsJson
from iltools_datasets.cli.recorded import Places, record
from iltools_datasets.errors import ArgumentError

_INTERRUPTED = 130


def collect(
    env: Annotated[
        str | None,
        typer.Argument(help="mjlab:TASK, isaaclab:TASK, gym:ID, or module:function that returns an environment."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="A task of a simulator that is installed, instead of ENV.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "--checkpoint_path",
            help="module:function, a checkpoint of rsl_rl, or an exported policy: TorchScript, or .onnx.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", "--output_path", help="Directory of the store; or a .npy or .pt, and no store."),
    ] = None,
    num_envs: Annotated[
        int | None, typer.Option("--num-envs", "--num_envs", min=1, help="How many envs. By default the task's.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Stop when so many episodes are over.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps of all envs.")] = None,
    max_steps: Annotated[
        int | None,
        typer.Option("--max-steps", "--max_steps", min=1, help="The same in env-steps: a step of all envs is N."),
    ] = None,
    episode_steps: Annotated[
        int | None, typer.Option(min=1, help="Cut longer episodes. By default the task's own limit, else 100,000.")
    ] = None,
    motion: Annotated[Path | None, typer.Option(help="What the task's motion command follows.")] = None,
    group: Annotated[str | None, typer.Option(help="The observation group. By default policy, else actor.")] = None,
    policy_group: Annotated[
        str | None, typer.Option(help="The group that an exported policy takes. By default the one recorded.")
    ] = None,
    policy_config: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Returns the runner's settings, where no registry has them."),
    ] = None,
    student_keys: Annotated[
        str | None, typer.Option(help="Terms of the group that a student sees, with commas between.")
    ] = None,
    student_group: Annotated[
        str | None, typer.Option(help="Or the environment's own group that a student sees, as it is.")
    ] = None,
    student_history: Annotated[
        int,
        typer.Option(
            "--student-history",
            "--student_obs_history",
            min=0,
            help="Frames of each of the student's terms. Without --student-keys those are all.",
        ),
    ] = 0,
    student_order: Annotated[
        Literal["newest_first", "oldest_first"], typer.Option(help="How a term's frames lie.")
    ] = "newest_first",
    student_pad: Annotated[
        Literal["zero", "first"], typer.Option(help="What stands before an episode's first frame: 0, or that frame.")
    ] = "zero",
    stochastic: Annotated[bool, typer.Option("--stochastic", help="Draw from the policy's distribution.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the environment, and of what the policy draws.")] = None,
    device: Annotated[str | None, typer.Option(help="Where it runs. By default a GPU if there is one.")] = None,
    npy: Annotated[Path | None, typer.Option(help="Write valid rows to this .npy or .pt, too.")] = None,
    env_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A setting of the task, as a.b=1, or a function's argument; repeat it."
        ),
    ] = None,
    on_nan: Annotated[Literal["error", "drop"], typer.Option(help="What a row with NaN is.")] = "error",
    headless: Annotated[bool, typer.Option("--headless", help="Open no window (Isaac Lab; others never do).")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a recording that did not end.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let an expert act in a simulator and record what it saw and did: a store, or the file that others train from."""
    from iltools_datasets.collection.checkpoints import open_policy
    from iltools_datasets.collection.collector import ExpertTrajectoryCollector
    from iltools_datasets.collection.envs import adapt, group_of
    from iltools_datasets.collection.rollout import collect as roll_out
    from iltools_datasets.collection.rollout import matrix
    from iltools_datasets.collection.simulators import Wanted, open_simulation, runner_settings

    name, expert_name, target = _asked_for(env, task, policy, output)
    if episodes is None and steps is None and max_steps is None:
        raise ArgumentError("say when to stop: --episodes, --steps or --max-steps")
    places = Places.of(target, npy, resume=resume, overwrite=overwrite)
    arguments = dict(map(_parse_argument, env_arg or ()))
    wanted = Wanted(num_envs, device, seed, motion, headless, arguments)
    # Simulators talk, and standard output is for what was found.
    with redirect_stdout(sys.stderr):
        simulation = open_simulation(name, wanted)
    try:
        with redirect_stdout(sys.stderr):
            vector = adapt(simulation.env)
            expert = open_policy(
                expert_name,
                lambda: simulation.runner(None if policy_config is None else runner_settings(policy_config)),
                group=policy_group or group,
                stochastic=stochastic,
                device=device or "cpu",
            )
            first = vector.reset(seed)
            width = vector.action_width
            if width is None:
                width = matrix(expert(first).actions).shape[1]
                expert.reset(~first.ended)  # of all envs
            sees = (student_keys, student_group, student_history, student_order, student_pad)
            student = _student(simulation.env, group, *sees)
            collector = ExpertTrajectoryCollector(
                group_of(first.groups, group).shape[1],
                width,
                _student_width(student, first.groups),
                max_trajectories=2**62,
                directory=places.directory,
                overwrite=overwrite,
                resume=resume,
                student_builder=None if isinstance(student, str) else student,
                max_episode_steps=episode_steps or vector.max_episode_steps,
                on_nan=on_nan,
                attributes={"env": name, "policy": expert_name},
            )
            if max_steps is not None:
                steps = min(steps or max_steps, -(-max_steps // vector.num_envs))
            recorded = record(
                collector,
                places,
                lambda on_step: roll_out(
                    vector,
                    expert,
                    collector,
                    episodes=episodes,
                    steps=steps,
                    group=group,
                    student=student,
                    first=first,
                    on_step=on_step,
                ),
                quiet=as_json,
            )
        recorded.print(as_json=as_json)
    finally:
        simulation.close()
    if recorded.interrupted:
        raise typer.Exit(_INTERRUPTED)


def _asked_for(env: str | None, task: str | None, policy: str | None, output: Path | None) -> tuple[str, str, Path]:
    if (env is None) == (task is None):
        raise ArgumentError("say where: ENV, or --task, and not both")
    if policy is None:
        raise ArgumentError("say who acts: --policy")
    if output is None:
        raise ArgumentError("say where to: --out")
    return env or task or "", policy, output


def _student(env: Any, group: str | None, keys: str | None, own: str | None, history: int, order: Any, pad: Any) -> Any:
    """Return what a student sees: a builder, the name of a group, or None."""
    from iltools_datasets.collection.student_obs import StudentObsBuilder

    if own is not None:
        if keys is not None or history:
            raise ArgumentError("--student-group is taken as it is: leave out --student-keys and --student-history")
        return own
    if keys is None and not history:
        return None
    group = group or "policy"
    terms = StudentObsBuilder.like(env, group).obs_keys if keys is None else keys.split(",")
    return StudentObsBuilder(env, terms, history, group=group, order=order, pad=pad)


def _student_width(student: Any, groups: Any) -> int | None:
    from iltools_datasets.collection.envs import group_of

    if student is None:
        return None
    return group_of(groups, student).shape[1] if isinstance(student, str) else int(student.total_dim)


def _parse_argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"expected NAME=VALUE, got {text!r}", param_hint="--env-arg")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
