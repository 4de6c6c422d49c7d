"""Simulators by name, told by what their modules offer; those that are not installed are stood in for."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from iltools_datasets.errors import ArgumentError, MissingExtraError, SourceNotFoundError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection import simulators  # noqa: E402
from iltools_datasets.collection.envs import adapt  # noqa: E402
from iltools_datasets.collection.simulators import Wanted, open_simulation, runner_settings  # noqa: E402


class Env:
    """A VecEnv's surface, keeping what it was made with."""

    num_actions, device = 1, "cpu"

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given, self.named = given, named
        self.num_envs = named.get("num_envs", 2)
        self.closed = False

    def get_observations(self) -> Any:
        return {"policy": torch.zeros(self.num_envs, 3)}

    def step(self, actions: Any) -> Any:
        self.actions = actions
        return self.get_observations(), None, torch.zeros(self.num_envs), {}

    def close(self) -> None:
        self.closed = True


class Runner:
    def __init__(self, env: Any, settings: Any, log_dir: Any = None, device: Any = None) -> None:
        self.env, self.settings, self.device = env, settings, device


class Distiller(Runner):
    pass


def modules(monkeypatch: pytest.MonkeyPatch, **made: dict[str, Any]) -> None:
    """Put modules in place, by dotted names with `__` for the dots."""
    for name, members in made.items():
        dotted = name.replace("__", ".")
        parts = dotted.split(".")
        for depth in range(1, len(parts) + 1):
            parent = ".".join(parts[:depth])
            if parent not in sys.modules or parent == dotted:
                module = ModuleType(parent)
                module.__spec__ = SimpleNamespace(name=parent)  # type: ignore[assignment]
                module.__path__ = []
                monkeypatch.setitem(sys.modules, parent, module)
        vars(sys.modules[dotted]).update(members)


@dataclass
class Motion:
    motion_file: str = ""


@dataclass
class Scene:
    num_envs: int = 64


@dataclass
class Task:
    """mjlab's settings of a task."""

    auto_reset: bool = True
    seed: int | None = None
    episode_length_s: float = 10.0
    scene: Scene = field(default_factory=Scene)
    commands: dict[str, Any] = field(default_factory=lambda: {"motion": Motion()})
    play: bool = False


@dataclass
class Training:
    clip_actions: float | None = None
    steps: int = 24


@pytest.fixture
def mjlab(monkeypatch: pytest.MonkeyPatch) -> Any:
    told = SimpleNamespace(training=Training(), runner=None)

    class ManagerEnv(Env):
        observation_manager = object()

        def __init__(self, cfg: Any, device: str) -> None:
            super().__init__(cfg, device, num_envs=cfg.scene.num_envs)
            self.cfg = cfg

        def step(self, actions: Any) -> Any:
            self.actions = actions

    registry = {
        "list_tasks": lambda: ["Balance", "Track"],
        "load_env_cfg": lambda task, play=False: Task(play=play),
        "load_rl_cfg": lambda task: told.training,
        "load_runner_cls": lambda task: told.runner,
    }
    modules(
        monkeypatch,
        mjlab={},
        mjlab__tasks={},
        mjlab__tasks__registry=registry,
        mjlab__envs={"ManagerBasedRlEnv": ManagerEnv},
        mjlab__rl={"MjlabOnPolicyRunner": Runner, "RslRlVecEnvWrapper": Env},
    )
    return told


def test_mjlab(mjlab: Any, tmp_path: Path) -> None:
    (tmp_path / "walk.npz").write_bytes(b"")
    arguments = {"episode_length_s": 2.5, "scene.num_envs": 9}
    made = open_simulation("mjlab:Track", Wanted(4, "cpu", 7, tmp_path / "walk.npz", arguments=arguments))
    settings, device = made.env.given
    # The last observation of an episode is to be seen: the env is reset by whoever steps it.
    assert settings.auto_reset is False
    assert (settings.scene.num_envs, settings.seed, settings.episode_length_s, device) == (9, 7, 2.5, "cpu")
    assert settings.commands["motion"].motion_file == str(tmp_path / "walk.npz")
    runner = made.runner(None)
    assert type(runner) is Runner
    assert (runner.settings, runner.device) == ({"clip_actions": None, "steps": 24}, "cpu")
    assert runner.env.given == (made.env,)
    assert made.runner({"steps": 1}).settings == {"steps": 1}
    mjlab.runner = Distiller
    assert type(made.runner(None)) is Distiller
    made.close()
    assert made.env.closed
    assert open_simulation("mjlab:Track", Wanted(arguments={"play": True})).env.given[0].play is True
    assert open_simulation("Track", Wanted(num_envs=3)).env.given[0].scene.num_envs == 3


def test_actions_are_clipped_where_the_task_was_trained_so(mjlab: Any) -> None:
    mjlab.training = Training(clip_actions=0.5)
    made = open_simulation("mjlab:Balance", Wanted())
    made.env.step(torch.tensor([[3.0], [-0.25]]))
    assert made.env.actions.tolist() == [[0.5], [-0.25]]
    assert adapt(made.env).num_envs == 64


def test_isaac_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("gymnasium", reason="needs gymnasium")
    import gymnasium

    log: list[Any] = []
    settings = SimpleNamespace(seed=None, commands=SimpleNamespace(motion=SimpleNamespace(motion_file="")))
    registered = SimpleNamespace(clip_actions=None, to_dict=lambda: {"class_name": "Distiller", "steps": 3})

    class App:
        def __init__(self, **how: Any) -> None:
            log.append(how)
            self.app = SimpleNamespace(close=lambda: log.append("closed"))

    modules(
        monkeypatch,
        isaaclab__app={"AppLauncher": App},
        isaaclab_tasks__utils={
            "parse_env_cfg": lambda task, device, num_envs: log.append((task, device, num_envs)) or settings,
            "load_cfg_from_registry": lambda task, entry: log.append(entry) or registered,
        },
        isaaclab_rl__rsl_rl={"RslRlVecEnvWrapper": Env},
        rsl_rl__runners={"OnPolicyRunner": Runner, "Distiller": Distiller},
    )
    monkeypatch.setattr(gymnasium, "make", lambda task, cfg: ("env", task, cfg))
    made = open_simulation("isaaclab:Tracking-v0", Wanted(8, "cpu", 1, tmp_path, headless=True))
    assert log == [{"headless": True, "device": "cpu"}, ("Tracking-v0", "cpu", 8), "rsl_rl_cfg_entry_point"]
    assert (settings.seed, settings.commands.motion.motion_file) == (1, str(tmp_path))
    assert made.env.given == (("env", "Tracking-v0", settings),)
    runner = made.runner(None)
    assert (type(runner), runner.settings) == (Distiller, {"class_name": "Distiller", "steps": 3})
    made.close()
    assert made.env.closed
    assert log[-1] == "closed"


def make_env(num_envs: int = 2, width: int = 1) -> Env:
    return Env(num_envs=num_envs, width=width)


def settings_of_a_runner() -> Any:
    return Training(steps=5)


def test_a_function_and_its_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    made = open_simulation("test_simulators:make_env", Wanted(num_envs=5, arguments={"width": 3}))
    assert made.env.named == {"num_envs": 5, "width": 3}
    with pytest.raises(ArgumentError, match="a checkpoint holds weights alone"):
        made.runner(None)
    modules(monkeypatch, rsl_rl__runners={"OnPolicyRunner": Runner})
    assert runner_settings("test_simulators:settings_of_a_runner") == {"clip_actions": None, "steps": 5}
    assert made.runner(runner_settings("test_simulators:settings_of_a_runner")).settings["steps"] == 5
    with pytest.raises(ArgumentError, match="settings of a runner: expected a mapping, found Env"):
        runner_settings("test_simulators:make_env")


def test_gymnasium() -> None:
    pytest.importorskip("gymnasium", reason="needs gymnasium")
    made = open_simulation("CartPole-v1", Wanted(num_envs=3, seed=4))
    assert adapt(made.env).num_envs == 3
    made.close()
    assert torch.initial_seed() == 4


@pytest.mark.faults
def test_what_there_is_not(mjlab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "walk.npz").write_bytes(b"")
    walk = tmp_path / "walk.npz"
    for name, wanted, error, message in (
        ("mjlab:Fly", Wanted(), ArgumentError, "mjlab:Fly: no such task; there are Balance, Track"),
        ("Fly", Wanted(), ArgumentError, "no task of a simulator that is installed"),
        ("mjlab:Track", Wanted(motion=tmp_path / "none"), SourceNotFoundError, "none: no such file"),
        ("test_simulators:make_env", Wanted(motion=walk), ArgumentError, "takes no motion"),
        ("nowhere:make", Wanted(), ArgumentError, "nowhere:make"),
        ("isaaclab:Any-v0", Wanted(), ArgumentError, "isaaclab:Any-v0: needs isaaclab"),
        (
            "mjlab:Track",
            Wanted(arguments={"scene.colour": 1}),
            ArgumentError,
            r"no setting 'scene.colour': no 'colour'; there are \['num_envs'\]",
        ),
    ):
        with pytest.raises(error, match=message):
            open_simulation(name, wanted)
    monkeypatch.setattr(Task, "__init__", lambda self, play=False: vars(self).update(commands={}, scene=Scene()))
    with pytest.raises(ArgumentError, match="none of its commands follows a motion"):
        open_simulation("mjlab:Track", Wanted(motion=walk))
    monkeypatch.setattr(simulators, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"iltools-datasets\[sim\]"):
        open_simulation("mjlab:Track", Wanted())
