"""Collect an expert for MOSAIC, and train as its off-policy term does: from its file, and from the store.

`python examples/mosaic_consumer.py`

MOSAIC's trainer reads `expert_trajectory_path` once, flattens the rows that are valid, and adds to PPO's loss, weighted
by `lambda_off_policy`, that of a batch of `off_policy_batch_size` of them: how far the student's action is from the
expert's mean, in units of the expert's sigma. The same rows come out of the store that the collector leaves, without a
file as large as the data and while the expert still acts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from iltools_datasets import TrajectoryStore
from iltools_datasets.collection import ExpertTrajectoryCollector
from iltools_datasets.demo.cartpole import CartPole
from iltools_datasets.demo.expert import SwingUpExpert
from iltools_datasets.demo.recording import random_starts
from torch import Tensor, nn

NUM_ENVS, SIGMA = 16, 0.5
"""SIGMA: of the expert's actions, in N."""


def collect(collector: ExpertTrajectoryCollector, steps: int) -> None:
    """An expert balances poles; some episodes end before the others."""
    plant, rng = CartPole(), np.random.default_rng(0)
    expert, state = SwingUpExpert(plant), random_starts(rng, NUM_ENVS, 0.4)
    active = np.ones(NUM_ENVS, bool)
    for step in range(steps):
        mean = expert(state)[:, None]
        actions = mean + SIGMA * rng.standard_normal(mean.shape)
        given = {"observations": state, "actions": actions, "action_mean": mean}
        given["action_sigma"] = np.full_like(mean, SIGMA)
        collector.add_step(**{key: torch.from_numpy(value).float() for key, value in given.items()}, valid_mask=active)
        state = plant.step(state, actions[:, 0])
        ends = active & ((rng.random(NUM_ENVS) < 0.01) | (step == steps - 1))
        last = torch.from_numpy(state[ends]).float()
        collector.mark_trajectory_end(env_ids=np.flatnonzero(ends), final_observations=last)
        active &= ~ends


def rows_of_file(path: Path) -> dict[str, Tensor]:
    """What MOSAIC makes of its file: every valid row, `[rows, width]`."""
    data = np.load(path, allow_pickle=True).item()  # a pickle: only of a file of your own
    valid = data["valid_mask"] if data["metadata"]["has_valid_mask"] else np.ones(data["actions"].shape[:2], bool)
    return {key: torch.from_numpy(data[key][valid]) for key in ("observations", "action_mean", "action_sigma")}


def rows_of_store(path: Path) -> dict[str, Tensor]:
    store = TrajectoryStore.open(path)
    rows = store.gather(np.arange(len(store)), ["observation", "action_mean", "action_sigma"])
    return {key if key != "observation" else "observations": torch.from_numpy(rows[key]) for key in rows}


def train(rows: dict[str, Tensor], steps: int, off_policy_batch_size: int = 256) -> list[float]:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer, losses = torch.optim.Adam(student.parameters(), 1e-2), []
    for _ in range(steps):
        chosen = torch.randint(len(rows["observations"]), (off_policy_batch_size,))
        off = (student(rows["observations"][chosen]) - rows["action_mean"][chosen]) / rows["action_sigma"][chosen]
        loss = off.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        directory = Path(workdir)
        with ExpertTrajectoryCollector(obs_dim=4, action_dim=1, directory=directory / "store") as collector:
            collect(collector, 150)
            collector.save(directory / "expert.npy", only_valid=True)
        of_file, of_store = rows_of_file(directory / "expert.npy"), rows_of_store(directory / "store")

    def ordered(rows: dict[str, Tensor]) -> np.ndarray:
        table = torch.cat([rows[key] for key in sorted(rows)], dim=1).numpy()
        return table[np.lexsort(table.T)]

    same = np.array_equal(ordered(of_file), ordered(of_store))
    print(
        f"{len(of_file['observations'])} rows in the file, {len(of_store['observations'])} in the store, same: {same}"
    )
    for name, rows in (("file", of_file), ("store", of_store)):
        losses = train(rows, arguments.steps)
        print(f"{name}: loss {np.mean(losses[:20]):.2f} to {np.mean(losses[-20:]):.2f}")


if __name__ == "__main__":
    main()
