"""A MuJoCo env of gymnasium's that follows motion, in a vector env: HalfCheetah against clips of another rate.

`python examples/gymnasium_tracking.py` records clips in MuJoCo, follows them with a controller that reads nothing but
the observation, and says how well it does and where it fails. In a project of your own `TrackMotion` goes around the
vector env that is there; what rewards, what ends an episode and what the policy sees of the motion is said in it.
Needs `pip install 'gymnasium[mujoco]'`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from iltools_datasets import StoreBuilder, TrajectoryStore
from iltools_datasets.tracking import Adaptive, MotionSampler
from numpy.typing import NDArray

TASK = "HalfCheetah-v5"
JOINTS = slice(3, 9)
"""Of qpos and of qvel: the six that have motors. Before them are the root's x, height and pitch."""
AHEAD = (0, 1, 2)
"""Control steps that the policy sees of the motion."""
OFF_BY, TILTED_BY = 1.0, 1.2
"""Radians, of a joint and of the root: an episode is over where a cheetah is further from its motion."""

Floats = NDArray[np.floating[Any]]


class TrackMotion(VectorWrapper):
    """Envs that start where the motion is, are paid for staying with it, and are over where they lose it.

    Args:
        env: MuJoCo envs in one process that do not reset themselves: their motion says where they begin again.
        store: clips with `qpos` and `qvel` of the same model, at any rate.
        adaptive: how falls become starts.
        steps_per_sync: control steps of an iteration.
        seed: of the starts.

    Observations are the env's, and behind them how far the motion's qpos and qvel are ahead, now and in some steps.
    Envs that are over begin anew in the same step; what they saw last is `infos["final_obs"]`.
    """

    def __init__(
        self,
        env: SyncVectorEnv,
        store: TrajectoryStore,
        adaptive: Adaptive | None = None,
        steps_per_sync: int = 24,
        seed: int = 0,
    ) -> None:
        super().__init__(env)
        if env.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
            raise ValueError("make the envs with vector_kwargs={'autoreset_mode': AutoresetMode.DISABLED}")
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.sims = [each.unwrapped for each in env.envs]
        self.motion = MotionSampler(
            store, env.num_envs, self.sims[0].dt, AHEAD, keys=["qpos", "qvel"], adaptive=adaptive, seed=seed
        )
        model = self.sims[0].model
        width = env.single_observation_space.shape[0] + len(AHEAD) * (model.nq + model.nv)
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (width,))
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.steps, self.steps_per_sync = 0, steps_per_sync

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Floats, dict[str, Any]]:
        _, infos = self.env.reset(seed=seed, options=options)
        self.motion.reset()
        self._put(np.arange(self.num_envs))
        return self._seen(), infos

    def step(self, actions: Any) -> tuple[Floats, Floats, Any, Any, dict[str, Any]]:
        _, _, _, timed_out, infos = self.env.step(actions)
        ended = self.motion.step()
        qpos, _ = self._states()
        off = self.motion.lookup(offsets=[0], keys=["qpos"])["qpos"][:, 0] - qpos
        rewards = np.exp(-((off[:, JOINTS] / 0.3) ** 2).mean(axis=1))
        terminated = (np.abs(off[:, JOINTS]).max(axis=1) > OFF_BY) | (np.abs(off[:, 2]) > TILTED_BY)
        truncated = ended | timed_out
        seen = self._seen()
        if len(over := np.flatnonzero(terminated | truncated)):
            infos = {**infos, "final_obs": seen.copy(), "_final_obs": terminated | truncated}
            mask = np.zeros(self.num_envs, dtype=bool)
            mask[over] = True
            self.env.reset(options={"reset_mask": mask})
            self.motion.reset(over, terminated[over])  # books the falls where they were, then moves
            self._put(over)
            seen[over] = self._seen()[over]
        self.steps += 1
        if self.steps % self.steps_per_sync == 0:
            self.motion.sync()
        return seen, rewards, terminated, truncated, infos

    def _put(self, envs: NDArray[np.int64]) -> None:
        start = self.motion.lookup(offsets=[0], env_ids=envs)
        for env, qpos, qvel in zip(envs, start["qpos"][:, 0], start["qvel"][:, 0], strict=True):
            self.sims[env].set_state(qpos.astype(np.float64), qvel.astype(np.float64))

    def _states(self) -> tuple[Floats, Floats]:
        return np.stack([sim.data.qpos for sim in self.sims]), np.stack([sim.data.qvel for sim in self.sims])

    def _seen(self) -> Floats:
        """Return what the policy sees; the env's own observations are of before it was put somewhere."""
        seen = np.stack([sim._get_obs() for sim in self.sims])
        qpos, qvel = self._states()
        reference = self.motion.lookup()
        ahead = [reference["qpos"] - qpos[:, None], reference["qvel"] - qvel[:, None]]
        return np.concatenate([seen, *(part.reshape(self.num_envs, -1) for part in ahead)], axis=1)


def controller(model: Any) -> Callable[[Floats], Floats]:
    """Return a policy: torques that hold the joints' springs and pull to where the motion is a step ahead."""
    gear, stiffness, damping = model.actuator_gear[:, 0], model.jnt_stiffness[JOINTS], model.dof_damping[JOINTS]

    def policy(seen: Floats) -> Floats:
        ahead = seen[:, -len(AHEAD) * 18 :].reshape(len(seen), 2, len(AHEAD), 9)
        wanted = seen[:, 2:8] + ahead[:, 0, 1, JOINTS]
        torque = gear * ahead[:, 0, 1, JOINTS] + damping * ahead[:, 1, 0, JOINTS] + 0.6 * stiffness * wanted
        return np.clip(torque / gear, -1, 1).astype(np.float32)

    return policy


def limp(seen: Floats) -> Floats:
    """A policy that does nothing."""
    return np.zeros((len(seen), 6), dtype=np.float32)


def record(path: Path, clips: int = 6, seed: int = 0, states: int = 240) -> TrajectoryStore:
    """Record what a cheetah does under swinging torques, each third step of MuJoCo's, which is no step of the env's."""
    sim, rng = gym.make(TASK).unwrapped, np.random.default_rng(seed)
    told = {"fps": 1 / (3 * sim.model.opt.timestep), "kinds": {"qpos": "joint", "qvel": "joint"}}
    with StoreBuilder(path, concat={"state": ["qpos", "qvel"]}, attributes={"motion": told}) as builder:
        for clip in range(clips):
            sim.reset(seed=seed + clip)
            phase, pace = rng.uniform(0, 2 * np.pi, 6), rng.uniform(0.5, 1.5, 6)
            # Every other clip is wild for a second, and hard to stay with.
            wild = 3.0 if clip % 2 else np.inf
            found: dict[str, list[Floats]] = {"qpos": [], "qvel": [], "action": []}
            for frame in range(states):
                time = frame * 3 * sim.model.opt.timestep
                strength = 1.0 if wild < time < wild + 1 else 0.25
                action = strength * np.sin(2 * np.pi * pace * time * (1 + 2 * (strength > 0.5)) + phase)
                found["qpos"].append(sim.data.qpos.copy())
                found["qvel"].append(sim.data.qvel.copy())
                found["action"].append(action)
                sim.do_simulation(action, 3)
            arrays = {key: np.array(rows, dtype=np.float32) for key, rows in found.items()}
            actions = {"action": arrays.pop("action")[:-1]}
            builder.add(0, clip, arrays, actions, name=f"gait{clip}", task_name="cheetah")
    return TrajectoryStore.open(path)


def follow(
    store: TrajectoryStore, num_envs: int, steps: int, controlled: bool, seed: int = 0
) -> tuple[TrackMotion, float]:
    """Let the controller or a limp cheetah follow; return the envs and the mean reward of a step."""
    env = gym.make_vec(TASK, num_envs, "sync", {"autoreset_mode": AutoresetMode.DISABLED})
    envs = TrackMotion(env, store, Adaptive(bin_s=0.5), seed=seed)
    policy = controller(envs.sims[0].model) if controlled else limp
    seen, _ = envs.reset(seed=seed)
    total = 0.0
    for _ in range(steps):
        seen, rewards, *_ = envs.step(policy(seen))
        total += float(rewards.mean())
    return envs, total / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = record(Path(directory) / "store")
        for name, controlled in (("controller", True), ("limp", False)):
            envs, reward = follow(store, arguments.num_envs, arguments.steps, controlled)
            coverage = envs.motion.coverage()
            print(f"{name}: reward {reward:.3f} a step, {coverage.failure_rate:.3f} falls per start")
            print(coverage)
            envs.close()


if __name__ == "__main__":
    main()
