"""Lightning over two processes: a store's sampler shares each epoch between the ranks itself.

`python examples/lightning_ranks.py`

The loader takes nothing from a `DistributedSampler` (`use_distributed_sampler=False`): no row is padded or drawn twice,
and the module's checkpoint holds where the epoch stands.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from expert_motion import record_cartpole
from iltools_datasets import TrajectoryStore
from iltools_datasets.ranks import torch_rank
from iltools_datasets.torchrl import SamplerWithoutReplacement, TensorDictReplayBuffer, TrajectoryStorage
from torch import nn
from torchrl.data import ImmutableDatasetWriter


class Cloning(lightning.LightningModule):
    """Behaviour cloning; the buffer is an iterable of batches, one epoch each time that it is gone through."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
        self.rows: list[int] = []
        self.losses: list[float] = []

    def train_dataloader(self) -> Any:
        # was: DataLoader(dataset, batch_size=64, shuffle=True), and Lightning put a DistributedSampler into it
        self.buffer = TensorDictReplayBuffer(
            storage=TrajectoryStorage(TrajectoryStore.open(self.path)),
            sampler=SamplerWithoutReplacement(seed=0, **torch_rank()),
            writer=ImmutableDatasetWriter(),
            batch_size=64,
            prefetch=2,
        )
        return self.buffer

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.rows += batch["index"].tolist()
        loss = (self.policy(batch["observation"]) - batch["action"]).square().mean()
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["buffer"] = self.buffer.sampler.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--ranks", type=int, default=2)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as workdir:
        num_transitions = len(record_cartpole(Path(workdir) / "store", 20))
        module = Cloning(str(Path(workdir) / "store"))
        trainer = lightning.Trainer(
            max_epochs=arguments.epochs,
            accelerator="cpu",
            devices=arguments.ranks,
            strategy="ddp_fork",
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module.on_train_end = lambda: report(module, num_transitions, arguments.epochs)
        trainer.fit(module)


def report(module: Cloning, num_transitions: int, epochs: int) -> None:
    """Say what all ranks saw; called on each of them when training is over."""
    rows: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(rows, module.rows)
    visits = torch.bincount(torch.tensor([row for part in rows for row in part]), minlength=num_transitions)
    if module.global_rank == 0:
        quarter = len(module.losses) // 4
        first, last = (sum(part) / quarter for part in (module.losses[:quarter], module.losses[-quarter:]))
        print(f"{len(rows)} ranks with {[len(part) for part in rows]} rows of {num_transitions} in {epochs} epochs")
        print(f"each transition {int(visits.min())} to {int(visits.max())} times; loss {first:.3f} to {last:.3f}")


if __name__ == "__main__":
    main()
