"""AMP as forks of rsl_rl have it: a store behind the interface of their loader of expert motion.

`python examples/rsl_rl_amp.py`

rsl_rl has no AMP; its forks (AMP_for_hardware and what came of it) share an `AMPLoader` with `observation_dim` and
`feed_forward_generator(num_mini_batch, mini_batch_size)`, which their `AMPPPO.update` goes through beside the policy's
own transitions. `StoreAMPLoader` is one over `MotionPairs` of `amp_discriminator.py`; `update` is the part of
`AMPPPO.update` that takes from it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from amp_discriminator import Discriminator, MotionPairs
from iltools_datasets import TrajectoryStore
from motion_command import CONTROL_DT, write_clips
from torch import Tensor


class StoreAMPLoader:
    """What `AMPLoader(device, time_between_frames, motion_files=...)` is asked for, over a store."""

    def __init__(self, device: str, time_between_frames: float, store: TrajectoryStore, seed: int = 0) -> None:
        self.pairs = MotionPairs(store, time_between_frames, device=device, seed=seed)
        self.observation_dim = self.pairs.sample(1).shape[-1]

    def feed_forward_generator(self, num_mini_batch: int, mini_batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give so many mini-batches of states and the states one control step later, `[mini_batch_size, F]` each."""
        for _ in range(num_mini_batch):
            pairs = self.pairs.sample(mini_batch_size)
            yield pairs[:, 0], pairs[:, 1]


class Rollouts:
    """The policy's transitions, as the fork's replay buffer gives them; here a policy that moves at half the pace."""

    def __init__(self, device: str, store: TrajectoryStore) -> None:
        self.pairs = MotionPairs(store, CONTROL_DT, device=device, seed=1)

    def feed_forward_generator(self, num_mini_batch: int, mini_batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(num_mini_batch):
            pairs = self.pairs.features(*self.pairs.places(mini_batch_size), self.pairs.steps / 2)
            yield pairs[:, 0], pairs[:, 1]


def update(
    discriminator: Discriminator,
    optimizer: torch.optim.Optimizer,
    policy: Rollouts,
    expert: StoreAMPLoader,
    num_mini_batch: int,
    mini_batch_size: int,
) -> tuple[float, float]:
    """One pass of the discriminator over both, as in `AMPPPO.update`; return what it says of each, in the mean."""
    said = torch.zeros(2)
    batches = zip(
        policy.feed_forward_generator(num_mini_batch, mini_batch_size),
        expert.feed_forward_generator(num_mini_batch, mini_batch_size),
        strict=True,
    )
    for sample_amp_policy, sample_amp_expert in batches:
        of_policy, of_expert = torch.stack(sample_amp_policy, 1), torch.stack(sample_amp_expert, 1)
        loss = discriminator.loss(of_expert, of_policy)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            said += torch.stack([discriminator(of_policy).mean(), discriminator(of_expert).mean()]).cpu()
    return tuple((said / num_mini_batch).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as workdir:
        store = write_clips(Path(workdir) / "store")
        # was: AMPLoader(device, time_between_frames=env.dt, motion_files=glob("datasets/*.txt"))
        expert = StoreAMPLoader(arguments.device, CONTROL_DT, store)
        policy = Rollouts(arguments.device, store)
        discriminator = Discriminator(expert.pairs.sample(4096)).to(arguments.device)
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
        for iteration in range(arguments.iterations):
            of_policy, of_expert = update(discriminator, optimizer, policy, expert, 20, 512)
            print(f"iteration {iteration}: policy_pred {of_policy:.3f}, expert_pred {of_expert:.3f}")
        print(f"observation_dim {expert.observation_dim}; policy {of_policy:.2f}, expert {of_expert:.2f}")


if __name__ == "__main__":
    main()
