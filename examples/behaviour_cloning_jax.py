"""Clone a motion with JAX, twice: windows streamed from the host, and out of a store on the device. The losses agree.

`python examples/behaviour_cloning_jax.py`

The network sees where the joints are and how they move, and says by how much the joints are to move until the next
frame: what a robot under position control would be told.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from expert_motion import open_expert_store
from iltools_datasets import DeviceStore, TrajectoryStore, WindowSource
from iltools_datasets.jax_stream import DoubleBufferStreamer

KEYS = ["qpos", "qvel", ("next", "qpos")]
HIDDEN = 256
LEARNING_RATE, MOMENTUM = 0.05, 0.9

Tree = Any


def initial_network(store: TrajectoryStore, seed: int = 0) -> Tree:
    """Return weights, and the statistics by which inputs and targets are normalised."""
    rows = store.gather(np.linspace(0, len(store) - 1, min(len(store), 4096), dtype=np.int64), KEYS)
    inputs = np.concatenate([rows["qpos"], rows["qvel"]], axis=1)
    target = rows["next", "qpos"] - rows["qpos"]
    widths = [inputs.shape[1], HIDDEN, HIDDEN, target.shape[1]]
    keys = jax.random.split(jax.random.key(seed), 3)
    weights = [
        {"w": jax.random.normal(key, (n, m)) / np.sqrt(n), "b": jnp.zeros(m)}
        for key, n, m in zip(keys, widths, widths[1:], strict=False)
    ]
    moments = [(values.mean(axis=0), np.maximum(values.std(axis=0), 1e-6)) for values in (inputs, target)]
    return {"weights": weights, "moments": jax.tree.map(jnp.asarray, moments)}


def loss_of(weights: Tree, moments: Tree, window: dict[str, Any]) -> jax.Array:
    """Mean squared error over a window [E, T, ...] in units of the target's variance: 1 is what the mean would give."""
    (input_mean, input_std), (target_mean, target_std) = moments
    hidden = (jnp.concatenate([window["qpos"], window["qvel"]], axis=-1) - input_mean) / input_std
    target = (window["next"]["qpos"] - window["qpos"] - target_mean) / target_std
    for layer in weights[:-1]:
        hidden = jnp.tanh(hidden @ layer["w"] + layer["b"])
    return jnp.mean((hidden @ weights[-1]["w"] + weights[-1]["b"] - target) ** 2)


def update(state: Tree, window: dict[str, Any]) -> tuple[Tree, jax.Array]:
    """One step of gradient descent with momentum."""
    network, velocity = state
    loss, gradient = jax.value_and_grad(loss_of)(network["weights"], network["moments"], window)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v - LEARNING_RATE * g, velocity, gradient)
    weights = jax.tree.map(jnp.add, network["weights"], velocity)
    return ({**network, "weights": weights}, velocity), loss


def initial_state(store: TrajectoryStore) -> Tree:
    network = initial_network(store)
    return network, jax.tree.map(jnp.zeros_like, network["weights"])


def starts(store: TrajectoryStore, num_envs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a trajectory for each env, and a step in it to begin at."""
    rng = np.random.default_rng(0)
    traj = rng.integers(0, store.num_trajectories, num_envs)
    return traj, rng.integers(0, store.segments.length[traj])


def clone_from_host(store: TrajectoryStore, num_envs: int, window: int, num_steps: int) -> Iterator[float]:
    """Train on streamed windows; only as many as the stream's depth, and the one in use, are in device memory."""
    state, step = initial_state(store), jax.jit(update)
    traj, start = starts(store, num_envs)
    with DoubleBufferStreamer(WindowSource(store, KEYS, window, traj, start, num_threads=1)) as streamer:
        for _ in range(num_steps):
            state, loss = step(state, streamer.next_window())
            yield float(loss)


def clone_on_device(store: TrajectoryStore, num_envs: int, window: int, num_steps: int) -> Iterator[float]:
    """Train on windows out of device memory: nothing comes from the host any more."""

    @partial(jax.jit, static_argnums=3)
    def step(state: Tree, data: DeviceStore, place: tuple[jax.Array, jax.Array], length: int) -> tuple[Any, ...]:
        traj, at = place
        state, loss = update(state, data.window(traj, at, length, "wrap"))
        return state, (traj, at + length), loss

    state, data = initial_state(store), DeviceStore.from_store(store, KEYS)
    place = tuple(jnp.asarray(values, jnp.int32) for values in starts(store, num_envs))
    for _ in range(num_steps):
        state, place, loss = step(state, data, place, window)
        yield float(loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", type=Path, help="motion files; default: G1 recordings, or a cart-pole")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        store = open_expert_store(Path(workdir), arguments.recordings)
        print(store)
        losses = []
        for name, clone in (("streamed from the host", clone_from_host), ("on the device", clone_on_device)):
            began = time.perf_counter()
            losses.append(np.array(list(clone(store, arguments.num_envs, arguments.window, arguments.steps))))
            spent = time.perf_counter() - began
            tenth = max(1, arguments.steps // 10)
            print(
                f"{name}: loss {losses[-1][:tenth].mean():.4f} over the first {tenth} steps, "
                f"{losses[-1][-tenth:].mean():.4f} over the last, {spent:.1f} s"
            )
    difference = np.max(np.abs(losses[0] - losses[1]) / losses[0])
    print(f"largest relative difference of the losses: {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit("the two paths disagree")


if __name__ == "__main__":
    main()
