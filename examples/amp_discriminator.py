"""Adversarial motion priors: pairs of states for the discriminator, drawn uniformly by time on the device.

`python examples/amp_discriminator.py` trains a discriminator to tell made clips from the same clips at half their pace,
which no single state tells apart. In a project of your own `MotionPairs` takes the place of its AMP loader; what the
policy's side gives has to be of the same keys, seen from the same frame.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from iltools_datasets import TrajectoryStore
from iltools_datasets.tracking import MotionSampler
from motion_command import CONTROL_DT, write_clips
from torch import Tensor, nn

KEYS = ("joint_pos", "joint_vel", "body_pos_w")


class MotionPairs:
    """Pairs of states a control step apart, at any time of any clip, each second of motion as likely as any other.

    Args:
        store: clips with names of bodies.
        control_dt: seconds between the two states of a pair, whatever the clips' rates are.
        keys: what the discriminator sees.
        anchor: the body from which both states are seen, along its heading in the first: where in the world the motion
            is, and which way it goes, is nothing to learn.
        device: where the motion lies and pairs are made; neither drawing nor looking up waits for the host.
        seed: of the draws.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        control_dt: float,
        keys: Sequence[str] = KEYS,
        anchor: str = "pelvis",
        device: Any = "cpu",
        seed: int = 0,
    ) -> None:
        sampler = MotionSampler(
            store, 1, control_dt, keys=list(keys), anchor=anchor, frame="heading", as_="torch", device=device
        )
        self.at, self.keys = sampler.motion.at, list(keys)
        # Where the first state of a pair may be; a clip that is shorter than a step has no pair.
        seconds = store.segments.length / np.asarray(store.attributes["motion"]["fps"]) - control_dt
        self.ends = torch.as_tensor(np.cumsum(np.maximum(seconds, 0)), device=device)
        self.begins = torch.cat([self.ends.new_zeros(1), self.ends[:-1]])
        self.steps = torch.tensor([0.0, control_dt], dtype=torch.float64, device=device)
        self.generator = torch.Generator(device).manual_seed(seed)

    def places(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw clips int64 `[count]` and seconds in them float64 `[count]`."""
        drawn = torch.rand(count, dtype=torch.float64, device=self.ends.device, generator=self.generator)
        drawn = drawn * self.ends[-1]
        clip = torch.searchsorted(self.ends, drawn, right=True).clamp(max=len(self.ends) - 1)
        return clip, drawn - self.begins[clip]

    def features(self, clip: Tensor, time: Tensor, steps: Tensor | None = None) -> Tensor:
        """Return both states of pairs, `[n, 2, F]`."""
        found = self.at(clip, time, self.steps if steps is None else steps, self.keys)
        return torch.cat([found[key].flatten(2) for key in self.keys], dim=-1)

    def sample(self, count: int) -> Tensor:
        """Return pairs of states float32 `[count, 2, F]`."""
        return self.features(*self.places(count))


class Discriminator(nn.Module):
    """Least squares: 1 for motion, -1 for a policy, and flat where the motion is (Peng et al., 2021)."""

    def __init__(self, pairs: Tensor) -> None:
        super().__init__()
        flat = self.flat(pairs)
        self.register_buffer("mean", flat.mean(dim=0))
        self.register_buffer("std", flat.std(dim=0).clamp(min=0.01))
        self.layers = nn.Sequential(nn.Linear(flat.shape[1], 128), nn.ReLU(), nn.Linear(128, 1))

    @staticmethod
    def flat(pairs: Tensor) -> Tensor:
        """The state and its change, which is small beside it and has a scale of its own."""
        return torch.cat([pairs[:, 0], pairs[:, 1] - pairs[:, 0]], dim=1)

    def forward(self, pairs: Tensor) -> Tensor:
        return self.layers(self.scaled(pairs))[:, 0]

    def scaled(self, pairs: Tensor) -> Tensor:
        return (self.flat(pairs) - self.mean) / self.std

    def loss(self, motion: Tensor, policy: Tensor, penalty: float = 0.1) -> Tensor:
        seen = self.scaled(motion).requires_grad_()
        judged = self.layers(seen)[:, 0]
        (slope,) = torch.autograd.grad(judged.sum(), seen, create_graph=True)
        apart = ((judged - 1) ** 2).mean() + ((self(policy) + 1) ** 2).mean()
        return apart + penalty * (slope**2).sum(dim=1).mean()

    def reward(self, pairs: Tensor) -> Tensor:
        """What a policy is paid for a pair, between 0 and 1."""
        with torch.no_grad():
            return (1 - 0.25 * (self(pairs) - 1) ** 2).clamp(min=0)


def train(store: TrajectoryStore, device: Any, steps: int, batch: int = 512) -> tuple[float, float]:
    """Train, and return the mean reward of the motion and of the motion at half its pace."""
    torch.manual_seed(0)
    motion, slow = (MotionPairs(store, CONTROL_DT, device=device, seed=seed) for seed in range(2))

    def half_pace() -> Tensor:
        return slow.features(*slow.places(batch), slow.steps / 2)

    discriminator = Discriminator(motion.sample(4096)).to(device)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    for step in range(steps):
        loss = discriminator.loss(motion.sample(batch), half_pace())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {float(loss.detach()):.3f}")
    return float(discriminator.reward(motion.sample(4096)).mean()), float(discriminator.reward(half_pace()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        motion, slow = train(write_clips(Path(directory) / "store"), arguments.device, arguments.steps)
    print(f"reward of the motion {motion:.2f}, at half its pace {slow:.2f}")


if __name__ == "__main__":
    main()
