"""Train a policy that sees a state and says the next steps' actions, with JAX and with torch, to the same loss.

`python examples/action_chunking.py`, or with the directory of a LeRobot set of your own. Both begin with the same
weights and see the same rows: the order of the batches is a function of the seed, not of the framework.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from iltools_datasets.data import (
    JaxDataLoader,
    LeRobotDatasetAdapter,
    LeRobotDatasetConfig,
    NormStats,
    compute_norm_stats,
    z_score_normalize,
)
from lerobot_recordings import find_or_write_set

HIDDEN = 128
LEARNING_RATE, MOMENTUM = 0.02, 0.9
MASK = "action_is_pad"

Stats = dict[str, NormStats]
Weights = list[dict[str, Any]]


def open_set(root: Path, chunk: int) -> LeRobotDatasetAdapter:
    """Open a set whose actions are chunks: those of a frame and of the `chunk` - 1 frames after it."""
    fps = LeRobotDatasetAdapter(str(root)).metadata["fps"]
    chunks = {"action": [step / fps for step in range(chunk)]}
    return LeRobotDatasetAdapter(LeRobotDatasetConfig(str(root), delta_timestamps=chunks))


def initial_weights(dataset: LeRobotDatasetAdapter, seed: int = 0) -> Weights:
    """Return the layers of a network from a state to a chunk of actions, in numpy: both frameworks begin with them."""
    item = dataset.batch([0])
    widths = [item.obs.shape[1], HIDDEN, HIDDEN, int(np.prod(item.action.shape[1:]))]
    rng = np.random.default_rng(seed)
    return [
        {"w": (rng.standard_normal((n, m)) / np.sqrt(n)).astype(np.float32), "b": np.zeros(m, np.float32)}
        for n, m in itertools.pairwise(widths)
    ]


def train_with_jax(dataset: LeRobotDatasetAdapter, stats: Stats, batch_size: int, num_steps: int) -> Iterator[float]:
    def loss_of(weights: Weights, batch: Any, is_pad: jax.Array) -> jax.Array:
        """Mean squared error of the steps that lie in their episode; 1 is what the mean action would give."""
        hidden = z_score_normalize(batch.obs, stats["obs"])
        for layer in weights[:-1]:
            hidden = jnp.tanh(hidden @ layer["w"] + layer["b"])
        said = hidden @ weights[-1]["w"] + weights[-1]["b"]
        target = z_score_normalize(batch.action, stats["action"])
        error = jnp.mean((said.reshape(target.shape) - target) ** 2, axis=-1)
        return jnp.sum(error * ~is_pad) / jnp.sum(~is_pad)

    @jax.jit
    def step(weights: Weights, velocity: Weights, batch: Any, is_pad: jax.Array) -> tuple[Weights, Weights, jax.Array]:
        loss, gradient = jax.value_and_grad(loss_of)(weights, batch, is_pad)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
        return jax.tree.map(lambda w, v: w - LEARNING_RATE * v, weights, velocity), velocity, loss

    weights = jax.tree.map(jnp.asarray, initial_weights(dataset))
    velocity = jax.tree.map(jnp.zeros_like, weights)
    with JaxDataLoader(dataset, batch_size, seed=0, extra=[MASK]) as loader:
        while True:
            for batch, extras in loader:
                weights, velocity, loss = step(weights, velocity, batch, extras[MASK])
                yield float(loss)
                num_steps -= 1
                if not num_steps:
                    return


def train_with_torch(dataset: LeRobotDatasetAdapter, stats: Stats, batch_size: int, num_steps: int) -> Iterator[float]:
    import torch
    from iltools_datasets.torchrl import SamplerWithoutReplacement, TrajectoryStorage

    def normalized(values: torch.Tensor, of: NormStats) -> torch.Tensor:
        return (values - torch.tensor(of.mean)) / torch.tensor(of.std).clamp_min(1e-8)

    torch.set_num_threads(1)  # threads cost a network this small more than they do for it
    weights = [
        {name: torch.tensor(value, requires_grad=True) for name, value in layer.items()}
        for layer in initial_weights(dataset)
    ]
    optimizer = torch.optim.SGD([value for layer in weights for value in layer.values()], LEARNING_RATE, MOMENTUM)
    # The order of the batches is that of the loader for JAX; with lerobot's interface, see iltools_datasets.lerobot.
    storage, sampler = TrajectoryStorage(dataset.store), SamplerWithoutReplacement(drop_last=True, seed=0)
    for _ in range(num_steps):
        index, _ = sampler.sample(storage, batch_size)
        batch, extras = dataset.batch(index.numpy(), extra=[MASK])
        hidden = normalized(torch.from_numpy(batch.obs), stats["obs"])
        for layer in weights[:-1]:
            hidden = torch.tanh(hidden @ layer["w"] + layer["b"])
        said = hidden @ weights[-1]["w"] + weights[-1]["b"]
        target = normalized(torch.from_numpy(batch.action), stats["action"])
        inside = ~torch.from_numpy(extras[MASK])
        loss = (((said.reshape(target.shape) - target) ** 2).mean(-1) * inside).sum() / inside.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", nargs="?", type=Path, help="a LeRobot directory; default: a G1's, or a cart-pole's")
    parser.add_argument("--chunk", type=int, default=16, help="actions per chunk")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        dataset = open_set(arguments.set or find_or_write_set(Path(workdir)), arguments.chunk)
        stats = compute_norm_stats(dataset, ["obs", "action"])
        print(f"{dataset}, chunks of {arguments.chunk}")
        losses = []
        for name, train in (("JAX", train_with_jax), ("torch", train_with_torch)):
            began = time.perf_counter()
            losses.append(np.array(list(train(dataset, stats, arguments.batch_size, arguments.steps))))
            spent, tenth = time.perf_counter() - began, max(1, arguments.steps // 10)
            first, last = losses[-1][:tenth].mean(), losses[-1][-tenth:].mean()
            print(f"{name}: loss {first:.4f} over the first {tenth} steps, {last:.4f} over the last, {spent:.1f} s")
    difference = float(np.max(np.abs(losses[0] - losses[1]) / losses[0]))
    print(f"largest relative difference of the losses: {difference:.1e}")
    if difference > 1e-2:
        raise SystemExit("the two frameworks disagree")


if __name__ == "__main__":
    main()
