"""Stream fixed-shape windows to a jitted scan over time: `python examples/scan_windows_jax.py`.

While the scan runs on one window, a thread gathers the next ones and puts them on the device. The envs all follow
different clips and move on by a window each time; a clip that is over begins anew.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from expert_motion import open_expert_store
from iltools_datasets import WindowSource
from iltools_datasets.jax_stream import DoubleBufferStreamer


@jax.jit
def mean_speed(batch: dict[str, jax.Array]) -> jax.Array:
    """Return the mean norm of qvel over envs and time, summed up step by step as a recurrent policy would be run."""
    velocities = jnp.moveaxis(batch["qvel"], 1, 0)  # [T, E, nv]

    def body(total: jax.Array, velocity: jax.Array) -> tuple[jax.Array, None]:
        return total + jnp.linalg.norm(velocity, axis=-1).mean(), None

    total, _ = jax.lax.scan(body, jnp.zeros(()), velocities)
    return total / len(velocities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", type=Path, help="motion files; default: G1 recordings, or a cart-pole")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        store = open_expert_store(Path(workdir), arguments.recordings)
        print(store)
        rng = np.random.default_rng(0)
        traj = rng.integers(0, store.num_trajectories, arguments.num_envs)
        start = rng.integers(0, store.segments.length[traj])
        source = WindowSource(store, ["qpos", "qvel"], arguments.window, traj, start, num_threads=1)
        with DoubleBufferStreamer(source) as streamer:
            mean_speed(streamer.next_window()).block_until_ready()
            began = time.perf_counter()
            speeds = [float(mean_speed(streamer.next_window())) for _ in range(arguments.steps)]
            spent = time.perf_counter() - began
            stats = streamer.stats
        print(
            f"{arguments.steps} windows of {arguments.num_envs} envs x {arguments.window} steps in {spent:.2f} s; "
            f"mean speed {np.mean(speeds):.4f}; the step waited {stats.waited - stats.longest_wait:.3f} s for windows"
        )


if __name__ == "__main__":
    main()
