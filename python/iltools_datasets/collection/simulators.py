"""Simulators by name: `mjlab:TASK`, `isaaclab:TASK`, `gym:ID`, `module:function`. Each is imported when it is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from iltools_datasets._base.extras import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.collection") from error

from iltools_datasets.collection.policies import named_object
from iltools_datasets.errors import ArgumentError, SourceNotFoundError

__all__ = ["Simulation", "Wanted", "open_simulation", "runner_settings"]

Settings = Mapping[str, Any]
_MOTION_SETTINGS = ("motion_file", "motion_path", "motion_dir")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a simulator.

    Attributes:
        num_envs: how many envs; None = what the task has.
        device: "cpu", "cuda:0", ...; None = a GPU if there is one.
        seed: of the environment, and of torch's generator, which policies draw from; None = the task's.
        motion: file or directory that the task's motion command is to follow.
        headless: open no window, where the simulator has one.
        arguments: settings of the task by dotted name, or arguments of the function that makes the environment.
    """

    num_envs: int | None = None
    device: str | None = None
    seed: int | None = None
    motion: Path | None = None
    headless: bool = False
    arguments: Settings = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The device that was asked for, or else a GPU if there is one."""
        return self.device or ("cuda:0" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True)
class Simulation:
    """An environment that `envs.adapt` takes, and what belongs to it.

    Attributes:
        env: the environment.
        runner: makes rsl_rl's runner for it, with the settings given or else those that the task is registered with;
            `ArgumentError` where there are none.
        close: ends the simulator; of Isaac Lab, the process too.
    """

    env: Any
    runner: Callable[[Settings | None], Any]
    close: Callable[[], None]


def open_simulation(name: str, wanted: Wanted) -> Simulation:
    """Return a simulation by its name.

    Args:
        name: `mjlab:TASK`, `isaaclab:TASK`, `gym:ID` (gymnasium), `module:function`, which is called with the arguments
            (and `num_envs`, where it is given), or a task's name alone, looked for in the simulators that are
            installed.

    Raises:
        ArgumentError: no such simulator, task, setting or function, with those there are; or one that the simulator
            does not take.
        MissingExtraError: mjlab is not installed. SourceNotFoundError: no such motion.
    """
    if wanted.motion is not None and not wanted.motion.exists():
        raise SourceNotFoundError(f"{wanted.motion}: no such file or directory")
    if wanted.seed is not None:
        torch.manual_seed(wanted.seed)
    kind, colon, rest = name.partition(":")
    if not colon:
        return open_simulation(_with_simulator(name), wanted)
    if kind in _SIMULATORS and rest:
        return _SIMULATORS[kind](rest, wanted)
    if wanted.motion is not None:
        raise ArgumentError(f"{name}: takes no motion; pass it as an argument of the function")
    arguments = dict(wanted.arguments)
    if wanted.num_envs is not None:
        arguments["num_envs"] = wanted.num_envs
    return _simulation(named_object(name)(**arguments))


def _gymnasium(task: str, wanted: Wanted) -> Simulation:
    if wanted.motion is not None:
        raise ArgumentError(f"gym:{task}: takes no motion")
    gymnasium = _imported("gymnasium", f"gym:{task}")
    try:
        env = gymnasium.make_vec(task, **{"num_envs": wanted.num_envs or 1, **wanted.arguments})
    except (gymnasium.error.Error, TypeError) as error:
        raise ArgumentError(f"gym:{task}: {error}") from error
    return _simulation(env)


def _mjlab(task: str, wanted: Wanted) -> Simulation:
    # It opens no window by itself, and without a display its renderer must not look for one.
    os.environ.setdefault("MUJOCO_GL", "disable")
    if find_spec("mjlab") is None:
        raise missing_extra("sim", f"mjlab:{task}")
    tasks = _imported("mjlab.tasks.registry", f"mjlab:{task}")
    _known("mjlab", task, _mjlab_tasks())
    arguments = dict(wanted.arguments)
    settings = tasks.load_env_cfg(task, play=bool(arguments.pop("play", False)))
    # Then the last observation of an episode is given, and not lost in the reset.
    settings.auto_reset = False
    if wanted.num_envs is not None:
        settings.scene.num_envs = wanted.num_envs
    if wanted.seed is not None:
        settings.seed = wanted.seed
    _apply(f"mjlab:{task}", settings, wanted.motion, arguments)
    env = import_module("mjlab.envs").ManagerBasedRlEnv(cfg=settings, device=wanted.place)
    registered = tasks.load_rl_cfg(task)

    def runner(given: Settings | None) -> Any:
        rl = import_module("mjlab.rl")
        made = tasks.load_runner_cls(task) or rl.MjlabOnPolicyRunner
        around = rl.RslRlVecEnvWrapper(env, clip_actions=registered.clip_actions)
        return made(around, asdict(registered) if given is None else dict(given), device=wanted.place)

    clip = registered.clip_actions
    return Simulation(env if clip is None else _Clipped(env, float(clip)), runner, env.close)


def _mjlab_tasks() -> list[str]:
    import_module("mjlab.tasks")  # which registers them
    found: list[str] = import_module("mjlab.tasks.registry").list_tasks()
    return found


def _isaac_lab(task: str, wanted: Wanted) -> Simulation:
    where = f"isaaclab:{task}"
    # The simulator has to run before anything else of it can be imported.
    app = _imported("isaaclab.app", where).AppLauncher(headless=wanted.headless, device=wanted.place).app
    gymnasium, tasks = _imported("gymnasium", where), _imported("isaaclab_tasks.utils", where)
    try:
        settings = tasks.parse_env_cfg(task, device=wanted.place, num_envs=wanted.num_envs)
    except (gymnasium.error.Error, ValueError) as error:
        raise ArgumentError(f"{where}: {error}") from error
    if wanted.seed is not None:
        settings.seed = wanted.seed
    _apply(where, settings, wanted.motion, dict(wanted.arguments))
    registered = tasks.load_cfg_from_registry(task, "rsl_rl_cfg_entry_point")
    clip = getattr(registered, "clip_actions", None)
    env = _imported("isaaclab_rl.rsl_rl", where).RslRlVecEnvWrapper(
        gymnasium.make(task, cfg=settings), clip_actions=clip
    )

    def runner(given: Settings | None) -> Any:
        return _rsl_rl_runner(env, _as_settings(registered) if given is None else given, wanted.place)

    def close() -> None:
        env.close()
        app.close()

    return Simulation(env, runner, close)


_SIMULATORS: dict[str, Callable[[str, Wanted], Simulation]] = {
    "gym": _gymnasium,
    "isaaclab": _isaac_lab,
    "mjlab": _mjlab,
}


def _simulation(env: Any) -> Simulation:
    """Return the simulation of an environment of which no registry says how its policies were trained."""

    def runner(given: Settings | None) -> Any:
        if given is None:
            raise ArgumentError(
                "a checkpoint holds weights alone, and no task's registry says what runner they are of; "
                "policy_config names a function that returns its settings"
            )
        return _rsl_rl_runner(env, given, str(getattr(env, "device", "cpu")))

    return Simulation(env, runner, getattr(env, "close", lambda: None))


def _rsl_rl_runner(env: Any, settings: Settings, device: str) -> Any:
    runners = _imported("rsl_rl.runners", "a checkpoint of rsl_rl")
    made = getattr(runners, str(settings.get("class_name") or "OnPolicyRunner"))
    return made(env, dict(settings), log_dir=None, device=device)


def runner_settings(name: str) -> Settings:
    """Return the settings that a function, `module:function`, returns: a mapping, a dataclass, or with `to_dict`."""
    return _as_settings(named_object(name)())


def _as_settings(settings: Any) -> Settings:
    if callable(getattr(settings, "to_dict", None)):
        settings = settings.to_dict()
    elif is_dataclass(settings) and not isinstance(settings, type):
        settings = asdict(settings)
    if not isinstance(settings, Mapping):
        raise ArgumentError(f"settings of a runner: expected a mapping, found {type(settings).__name__}")
    return settings


class _Clipped:
    """An environment that gets actions within bounds; what is recorded is what the policy said."""

    def __init__(self, env: Any, bound: float) -> None:
        self._env, self._bound = env, bound

    def step(self, actions: torch.Tensor) -> Any:
        return self._env.step(actions.clamp(-self._bound, self._bound))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


def _with_simulator(task: str) -> str:
    """Return a task's name with that of the simulator which has it."""
    if find_spec("mjlab") is not None and task in _mjlab_tasks():
        return f"mjlab:{task}"
    if find_spec("isaaclab") is not None:
        return f"isaaclab:{task}"
    if find_spec("gymnasium") is not None and task in import_module("gymnasium").registry:
        return f"gym:{task}"
    raise ArgumentError(
        f"{task!r}: no task of a simulator that is installed; say whose it is: mjlab:{task}, isaaclab:{task}, "
        f"gym:{task}, or module:function"
    )


def _imported(module: str, wanted_by: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ArgumentError(f"{wanted_by}: needs {module.partition('.')[0]}: {error}") from error


def _known(simulator: str, task: str, tasks: list[str]) -> None:
    if task not in tasks:
        raise ArgumentError(f"{simulator}:{task}: no such task; there are {', '.join(tasks)}")


def _apply(where: str, settings: Any, motion: Path | None, arguments: Settings) -> None:
    """Put a motion, and settings by their dotted names, into a task's settings; each has to be there."""
    if motion is not None:
        _follow(where, settings, motion)
    for name, value in arguments.items():
        *path, last = name.split(".")
        holder = settings
        for part in path:
            holder = _entry(where, holder, part, name)
        _entry(where, holder, last, name)
        if isinstance(holder, dict):
            holder[last] = value
        else:
            setattr(holder, last, value)


def _entry(where: str, holder: Any, part: str, name: str) -> Any:
    held = holder if isinstance(holder, Mapping) else getattr(holder, "__dict__", {})
    if part not in held and not hasattr(type(holder), part):
        raise ArgumentError(f"{where}: no setting {name!r}: no {part!r}; there are {sorted(map(str, held))}")
    return held[part] if part in held else getattr(holder, part)


def _follow(where: str, settings: Any, motion: Path) -> None:
    commands = getattr(settings, "commands", None) or {}
    held: Mapping[str, Any] = commands if isinstance(commands, Mapping) else vars(commands)
    for command in held.values():
        for setting in _MOTION_SETTINGS:
            if hasattr(command, setting):
                setattr(command, setting, str(motion))
                return
    raise ArgumentError(f"{where}: none of its commands follows a motion; there are {sorted(held)}")
