"""A motion command for a manager-based tracking env: targets, alignment with the robot, resampling on reset, metrics.

`python examples/motion_command.py` follows made clips with a toy robot of 64 envs. In an env of mjlab's or Isaac Lab's
kind the class below takes the place of its motion command: the env's robot gives anchor poses and body states, its
termination terms say who fell.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from iltools_datasets import StoreBuilder, TrajectoryStore
from iltools_datasets.tracking import Adaptive, MotionSampler
from numpy.typing import NDArray

Array = NDArray[np.float32]
BODIES = ("pelvis", "torso_link", "left_foot", "right_foot", "left_hand", "right_hand")
JOINTS = tuple(f"joint{number}" for number in range(8))
CONTROL_DT = 0.02


@dataclass
class RobotState:
    """What the simulation says of E robots: bodies in the command's order, rotations wxyz."""

    joint_pos: Array
    body_pos: Array
    body_quat: Array


class MotionCommand:
    """What a tracking env asks of its motion, over a `MotionSampler`.

    Args:
        store: an open store with joints' and bodies' states.
        num_envs: E.
        anchor: the body that the motion is aligned by; among `bodies`.
        bodies: which are tracked, in the robot's order.
        future: control steps that the policy sees ahead.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        num_envs: int,
        anchor: str,
        bodies: Sequence[str],
        future: Sequence[int] = (0, 1, 5),
    ) -> None:
        self.sampler = MotionSampler(
            store,
            num_envs,
            CONTROL_DT,
            future,
            keys=["joint_pos", "joint_vel", "body_pos_w", "body_quat_w"],
            bodies=list(bodies),
            anchor=anchor,
            frame="robot",
            adaptive=Adaptive(),
        )
        self.anchor = list(bodies).index(anchor)
        self.sampler.reset()
        self.metrics: dict[str, Array] = {}

    def update(self, robot: RobotState) -> None:
        """Look at the motion where each env's robot is now, and say how far the robot is off."""
        pos, quat = robot.body_pos[:, self.anchor], robot.body_quat[:, self.anchor]
        self.target = self.sampler.lookup(anchor_pos=pos, anchor_quat=quat)
        self.metrics = {
            "error_joint_pos": np.linalg.norm(self.joint_pos - robot.joint_pos, axis=-1),
            "error_body_pos": np.linalg.norm(self.body_pos - robot.body_pos, axis=-1).mean(-1),
            "error_body_rot": turn_between(self.body_quat, robot.body_quat).mean(-1),
        }

    @property
    def command(self) -> Array:
        """What the policy sees: joints now and ahead, `[E, O * 2 J]`."""
        both = np.concatenate([self.target["joint_pos"], self.target["joint_vel"]], axis=-1)
        return both.reshape(len(both), -1)

    @property
    def joint_pos(self) -> Array:
        """Of the motion now, `[E, J]`."""
        return self.target["joint_pos"][:, 0]

    @property
    def body_pos(self) -> Array:
        """Where the motion's bodies would be, were it turned and moved to the robot, `[E, B, 3]`."""
        return self.target["body_pos_w"][:, 0]

    @property
    def body_quat(self) -> Array:
        """Their rotations, `[E, B, 4]`."""
        return self.target["body_quat_w"][:, 0]

    def start_state(self, envs: NDArray[np.int64]) -> dict[str, Array]:
        """Return the motion in the world where some envs start, for the simulation to put its robots there."""
        clip, time = self.sampler.clip[envs], self.sampler.time[envs]
        identity = np.tile(np.array([1, 0, 0, 0], dtype=np.float32), (len(envs), 1))
        found = self.sampler.lookup_at(clip, time, [0], anchor_pos=np.zeros((len(envs), 3)), anchor_quat=identity)
        return {key: rows[:, 0] for key, rows in found.items()}

    def step(self, terminated: NDArray[np.bool_], timed_out: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Move on by a control step; return the envs that have new starts."""
        done = np.flatnonzero(self.sampler.step() | terminated | timed_out)
        self.sampler.reset(done, terminated[done])
        return done

    def end_iteration(self) -> dict[str, float]:
        """Turn failures into starts, once per iteration, and return numbers to log."""
        self.sampler.sync()
        return self.sampler.coverage().metrics()


def turn_between(one: Array, other: Array) -> Array:
    """Return the angle between rotations wxyz `[..., 4]`, in radians."""
    apart = np.minimum(np.linalg.norm(one - other, axis=-1), np.linalg.norm(one + other, axis=-1))
    return np.asarray(4 * np.arcsin(np.minimum(apart / 2, 1)), dtype=np.float32)


class ToyRobots:
    """Robots that do as the motion says, late and with noise; some bins of it are too much for them."""

    def __init__(self, num_envs: int, skill: float) -> None:
        self.rng, self.skill = np.random.default_rng(0), skill
        self.state = RobotState(
            np.zeros((num_envs, len(JOINTS)), np.float32),
            np.zeros((num_envs, len(BODIES), 3), np.float32),
            np.tile(np.array([1, 0, 0, 0], np.float32), (num_envs, len(BODIES), 1)),
        )

    def put(self, envs: NDArray[np.int64], start: dict[str, Array]) -> None:
        self.state.joint_pos[envs] = start["joint_pos"]
        self.state.body_pos[envs], self.state.body_quat[envs] = start["body_pos_w"], start["body_quat_w"]

    def act(self, command: MotionCommand) -> NDArray[np.bool_]:
        """Follow, and return which fell."""
        state, noise = self.state, self.rng.normal(0, 0.01, self.state.joint_pos.shape)
        state.joint_pos += (self.skill * (command.joint_pos - state.joint_pos) + noise).astype(np.float32)
        state.body_pos += np.float32(self.skill) * (command.body_pos - state.body_pos)
        state.body_quat[:] = command.body_quat
        return command.metrics["error_joint_pos"] > 0.6


def write_clips(path: Path, seed: int = 0) -> TrajectoryStore:
    """Write clips whose joints swing, some of them far too fast for a while."""
    rng = np.random.default_rng(seed)
    told = {"fps": 30.0, "joint_names": list(JOINTS), "body_names": list(BODIES)}
    with StoreBuilder(path, concat={"frame": ["joint_pos", "joint_vel"]}, attributes={"motion": told}) as builder:
        for clip in range(12):
            time = np.arange(rng.integers(120, 600)) / 30
            speed = np.where((time > 2) & (time < 3) & (clip % 4 == 0), 25.0, 1.5)
            phase = np.cumsum(speed) / 30
            joints = 0.4 * np.sin(phase[:, None] + rng.uniform(0, 6, len(JOINTS)))
            yaw = 0.3 * time
            quat = np.zeros((len(time), len(BODIES), 4))
            quat[..., 0], quat[..., 3] = np.cos(yaw / 2)[:, None], np.sin(yaw / 2)[:, None]
            pos = rng.uniform(-0.4, 0.4, (len(BODIES), 3)) + np.stack([time, 0 * time, 1 + 0 * time], 1)[:, None]
            states = {"joint_pos": joints, "joint_vel": np.gradient(joints, 1 / 30, axis=0)}
            states |= {"body_pos_w": pos, "body_quat_w": quat}
            states = {key: array.astype(np.float32) for key, array in states.items()}
            builder.add(0, clip, states, {"action": states["joint_pos"][1:]}, name=f"swing{clip}", task_name="made")
    return TrajectoryStore.open(path)


def run(store: TrajectoryStore, num_envs: int, iterations: int) -> MotionCommand:
    """Follow for some iterations of 24 steps."""
    command = MotionCommand(store, num_envs, "torso_link", BODIES)
    robots = ToyRobots(num_envs, skill=0.5)
    everyone = np.arange(num_envs)
    robots.put(everyone, command.start_state(everyone))
    age = np.zeros(num_envs, dtype=np.int64)
    for iteration in range(iterations):
        for _ in range(24):
            command.update(robots.state)
            fell = robots.act(command)
            age += 1
            done = command.step(fell, age >= 200)
            robots.put(done, command.start_state(done))
            age[done] = 0
        numbers = command.end_iteration()
        if iteration % 10 == 9:
            error = float(command.metrics["error_joint_pos"].mean())
            print(
                f"iteration {iteration + 1}: joints off by {error:.3f}, {numbers['failure_rate']:.3f} falls per start"
            )
    return command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--num-envs", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        command = run(write_clips(Path(directory) / "store"), arguments.num_envs, arguments.iterations)
    print(command.sampler.coverage())


if __name__ == "__main__":
    main()
