"""Behaviour cloning with Flax (nnx) and Optax: batches of transitions from a store, already on the device.

`python examples/flax_optax.py`
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from expert_motion import record_cartpole
from flax import nnx
from iltools_datasets.data import JaxDataLoader, Transition


class Policy(nnx.Module):
    """Two hidden layers over observations `[B, O]`, in units of their spread; actions `[B, A]` in units of theirs."""

    def __init__(self, observations: np.ndarray, actions: np.ndarray, rngs: nnx.Rngs) -> None:
        self.mean = nnx.Variable(jnp.asarray(observations.mean(0)))
        self.std = nnx.Variable(jnp.asarray(observations.std(0)))
        widths = [observations.shape[1], 128, 128, actions.shape[1]]
        self.layers = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in itertools.pairwise(widths)])
        self.scale = float(actions.std())

    def __call__(self, observation: jax.Array) -> jax.Array:
        hidden = (observation - self.mean[...]) / self.std[...]
        for layer in self.layers[:-1]:
            hidden = nnx.tanh(layer(hidden))
        return self.layers[-1](hidden) * self.scale


@nnx.jit
def train_step(policy: Policy, optimizer: nnx.Optimizer, batch: Transition) -> jax.Array:
    def loss_of(policy: Policy) -> jax.Array:
        return jnp.mean(((policy(batch.obs) - batch.action) / policy.scale) ** 2)

    loss, gradients = nnx.value_and_grad(loss_of)(policy)
    optimizer.update(policy, gradients)
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        store = record_cartpole(Path(workdir) / "store", 40)
        rows = store.gather(np.arange(len(store)), ["observation", "action"])
        policy = Policy(rows["observation"], rows["action"], nnx.Rngs(0))
        optimizer = nnx.Optimizer(policy, optax.adamw(3e-3), wrt=nnx.Param)
        # was: a generator over npz files, jnp.asarray, jax.device_put
        with JaxDataLoader(store, batch_size=256, num_workers=1, seed=0) as loader:
            losses = [
                float(jnp.stack([train_step(policy, optimizer, batch) for batch in loader]).mean())
                for _ in range(arguments.epochs)
            ]
        print(f"{len(store)} transitions, {arguments.epochs} epochs")
        print(f"loss {losses[0]:.4f} to {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
