"""`iltools collect`: an expert in a simulator, recorded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from iltools_datasets.cli.output import AsJson, err, facts, heading, human_bytes, human_count, out, print_json
from iltools_datasets.errors import ArgumentError

_INTERRUPTED = 130


def collect(
    env: Annotated[str, typer.Argument(help="gym:ID, or module:function that returns an environment.")],
    policy: Annotated[
        str, typer.Option(help="module:function, or an exported policy: TorchScript, or a file that ends in .onnx.")
    ],
    store: Annotated[Path, typer.Option("--out", help="Directory of the store.")],
    num_envs: Annotated[int | None, typer.Option(help="How many envs; passed to what makes the environment.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Stop when so many episodes are over.")] = None,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps of all envs.")] = None,
    episode_steps: Annotated[int | None, typer.Option(help="Cut longer episodes. By default at 100,000.")] = None,
    group: Annotated[str | None, typer.Option(help="The observation group. By default policy, else actor.")] = None,
    student_keys: Annotated[str | None, typer.Option(help="Terms that a student sees, with commas between.")] = None,
    student_history: Annotated[int, typer.Option(help="Frames of each of them.")] = 0,
    stochastic: Annotated[bool, typer.Option("--stochastic", help="Draw from the policy's distribution.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of the environment's first reset.")] = None,
    npy: Annotated[Path | None, typer.Option(help="Write valid rows to this .npy or .pt, too.")] = None,
    env_arg: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Passed to what makes the environment; repeat it.")
    ] = None,
    on_nan: Annotated[Literal["error", "drop"], typer.Option(help="What a row with NaN is.")] = "error",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a recording that did not end.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let an expert act in a simulator and record what it saw and did as a store."""
    from iltools_datasets.collection.collector import ExpertTrajectoryCollector
    from iltools_datasets.collection.envs import adapt
    from iltools_datasets.collection.expert_file import check_suffix
    from iltools_datasets.collection.policies import as_policy
    from iltools_datasets.collection.rollout import collect as roll_out
    from iltools_datasets.collection.rollout import group_of, matrix
    from iltools_datasets.collection.student_obs import StudentObsBuilder

    if episodes is None and steps is None:
        raise ArgumentError("say when to stop: --episodes or --steps")
    if npy is not None:
        check_suffix(npy)
    made = _make_env(env, num_envs, dict(map(_parse_argument, env_arg or ())))
    expert = _make_policy(policy, group)
    student = StudentObsBuilder(made, student_keys.split(","), student_history) if student_keys else None
    first = adapt(made).reset(seed)
    widths = (group_of(first.groups, group).shape[1], matrix(as_policy(expert)(first).actions).shape[1])
    collector = ExpertTrajectoryCollector(
        *widths,
        None if student is None else student.total_dim,
        max_trajectories=2**62,
        directory=store,
        overwrite=overwrite,
        resume=resume,
        max_episode_steps=episode_steps,
        on_nan=on_nan,
        attributes={"env": env, "policy": policy},
    )
    began, interrupted = time.monotonic(), False
    bar = Progress(SpinnerColumn(), TextColumn("{task.description}"), console=err(), transient=True, disable=as_json)
    with bar:
        task = bar.add_task("collecting")

        def show(recorded: ExpertTrajectoryCollector) -> None:
            rate = recorded.num_steps / max(time.monotonic() - began, 1e-9)
            line = f"{recorded.num_trajectories:,} episodes, {human_count(rate)} steps per second"
            bar.update(task, description=line)

        try:
            roll_out(
                made, expert, collector, episodes=episodes, steps=steps, group=group, student=student,
                stochastic=stochastic, seed=seed, on_step=show,
            )  # fmt: skip
        except KeyboardInterrupt:
            interrupted = True
    if npy is not None:
        collector.save(npy, only_valid=True)
    statistics = collector.get_statistics()
    collector.close()
    if as_json:
        print_json({"store": store, "interrupted": interrupted, **statistics})
    else:
        out().print(heading(store, f"store, collected in {time.monotonic() - began:.1f} s"), soft_wrap=True)
        out().print(
            facts(
                ("episodes", f"{statistics['num_trajectories']:,}"),
                ("steps", f"{statistics['num_steps']:,}, {statistics['avg_steps_per_trajectory']:.1f} an episode"),
                (
                    "left out",
                    f"{statistics['num_invalid']:,} rows without data, {statistics['num_dropped']:,} late",
                ),
                ("journal", human_bytes(statistics["bytes_on_disk"])),
            )
        )
    if interrupted:
        raise typer.Exit(_INTERRUPTED)


def _make_env(name: str, num_envs: int | None, arguments: dict[str, Any]) -> Any:
    from iltools_datasets.collection.policies import named_object

    if num_envs is not None:
        arguments["num_envs"] = num_envs
    if not name.startswith("gym:"):
        return named_object(name)(**arguments)
    try:
        import gymnasium
    except ImportError as error:
        raise ArgumentError(f"{name}: needs gymnasium: pip install gymnasium") from error
    try:
        return gymnasium.make_vec(name.removeprefix("gym:"), **{"num_envs": 1, **arguments})
    except gymnasium.error.Error as error:
        raise ArgumentError(f"{name}: {error}") from error


def _make_policy(name: str, group: str | None) -> Any:
    from iltools_datasets.collection.policies import load_exported, named_object

    return load_exported(Path(name), group or "policy") if Path(name).is_file() else named_object(name)


def _parse_argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"expected NAME=VALUE, got {text!r}", param_hint="--env-arg")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
