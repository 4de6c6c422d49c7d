"""A real simulator in a process of its own: mjlab, with rsl_rl's own runner, on the CPU.

What a roll-out without a window never calls may be missing (`pip install --no-deps mjlab rsl-rl-lib ...`): it is then
an empty module. Each function is a command, `python simulator.py NAME ARGUMENTS...`, and prints one JSON document last.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

SEEN_BY_NOBODY = ("wandb", "viser", "mjviser", "mediapy", "imageio_ffmpeg", "glfw", "OpenGL", "onnx", "onnxscript")
ON_TOP_OF = {"mujoco.viewer": "glfw", "torch.utils.tensorboard": "tensorboard"}
CARTPOLE = "Mjlab-Cartpole-Balance"
TRACKING = "Mjlab-Tracking-Flat-Unitree-G1-No-State-Estimation"


def is_there() -> bool:
    """Whether mjlab and rsl_rl are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("mjlab", "rsl_rl", "mujoco_warp"))


def exports() -> bool:
    """Whether policies can be exported, and exports run."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run one command of this file in a process of its own."""
    outcome = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == code, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    return outcome


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *_, **__: None})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: list[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == missing or name.startswith(f"{missing}.") for missing in self._names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _missing() -> list[str]:
    absent = [name for name in SEEN_BY_NOBODY if importlib.util.find_spec(name) is None]
    return absent + [name for name, below in ON_TOP_OF.items() if importlib.util.find_spec(below) is None]


def iltools(*arguments: str) -> None:
    from iltools_datasets.cli import main

    main(list(arguments))


def _runner(task: str, num_envs: int, motion: str | None = None) -> Any:
    from dataclasses import asdict

    import mjlab.tasks  # noqa: F401
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.rl import MjlabOnPolicyRunner, RslRlVecEnvWrapper
    from mjlab.tasks import registry

    settings, training = registry.load_env_cfg(task), registry.load_rl_cfg(task)
    settings.scene.num_envs, settings.seed, training.num_steps_per_env = num_envs, 0, 16
    if motion is not None:
        settings.commands["motion"].motion_file = motion
    env = RslRlVecEnvWrapper(ManagerBasedRlEnv(settings, device="cpu"), clip_actions=training.clip_actions)
    made = registry.load_runner_cls(task) or MjlabOnPolicyRunner
    return made(env, asdict(training), log_dir=None, device="cpu")


def train(task: str, checkpoint: str, iterations: str, num_envs: str, motion: str | None = None) -> None:
    """Train by rsl_rl's own runner, and let it save what it has."""
    runner = _runner(task, int(num_envs), motion)
    runner.learn(int(iterations))
    runner.save(checkpoint)
    print(json.dumps({"bytes": Path(checkpoint).stat().st_size}))


def export(task: str, checkpoint: str, folder: str) -> None:
    """Export a checkpoint's policy as rsl_rl does, to policy.pt and policy.onnx."""
    runner = _runner(task, 2)
    runner.load(checkpoint, load_cfg={"actor": True})
    runner.export_policy_to_jit(folder, "policy.pt")
    runner.export_policy_to_onnx(folder, "policy.onnx")
    print(json.dumps(sorted(path.name for path in Path(folder).iterdir())))


def compare(task: str, checkpoint: str, store: str, motion: str | None = None) -> None:
    """Hold a store's actions and means against those of a fresh runner that loaded the checkpoint in its own way."""
    import torch
    from iltools_datasets import TrajectoryStore
    from tensordict import TensorDict

    runner = _runner(task, 2, motion)
    runner.load(checkpoint, load_cfg={"actor": True})
    opened = TrajectoryStore.open(store)
    rows = opened.gather(np.arange(len(opened)))
    seen = torch.from_numpy(rows["observation"])
    with torch.no_grad():
        expected = runner.get_inference_policy("cpu")(TensorDict({"actor": seen}, [len(seen)])).numpy()
    lengths = opened.segments.length.tolist()
    print(
        json.dumps(
            {
                "off": float(np.abs(rows["action_mean"] - expected).max()),
                "largest": float(np.abs(expected).max()),
                "drawn": bool((rows["action"] != rows["action_mean"]).any()),
                "sigmas": np.unique(rows["action_sigma"]).tolist(),
                "next_known": bool(rows["next_known"].all()),
                "num_terminated": int(rows["terminated"].sum()),
                "lengths": [min(lengths), max(lengths)],
                "shapes": {str(key): list(value.shape) for key, value in rows.items()},
            }
        )
    )


def motion(csv: str, path: str, seconds: str = "10") -> None:
    """Make the motion that the tracking task follows of a CSV of the G1: 50 Hz, bodies by MuJoCo's own kinematics."""
    import mujoco
    from iltools_datasets.sources import open_source
    from iltools_datasets.sources.resample import resample
    from mjlab.asset_zoo.robots import get_g1_robot_cfg
    from mjlab.entity import Entity

    source = open_source(csv)
    recording = resample(next(iter(source.read(source.files()[0]))), 50, csv)
    qpos, qvel = (recording.arrays[key][: 50 * int(seconds)] for key in ("qpos", "qvel"))
    model = Entity(get_g1_robot_cfg()).spec.compile()
    data, bodies = mujoco.MjData(model), range(1, model.nbody)
    found: dict[str, list[Any]] = {name: [] for name in ("pos", "quat", "lin_vel", "ang_vel")}
    velocity = np.empty(6)
    for position, rate in zip(qpos, qvel, strict=True):
        data.qpos, data.qvel = position, rate
        mujoco.mj_forward(model, data)
        found["pos"].append(data.xpos[1:].copy())
        found["quat"].append(data.xquat[1:].copy())
        rates = []
        for body in bodies:
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body, velocity, 0)
            rates.append(velocity.copy())
        found["ang_vel"].append(np.array(rates)[:, :3])
        found["lin_vel"].append(np.array(rates)[:, 3:])
    arrays = {f"body_{name}_w": np.array(values, dtype=np.float32) for name, values in found.items()}
    np.savez(path, fps=50, joint_pos=qpos[:, 7:].astype(np.float32), joint_vel=qvel[:, 6:].astype(np.float32), **arrays)
    print(json.dumps({name: list(array.shape) for name, array in arrays.items()}))


def history(motion_file: str, steps: str) -> None:
    """Hold a student's history, built of single frames, against the env's own noisy group of five frames."""
    import copy

    import mjlab.tasks  # noqa: F401
    import torch
    from iltools_datasets.collection import StudentObsBuilder
    from iltools_datasets.collection.envs import adapt
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.managers.observation_manager import ObservationGroupCfg
    from mjlab.tasks import registry

    settings = registry.load_env_cfg(TRACKING)
    settings.scene.num_envs, settings.seed, settings.auto_reset = 16, 0, False
    settings.commands["motion"].motion_file = motion_file
    settings.observations["policy_student"] = ObservationGroupCfg(
        terms=copy.deepcopy(settings.observations["actor"].terms), history_length=5, enable_corruption=True
    )
    env = ManagerBasedRlEnv(settings, device="cpu")
    vector, builder = adapt(env), StudentObsBuilder.like(env)
    step, rows, equal, ends = vector.reset(0), 0, 0, 0
    for _ in range(int(steps)):
        own = step.groups["policy_student"]
        frames = builder.split(own)
        built = builder.get_observation(frames)
        rows, equal = rows + len(own), equal + int((built == own).all(dim=1).sum())
        builder.update_history(frames)
        step = vector.step(2 * torch.rand(16, 29) - 1)
        builder.reset_history(step.ended)
        ends += int(step.ended.sum())
    print(json.dumps({"rows": rows, "equal": equal, "ends": ends, "width": builder.total_dim}))


def _tracking(command: Any, num_envs: int, sampling_mode: str) -> Any:
    """Make mjlab's tracking env; `command` makes the settings of its motion out of those that it has."""
    import mjlab.tasks  # noqa: F401
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.tasks import registry

    settings = registry.load_env_cfg("Mjlab-Tracking-Flat-Unitree-G1")
    settings.scene.num_envs, settings.seed = num_envs, 0
    settings.commands["motion"].sampling_mode = sampling_mode
    settings.commands["motion"] = command(settings.commands["motion"])
    return ManagerBasedRlEnv(settings, device="cpu")


def _off(one: Any, other: Any) -> float:
    return float((one.double() - other.double()).abs().max())


def beside_its_own(store: str, motion_file: str, steps: str) -> None:
    """Run the env with a sampler's motion, and ask each of its terms of mjlab's own command at the same frames, too."""
    from dataclasses import fields

    import torch
    from mjlab.tasks.tracking.mdp import MotionCommandCfg
    from mjlab_motion_command import SampledMotionCommandCfg

    env = _tracking(lambda kept: SampledMotionCommandCfg.over(store, kept), 16, "adaptive")
    command = env.command_manager.get_term("motion")
    kept = {each.name: getattr(command.cfg, each.name) for each in fields(MotionCommandCfg)}
    own = MotionCommandCfg(**{**kept, "motion_file": motion_file}).build(env)
    observed = env.observation_manager
    managers = [
        *(("observation", observed._group_obs_term_names[group], observed._group_obs_term_cfgs[group])
          for group in observed._group_obs_term_names),
        *((kind, manager._term_names, manager._term_cfgs)
          for kind, manager in (("reward", env.reward_manager), ("termination", env.termination_manager))),
    ]  # fmt: skip
    terms = [
        (f"{kind} {name}", term)
        for kind, names, settings in managers
        for name, term in zip(names, settings, strict=True)
        if "command_name" in term.params
    ]
    off: dict[str, float] = {}
    starts, ends, wraps, rows = set(), 0, 0, 0
    torch.manual_seed(1)
    env.reset()
    for _ in range(int(steps)):
        before = command.sampler.time
        _, _, terminated, timed_out, _ = env.step(2 * torch.rand(16, 29) - 1)
        new = (command.sampler.time - before - env.step_dt).abs() > 1e-6
        starts |= set((command.sampler.time[new] * 50).round().long().tolist())
        ends, wraps = ends + int(terminated.sum()), wraps + int((new & ~terminated & ~timed_out).sum())
        own.time_steps = (command.sampler.time * 50).round().long()
        own.update_relative_body_poses()
        seen = {}
        for each in (command, own):
            each._update_metrics()
            env.command_manager._terms["motion"] = each
            seen[each] = {name: term.func(env, **term.params) for name, term in terms}
            errors = {name: error for name, error in each.metrics.items() if name.startswith("error")}
            seen[each] |= {f"metric {name}": error.clone() for name, error in errors.items()}
        env.command_manager._terms["motion"] = command
        for name, mine in seen[command].items():
            off[name] = max(off.get(name, 0.0), _off(mine, seen[own][name]))
        rows += 16
    coverage = command.sampler.coverage()
    print(
        json.dumps(
            {
                "off": off, "rows": rows, "starts": len(starts), "ends": ends, "wraps": wraps,
                "failures": int(coverage.failures.sum()), "visits": int(coverage.visits.sum()),
                "syncs": command.age // command.cfg.steps_per_sync,
            }
        )
    )  # fmt: skip


def instead_of_its_own(store: str, motion_file: str, steps: str) -> None:
    """Run two envs of one seed and the same actions, one with mjlab's own command and one with a sampler's."""
    from dataclasses import replace

    import torch
    from mjlab_motion_command import SampledMotionCommandCfg

    seen: list[list[Any]] = []
    for command in (
        lambda kept: replace(kept, motion_file=motion_file),
        lambda kept: SampledMotionCommandCfg.over(store, kept),
    ):
        env = _tracking(command, 16, "start")
        drawn = torch.Generator().manual_seed(1)
        torch.manual_seed(2)
        env.reset()
        steps_seen = []
        for _ in range(int(steps)):
            observations, rewards, terminated, timed_out, _ = env.step(2 * torch.rand(16, 29, generator=drawn) - 1)
            groups = [observations[group].clone() for group in sorted(observations)]
            steps_seen.append(
                (groups, rewards.clone(), terminated.clone(), timed_out.clone(), env.sim.data.qpos.clone())
            )
        seen.append(steps_seen)
        env.close()
    pairs = list(zip(*seen, strict=True))
    print(
        json.dumps(
            {
                "observations": max(_off(a, b) for one, other in pairs for a, b in zip(one[0], other[0], strict=True)),
                "rewards": max(_off(one[1], other[1]) for one, other in pairs),
                "largest_reward": max(float(one[1].abs().max()) for one, _ in pairs),
                "states": max(_off(one[4], other[4]) for one, other in pairs),
                "ends": [sum(int(step[2].sum()) for step in each) for each in seen],
                "same_ends": all(
                    bool((one[2] == other[2]).all() and (one[3] == other[3]).all()) for one, other in pairs
                ),
                "rows": 16 * len(pairs),
            }
        )
    )


def shaky(observations: Any) -> Any:
    """An expert that falls: actions at random."""
    import torch

    seen = observations["actor"]
    return 2 * torch.rand(len(seen), 29, device=seen.device) - 1


if __name__ == "__main__":
    sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[2] / "examples")]
    os.environ.setdefault("MUJOCO_GL", "disable")
    os.environ.setdefault("MJLAB_WARP_QUIET", "1")
    sys.meta_path.insert(0, _Finder(_missing()))
    with contextlib.suppress(ImportError):
        import warp

        warp.config.quiet = True
    globals()[sys.argv[1]](*sys.argv[2:])
