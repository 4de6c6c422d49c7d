"""LeRobot's training loop over our reader: the import of the data set is changed, and what the loader reads at once.

`python examples/lerobot_training.py`

The loop is that of lerobot's `examples/training/train_policy.py`, with a small policy of action chunks in the place of
one of lerobot's: `policy.forward(batch)` returns a loss, and all keys of a batch are lerobot's.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from iltools_datasets.demo.cartpole import CartPole
from iltools_datasets.lerobot import LeRobotDataset  # was: from lerobot.datasets.lerobot_dataset import
from lerobot_recordings import write_set
from torch import Tensor, nn

CHUNK = 8


class ChunkPolicy(nn.Module):
    """State `[B, S]` to the next `CHUNK` actions, by the L1 loss of ACT; steps outside the episode do not count."""

    def __init__(self, stats: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        for name, key in (("state", "observation.state"), ("action", "action")):
            for what in ("mean", "std"):
                value = torch.as_tensor(stats[key][what], dtype=torch.float32).reshape(-1)
                self.register_buffer(f"{name}_{what}", value if what == "mean" else value.clamp(min=1e-3))
        width, self.num_actions = len(self.state_mean), len(self.action_mean)
        self.network = nn.Sequential(nn.Linear(width, 256), nn.SiLU(), nn.Linear(256, CHUNK * self.num_actions))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        state = (batch["observation.state"] - self.state_mean) / self.state_std
        actions = (batch["action"].view(len(state), CHUNK, -1) - self.action_mean) / self.action_std
        wrong = (self.network(state).view(-1, CHUNK, self.num_actions) - actions).abs()
        kept = ~batch["action_is_pad"].unsqueeze(-1)
        loss = (wrong * kept).sum() / (kept.sum() * self.num_actions)
        return loss, {"l1_loss": float(loss.detach())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as workdir:
        root = Path(workdir) / "cartpole"
        write_set(root, CartPole())
        fps = LeRobotDataset(str(root), cache=workdir).fps
        delta_timestamps = {"action": [step / fps for step in range(CHUNK)]}
        dataset = LeRobotDataset(str(root), delta_timestamps=delta_timestamps, cache=workdir)
        policy = ChunkPolicy(dataset.meta.stats)
        optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
        dataloader = torch.utils.data.DataLoader(dataset, num_workers=0, batch_size=64, shuffle=True, drop_last=True)

        step, losses = 0, []
        while step < arguments.steps:
            for batch in dataloader:
                loss, info = policy.forward(batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(info["l1_loss"])
                step += 1
                if step >= arguments.steps:
                    break
        tenth = max(1, arguments.steps // 10)
        last = sum(losses[-tenth:]) / tenth
        print(f"{len(dataset)} frames of {dataset.num_episodes} episodes, batches of {sorted(batch)}")
        print(f"loss {losses[0]:.3f} to {last:.3f}")


if __name__ == "__main__":
    main()
