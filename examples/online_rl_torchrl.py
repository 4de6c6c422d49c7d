"""Off-policy reinforcement learning as TorchRL does it, online; of the replay buffer only the import is changed.

`python examples/online_rl_torchrl.py`

A policy collects with its own noise, the buffer is extended and sampled, TD3's losses are TorchRL's. The env is the
cart-pole of `offline_rl_torchrl.py`, whose reward is 1 where the pole stands.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from expert_motion import record_cartpole
from iltools_datasets.torchrl import (  # was: from torchrl.data import
    LazyTensorStorage,
    RandomSampler,
    TensorDictReplayBuffer,
    TrajectoryStorage,
)
from offline_rl_torchrl import BalanceEnv, mean_reward
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import MLP, AdditiveGaussianModule, TanhModule, ValueOperator
from torchrl.objectives import SoftUpdate, TD3Loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--updates", type=int, default=20, help="per round")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as workdir:
        storage = TrajectoryStorage(record_cartpole(Path(workdir) / "store", 4))
        specs = storage.specs(bounds=True)
        action, width = specs["action"], specs["observation"].shape[-1]
        env = BalanceEnv(storage, 32)
        network = MLP(width, action.shape[-1], num_cells=[64, 64], activation_class=nn.SiLU)
        squash = TanhModule(in_keys=["action"], spec=action)
        policy = TensorDictSequential(TensorDictModule(network, ["observation"], ["action"]), squash)
        sigma = 0.2 * float(action.space.high.max())  # N
        noise = AdditiveGaussianModule(action, sigma_init=sigma, sigma_end=sigma, device="cpu")
        explorer = TensorDictSequential(policy, noise)
        qvalue = ValueOperator(MLP(width + action.shape[-1], 1, num_cells=[64, 64]), in_keys=["observation", "action"])
        loss = TD3Loss(policy, qvalue, action_spec=action)
        loss.make_value_estimator(gamma=0.97)
        target = SoftUpdate(loss, tau=0.02)
        optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(50_000), sampler=RandomSampler(), batch_size=256)

        before = mean_reward(env, policy, 100)
        env.set_seed(0)
        for round_ in range(arguments.rounds):
            with torch.no_grad():
                buffer.extend(env.rollout(25, explorer).reshape(-1))
            for _ in range(arguments.updates):
                terms = loss(buffer.sample())
                optimizer.zero_grad()
                (terms["loss_actor"] + terms["loss_qvalue"]).backward()
                optimizer.step()
                target.step()
            if round_ % 10 == 9:
                print(f"round {round_ + 1}: {len(buffer)} transitions, mean reward {mean_reward(env, policy, 100):.3f}")
        print(f"mean reward {before:.3f} to {mean_reward(env, policy, 100):.3f}")


if __name__ == "__main__":
    main()
