"""Behaviour cloning with torch's own DataLoader: a store takes the place of the data set, and nothing else changes.

`python examples/dataloader_torch.py`

A storage is a map-style data set that is asked for whole batches (`__getitems__`), so what a loader collates is one
TensorDict already.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from expert_motion import open_expert_store
from iltools_datasets.torchrl import TrajectoryStorage
from tensordict import TensorDict
from torch import nn
from torch.utils.data import DataLoader


def whole(batch: TensorDict) -> TensorDict:
    """What comes of the data set is a batch; a lambda could not be sent to workers that are spawned."""
    return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="0 reads in the loop, which is fast enough for a store")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as workdir:
        storage = TrajectoryStorage(open_expert_store(Path(workdir)))
        loader = DataLoader(
            storage,  # was: NpzDataset("recordings/")
            batch_size=256,
            shuffle=True,
            num_workers=arguments.workers,
            collate_fn=whole,
        )
        everything = storage.get(torch.arange(len(storage)))
        change = everything["next", "qpos"] - everything["qpos"]
        mean, std = everything["qpos"].mean(0), everything["qpos"].std(0).clamp(min=1e-6)
        scale = change.std(0).clamp(min=1e-6)
        width = change.shape[-1] + everything["qvel"].shape[-1]
        policy = nn.Sequential(nn.Linear(width, 128), nn.Tanh(), nn.Linear(128, change.shape[-1]))
        optimizer = torch.optim.Adam(policy.parameters(), 2e-3)
        losses, total = [], np.zeros(change.shape[-1])
        for epoch in range(arguments.epochs):
            seen = []
            for batch in loader:
                inputs = torch.cat([(batch["qpos"] - mean) / std, batch["qvel"]], dim=-1)
                target = (batch["next", "qpos"] - batch["qpos"]) / scale
                loss = (policy(inputs) - target).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen.append(float(loss.detach()))
                total += batch["qpos"].double().sum(0).numpy()
            losses.append(float(np.mean(seen)))
            print(f"epoch {epoch}: loss {losses[-1]:.4f}")
        # Each transition once per epoch: the sum over all batches is that over the store.
        expected = everything["qpos"].double().sum(0).numpy() * arguments.epochs
        print(f"loss {losses[0]:.4f} to {losses[-1]:.4f}")
        print(f"sum over all batches against the store's: off by {np.abs(total / expected - 1).max():.1e}")


if __name__ == "__main__":
    main()
