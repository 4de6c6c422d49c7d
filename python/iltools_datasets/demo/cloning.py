"""Behaviour cloning: a small network learns the expert's action from the batches that the replay manager hands out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Features = Callable[[Tensor], Tensor]
"""Maps observations [B, D] to what the network sees [B, F]."""

_HIDDEN = 128
_LEARNING_RATE = 2e-2


def cartpole_features(observation: Tensor) -> Tensor:
    """Return [B, 5] of observations `[x, theta, x_dot, theta_dot]`: the angle as sine and cosine, alike every turn."""
    x, theta, velocities = observation[:, :1], observation[:, 1:2], observation[:, 2:]
    return torch.cat([x, theta.sin(), theta.cos(), velocities], dim=-1)


class Normaliser(nn.Module):
    """Shifts and scales to zero mean and unit variance, by statistics of a sample [n, D]; constants are left alone."""

    mean: Tensor
    std: Tensor

    def __init__(self, sample: Tensor) -> None:
        super().__init__()
        std, mean = torch.std_mean(sample, dim=0, correction=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise [B, D]."""
        return (values - self.mean) / self.std

    def inverse(self, values: Tensor) -> Tensor:
        """Undo `forward`, [B, D]."""
        return values * self.std + self.mean


class ClonedPolicy(nn.Module):
    """Observations [B, D] to targets [B, A], through two hidden layers on normalised features."""

    def __init__(self, observation: Tensor, target: Tensor, features: Features) -> None:
        super().__init__()
        self.features = features
        self.inputs = Normaliser(features(observation))
        self.outputs = Normaliser(target)
        num_inputs, num_outputs = self.inputs.mean.numel(), self.outputs.mean.numel()
        self.network = nn.Sequential(
            nn.Linear(num_inputs, _HIDDEN),
            nn.Tanh(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.Tanh(),
            nn.Linear(_HIDDEN, num_outputs),
        )

    def normalised(self, observation: Tensor) -> Tensor:
        """Return the normalised targets [B, A]: what the loss is taken of."""
        prediction: Tensor = self.network(self.inputs(self.features(observation)))
        return prediction

    def forward(self, observation: Tensor) -> Tensor:
        """Return the targets [B, A] in their own units."""
        return self.outputs.inverse(self.normalised(observation))

    def act(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the forces [B] for states [B, 4], in and out as numpy."""
        with torch.no_grad():
            action = self(torch.from_numpy(state.astype(np.float32)))
        force: NDArray[np.float64] = action[:, 0].double().numpy()
        return force


@dataclass(frozen=True, slots=True)
class Target:
    """What the network learns to predict from `observation`: a name for it, and how to get it [B, A] from a batch."""

    name: str
    of: Callable[[Any], Tensor]


ACTION = Target("action", lambda batch: batch["action"])
MOTION = Target("next observation", lambda batch: batch["next", "observation"] - batch["observation"])


def untrained_policy(batch: Any, target: Target, features: Features, seed: int) -> ClonedPolicy:
    """Return a policy with the widths and the statistics of a batch, and weights from a seed of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClonedPolicy(batch["observation"], target.of(batch), features)


def train(policy: ClonedPolicy, buffer: Any, target: Target, num_steps: int) -> Iterator[float]:
    """Train on `num_steps` batches of `buffer.sample()` and yield the loss of each.

    The loss is the mean squared error in units of the target's variance: 1 is what predicting the mean would give.
    """
    optimizer = torch.optim.Adam(policy.network.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        batch = buffer.sample()
        error = policy.normalised(batch["observation"]) - policy.outputs(target.of(batch))
        loss = error.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


@contextmanager
def one_thread() -> Iterator[None]:
    """A network this small gains nothing from a second thread, and waits for it where the cores have other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
