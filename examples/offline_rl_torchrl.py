"""Behaviour cloning and implicit Q-learning with TorchRL's own losses, out of a store; its specs are the env's.

`python examples/offline_rl_torchrl.py`

What is TorchRL's stays TorchRL's: losses, networks, the env. The store takes the place of the replay buffer's storage,
and `storage.specs()` says what its transitions look like, so that the env, the policy and the data agree.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from expert_motion import record_cartpole
from iltools_datasets.demo.cartpole import CartPole
from iltools_datasets.demo.recording import random_starts
from iltools_datasets.torchrl import SamplerWithoutReplacement, TensorDictReplayBuffer, TrajectoryStorage
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from tensordict.nn.distributions import NormalParamExtractor
from torch import nn
from torchrl.data import Composite, ImmutableDatasetWriter
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import BCLoss, IQLLoss, SoftUpdate

PLANT = CartPole()


def reward_of(state: Any) -> Any:
    """Return what a state `[..., 4]` is worth, `[..., 1]`: 1 with the pole upright, -1 where it hangs."""
    return np.cos(state[..., 1:2])


class BalanceEnv(EnvBase):
    """Poles to balance, `[num_envs]`; every spec is the store's, so what it gives fits what was recorded."""

    def __init__(self, storage: TrajectoryStorage, num_envs: int, seed: int = 0) -> None:
        super().__init__(batch_size=[num_envs])
        specs, bounded = storage.specs(), storage.specs(bounds=True)
        self.observation_spec = Composite(observation=specs["observation"]).expand(num_envs)
        self.action_spec = bounded["action"].expand(num_envs, -1)
        self.reward_spec = specs["next", "reward"].expand(num_envs, -1)
        self.done_spec = Composite({name: specs["next", name] for name in ("done", "terminated")}).expand(num_envs)
        self._set_seed(seed)

    def _set_seed(self, seed: int | None) -> None:
        self._rng = np.random.default_rng(seed)

    def _given(self, state: np.ndarray, **more: torch.Tensor) -> TensorDict:
        self._state = state
        never = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        found = {"observation": torch.from_numpy(state.astype(np.float32)), "done": never, "terminated": never.clone()}
        return TensorDict({**found, **more}, batch_size=self.batch_size)

    def _reset(self, tensordict: TensorDict | None = None, **_: Any) -> TensorDict:
        return self._given(random_starts(self._rng, self.batch_size[0], 0.4))

    def _step(self, tensordict: TensorDict) -> TensorDict:
        state = PLANT.step(self._state, tensordict["action"][..., 0].numpy().astype(np.float64))
        return self._given(state, reward=torch.from_numpy(reward_of(state).astype(np.float32)))


def policy_of(specs: Composite) -> ProbabilisticActor:
    """Return a policy whose actions stay within what the expert did."""
    width, action = specs["observation"].shape[-1], specs["action"]
    network = nn.Sequential(
        MLP(width, 2 * action.shape[-1], num_cells=[128, 128], activation_class=nn.SiLU), NormalParamExtractor()
    )
    return ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=action,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": action.space.low, "high": action.space.high},
        return_log_prob=False,
    )


def train(loss: nn.Module, buffer: TensorDictReplayBuffer, epochs: int, after: Any = None) -> list[float]:
    """Minimise everything that a loss calls a loss, and return its mean over each epoch."""
    optimiser = torch.optim.Adam(loss.parameters(), 1e-3)
    means = []
    for _ in range(epochs):
        seen = []
        for batch in buffer:
            terms = loss(batch)
            total = sum(value for name, value in terms.items() if name.startswith("loss_"))
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            if after is not None:
                after.step()
            seen.append(float(total.detach()))
        means.append(float(np.mean(seen)))
    return means


def mean_reward(env: EnvBase, policy: Any, steps: int) -> float:
    """Return the mean reward of a step; None acts at random."""
    env.set_seed(1)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return float(env.rollout(steps, policy)["next", "reward"].mean())


def main() -> None:
    """Record, train both ways, and let each policy balance poles that it never saw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=150, help="of each roll-out")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # networks this small wait more for each other's threads than they compute
    with tempfile.TemporaryDirectory() as directory:
        storage = TrajectoryStorage(record_cartpole(Path(directory) / "store", options.clips))
        specs = storage.specs(bounds=True)
        buffer = TensorDictReplayBuffer(
            storage=storage,
            sampler=SamplerWithoutReplacement(seed=0),
            writer=ImmutableDatasetWriter(),
            batch_size=256,
            prefetch=2,
        )
        env = BalanceEnv(storage, 64)
        check_env_specs(env)
        print(f"{len(storage)} transitions; actions {specs['action'].space.low} to {specs['action'].space.high} N")
        print(f"random: mean reward {mean_reward(env, None, options.steps):.4f}")

        cloned = policy_of(specs)
        losses = train(BCLoss(cloned, loss_function="l2"), buffer, options.epochs)
        print(
            f"BC: loss {losses[0]:.4f} to {losses[-1]:.4f}, mean reward {mean_reward(env, cloned, options.steps):.4f}"
        )

        learned, inputs = policy_of(specs), specs["observation"].shape[-1] + specs["action"].shape[-1]
        qvalue = ValueOperator(MLP(inputs, 1, num_cells=[128, 128]), in_keys=["observation", "action"])
        value = ValueOperator(MLP(specs["observation"].shape[-1], 1, num_cells=[128, 128]), in_keys=["observation"])
        loss = IQLLoss(learned, qvalue, value, temperature=3.0, expectile=0.7)
        loss.make_value_estimator(gamma=0.98)
        losses = train(loss, buffer, options.epochs, SoftUpdate(loss, tau=0.005))
        print(
            f"IQL: loss {losses[0]:.4f} to {losses[-1]:.4f}, mean reward {mean_reward(env, learned, options.steps):.4f}"
        )


if __name__ == "__main__":
    main()
