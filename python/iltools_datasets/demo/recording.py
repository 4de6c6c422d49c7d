"""Clips of the expert at work: what it saw and did, from random starts, with somebody pushing the cart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.demo.cartpole import CartPole, Floats, wrapped
from iltools_datasets.demo.expert import SwingUpExpert

Policy = Callable[[Floats], Floats]
"""Maps states [B, 4] to forces [B] in N."""

DATASET_SOURCE = "cartpole"
_SETTLED_ANGLE = 0.1  # rad
_SETTLED_RATE = 0.2  # rad/s
_PUSH_STD = 1.0  # N
_PUSH_MEMORY = 0.9  # correlation of the push from one step to the next


@dataclass(frozen=True, slots=True)
class Clip:
    """T states: `qpos` [T, 2] (x in m, theta in rad), `qvel` [T, 2] (m/s, rad/s), `action` [T, 1] (force in N)."""

    motion: str
    qpos: NDArray[np.float32]
    qvel: NDArray[np.float32]
    action: NDArray[np.float32]

    @property
    def num_states(self) -> int:
        """T."""
        return len(self.qpos)


def random_starts(rng: np.random.Generator, count: int, largest_angle: float) -> Floats:
    """Return `count` states [B, 4] with the pole anywhere within `largest_angle` rad of upright, everything moving."""
    return rng.uniform(-1, 1, (count, 4)) * [0.5, largest_angle, 0.5, 2.0]


def roll_out(plant: CartPole, policy: Policy, start: Floats, num_steps: int) -> Floats:
    """Return the states [num_steps + 1, B, 4] that a policy visits from `start` [B, 4]."""
    states = [start]
    for _ in range(num_steps):
        states.append(plant.step(states[-1], policy(states[-1])))
    return np.stack(states)


def record_clips(plant: CartPole, rng: np.random.Generator, num_swing_up: int, num_balance: int) -> list[Clip]:
    """Return clips of the expert swinging the pole up and of it balancing the pole.

    A clip ends between half a second and a second and a half after the pole has come to rest upright. While the expert
    works a random force pushes the cart, so the clips also show how to recover (Laskey et al. 2017): `action` is what
    the expert answers to the state it sees, without the push.
    """
    return [
        *_record(plant, rng, "balance", random_starts(rng, num_balance, 0.4)),
        *_record(plant, rng, "swing_up", random_starts(rng, num_swing_up, np.pi)),
    ]


def _record(plant: CartPole, rng: np.random.Generator, motion: str, start: Floats) -> Iterator[Clip]:
    expert = SwingUpExpert(plant)
    count, num_steps = len(start), round(8.0 / plant.dt)
    states, forces = np.empty((num_steps, count, 4)), np.empty((num_steps, count))
    state, push = start, np.zeros(count)
    for step in range(num_steps):
        states[step], forces[step] = state, expert(state)
        push = _PUSH_MEMORY * push + np.sqrt(1 - _PUSH_MEMORY**2) * rng.normal(0, _PUSH_STD, count)
        state = plant.step(state, forces[step] + push)
    at_rest = (np.abs(wrapped(states[..., 1])) < _SETTLED_ANGLE) & (np.abs(states[..., 3]) < _SETTLED_RATE)
    rest_step = np.where(at_rest.any(axis=0), at_rest.argmax(axis=0), num_steps)
    ends = np.minimum(rest_step + rng.integers(round(0.5 / plant.dt), round(1.5 / plant.dt), count), num_steps)
    for env, end in enumerate(ends):
        seen = states[:end, env].astype(np.float32)
        yield Clip(motion, seen[:, :2], seen[:, 2:], forces[:end, env, None].astype(np.float32))


def archive_clips(path: Path, plant: CartPole, clips: list[Clip]) -> None:
    """Write the clips as a nested Zarr archive `cartpole/<motion>/traj<i>/{qpos,qvel,action}` with rate and names."""
    attributes = {"fps": 1 / plant.dt, "joint_names": ["slider", "hinge"], "units": "m, rad, m/s, rad/s, N"}
    counts: dict[str, int] = {}
    with ArchiveWriter(path) as writer:
        for clip in clips:
            number = counts[clip.motion] = counts.get(clip.motion, -1) + 1
            arrays = {"qpos": clip.qpos, "qvel": clip.qvel, "action": clip.action}
            writer.add(DATASET_SOURCE, clip.motion, f"traj{number}", arrays, attributes=attributes)
