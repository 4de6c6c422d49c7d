"""Accelerate over two processes: a store's sampler shares each epoch between the ranks itself.

`accelerate launch --cpu --num_processes 2 examples/accelerate_ranks.py`, or `python examples/accelerate_ranks.py`,
which starts two processes by itself.

`accelerator.prepare` is given the model and the optimizer, not the buffer: batches of a rank are its own already.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator, notebook_launcher
from accelerate.utils import gather_object
from expert_motion import record_cartpole
from iltools_datasets import TrajectoryStore
from iltools_datasets.torchrl import SamplerWithoutReplacement, TensorDictReplayBuffer, TrajectoryStorage
from torch import nn
from torchrl.data import ImmutableDatasetWriter


def train(path: str, epochs: int) -> None:
    """Clone the expert, on each rank."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
    policy, optimizer = accelerator.prepare(policy, torch.optim.Adam(policy.parameters(), 1e-2))
    # was: accelerator.prepare(DataLoader(dataset, batch_size=64, shuffle=True))
    share = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    buffer = TensorDictReplayBuffer(
        storage=TrajectoryStorage(TrajectoryStore.open(path)),
        sampler=SamplerWithoutReplacement(seed=0, **share),
        writer=ImmutableDatasetWriter(),
        batch_size=64,
        prefetch=2,
    )
    losses, rows = [], []
    for _ in range(epochs):
        seen = []
        for batch in buffer:
            loss = (policy(batch["observation"]) - batch["action"]).square().mean()
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            seen.append(float(loss.detach()))
            rows += batch["index"].tolist()
        losses.append(sum(seen) / len(seen))
    all_rows = gather_object([rows])
    visits = torch.bincount(torch.tensor([row for part in all_rows for row in part]), minlength=len(buffer))
    if accelerator.is_main_process:
        print(f"{len(all_rows)} ranks with {[len(part) for part in all_rows]} rows of {len(buffer)} in {epochs} epochs")
        visited = f"each transition {int(visits.min())} to {int(visits.max())} times"
        print(f"{visited}; loss {losses[0]:.3f} to {losses[-1]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--ranks", type=int, default=2, help="processes to start, where accelerate has started none")
    parser.add_argument("--store", type=Path, help="an expert's; made if it is not there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        path = arguments.store or Path(workdir) / "store"
        if "RANK" in os.environ:
            train(str(path), arguments.epochs)
            return
        if not path.exists():
            record_cartpole(path, 20)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        notebook_launcher(train, (str(path), arguments.epochs), num_processes=arguments.ranks, use_port=str(port))


if __name__ == "__main__":
    main()
