"""How closely a policy in the loop stays with the expert, from starts that neither data set nor training has seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iltools_datasets.demo.cartpole import CartPole, Floats, wrapped
from iltools_datasets.demo.expert import SwingUpExpert
from iltools_datasets.demo.recording import Policy, random_starts, roll_out

_UPRIGHT = np.radians(10)


@dataclass(frozen=True, slots=True)
class Tracking:
    """Policy against expert from the same starts; angles in degrees, T states.

    The error of a start is the root mean square, over time, of the difference between the two pole angles.

    Attributes:
        median_degrees, p95_degrees, worst_degrees: median, 95th percentile and largest error. A start close to
            the border between falling to the left and to the right has a large one, however good the policy.
        upright_share: share of starts in which the policy holds the pole within 10 degrees for the whole last second.
        expert_degrees, policy_degrees: float64 [T], pole angle over time of the hanging start with the median error.
        dt: seconds between two states.
    """

    median_degrees: float
    p95_degrees: float
    worst_degrees: float
    upright_share: float
    num_starts: int
    seconds: float
    expert_degrees: Floats
    policy_degrees: Floats
    dt: float


def track(plant: CartPole, policy: Policy, rng: np.random.Generator, num_starts: int, seconds: float) -> Tracking:
    """Roll the policy and the expert out side by side, without pushes, and compare their pole angles."""
    start = random_starts(rng, num_starts, np.pi)
    num_steps = round(seconds / plant.dt)
    expert_angle = roll_out(plant, SwingUpExpert(plant), start, num_steps)[..., 1]
    policy_angle = roll_out(plant, policy, start, num_steps)[..., 1]
    error = np.sqrt((np.degrees(wrapped(policy_angle - expert_angle)) ** 2).mean(axis=0))
    last_second = np.abs(wrapped(policy_angle[-round(1 / plant.dt) :]))
    hanging = np.flatnonzero(np.abs(start[:, 1]) > np.pi / 2)
    typical = hanging[np.argsort(error[hanging])[len(hanging) // 2]]
    return Tracking(
        median_degrees=float(np.median(error)),
        p95_degrees=float(np.percentile(error, 95)),
        worst_degrees=float(error.max()),
        upright_share=float((last_second < _UPRIGHT).all(axis=0).mean()),
        num_starts=num_starts,
        seconds=seconds,
        expert_degrees=_ending_upright(expert_angle[:, typical]),
        policy_degrees=_ending_upright(policy_angle[:, typical]),
        dt=plant.dt,
    )


def _ending_upright(angle: Floats) -> Floats:
    """Return angles [T] in degrees, shifted by whole turns so that the last one is within half a turn of upright."""
    degrees: Floats = np.degrees(angle - (angle[-1] - wrapped(angle[-1])))
    return degrees
