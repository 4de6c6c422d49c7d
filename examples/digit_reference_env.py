"""An environment that gets its references when it resets: `python examples/digit_reference_env.py`.

Each env follows a trajectory from a random step of it on. When its episode is over it resets alone: it asks the source
for the references of its next episode, and for no more states than those. The "physics" is a first order lag of the
motors, so that there is something to track; put a simulator in its place.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from iltools_datasets.trajopt.digit_refs import DigitRefSpec
from iltools_datasets.trajopt.loader import TrajoptLoader
from iltools_datasets.trajopt.reference_source import ReferenceSource

# Digit's motors in its floating-base model: legs and arms, left before right.
MOTORS = DigitRefSpec(
    a_pos_index=[7, 8, 9, 14, 18, 23, *range(30, 37), 41, 45, 50, *range(57, 65)],
    a_vel_index=[6, 7, 8, 12, 16, 20, *range(26, 33), 36, 40, 44, *range(50, 58)],
)
NQ, NV, DT = 65, 58, 0.02


class TrackingEnv:
    """Envs that are rewarded for being where their references are.

    Args:
        references: where episodes come from; an episode lasts `references.window` steps or to its trajectory's end.
        seed: of the trajectories and steps that episodes begin at.
    """

    def __init__(self, references: ReferenceSource, seed: int = 0) -> None:
        self.references = references
        self.rng = np.random.default_rng(seed)
        num_envs, window, motors = references.num_envs, references.window, len(MOTORS.a_pos_index)
        self.step_in_episode = np.zeros(num_envs, dtype=np.int64)
        self.motor_pos = np.zeros((num_envs, motors))
        self.refs = {
            "ref_len": np.zeros(num_envs, dtype=np.int32),
            "ref_motor_joint_pos": np.zeros((num_envs, window, motors)),
            "ref_motor_joint_vel": np.zeros((num_envs, window, motors)),
        }

    def reset(self, env_ids: np.ndarray) -> None:
        """Begin a new episode in these envs, [E], at their reference's first state."""
        traj = self.rng.integers(0, self.references.num_trajectories, len(env_ids))
        first = self.rng.integers(0, np.asarray(self.references.traj_lengths)[traj])
        episodes = self.references.reset(env_ids, traj, first)
        for key, values in self.refs.items():
            values[env_ids] = episodes[key]
        self.motor_pos[env_ids] = episodes["ref_motor_joint_pos"][:, 0]
        self.step_in_episode[env_ids] = 0

    def reference(self, key: str) -> np.ndarray:
        """Return the row of a reference that each env has to reach next, [num_envs, ...]."""
        following = np.minimum(self.step_in_episode + 1, self.refs["ref_len"] - 1)
        return self.refs[key][np.arange(len(following)), following]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move the motors towards `action`, [num_envs, M] in rad; return the reward and what is done, [num_envs]."""
        target = self.reference("ref_motor_joint_pos")
        self.motor_pos += 0.8 * (action - self.motor_pos)
        reward = np.exp(-5 * np.square(self.motor_pos - target).mean(axis=-1))
        self.step_in_episode += 1
        return reward, self.step_in_episode + 1 >= self.refs["ref_len"]


def write_walks(path: Path, num_trajectories: int = 4) -> None:
    """Write smooth made-up motions as trajectory optimisation files: the root walks in an arc, the joints swing."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(num_trajectories):
        time = np.arange(80 + 40 * number) * DT
        speed, turn = rng.uniform(0.3, 1.0), rng.uniform(-0.5, 0.5)
        qpos, qvel = np.zeros((len(time), NQ), np.float32), np.zeros((len(time), NV), np.float32)
        yaw = turn * time
        qvel[:, :2] = speed * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
        qvel[:, 5] = turn
        qpos[:, :2] = np.cumsum(qvel[:, :2], axis=0) * DT
        qpos[:, 2] = 1.0
        qpos[:, 5], qpos[:, 6] = np.sin(yaw / 2), np.cos(yaw / 2)  # xyzw
        phase, rate = rng.uniform(0, 6, NQ - 7), rng.uniform(2, 6, NQ - 7)
        qpos[:, 7:] = 0.3 * np.sin(time[:, None] * rate + phase)
        qvel[:, 6:] = (0.3 * rate * np.cos(time[:, None] * rate + phase))[:, : NV - 6]
        np.savez(path / f"walk{number}.npz", qpos=qpos, qvel=qvel, action=qpos[:, list(MOTORS.a_pos_index)], dt=DT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zarr-path", help="archive or store of Digit trajectories; preferred")
    parser.add_argument("--ref-path", help="directory of .npz files; default: made-up walks")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--episode", type=int, default=50, help="steps of an episode")
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        zarr_path, ref_path = arguments.zarr_path, arguments.ref_path
        if zarr_path is None and ref_path is None:
            ref_path = Path(workdir) / "npz"
            write_walks(ref_path)
            zarr_path = TrajoptLoader(ref_path).save(Path(workdir) / "zarr", motion="walk")
        with ReferenceSource(
            zarr_path, ref_path, spec=MOTORS, window=arguments.episode, num_envs=arguments.num_envs
        ) as references:
            print(f"{references.num_trajectories} trajectories from {references.origin}")
            env = TrackingEnv(references)
            env.reset(np.arange(arguments.num_envs))
            rewards, episodes = [], 0
            for _ in range(arguments.steps):
                # A policy that knows the reference: its next pose, led by the velocity it should have there.
                action = env.reference("ref_motor_joint_pos") + 0.25 * DT * env.reference("ref_motor_joint_vel")
                reward, done = env.step(action)
                rewards.append(reward.mean())
                if done.any():
                    env.reset(np.flatnonzero(done))
                    episodes += int(done.sum())
    print(
        f"{arguments.steps} steps of {arguments.num_envs} envs, {episodes} episodes: mean reward {np.mean(rewards):.4f}"
    )


if __name__ == "__main__":
    main()
