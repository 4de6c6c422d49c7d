"""Expert motion to try things with: recordings of a Unitree G1 where there are some, else a simulated cart-pole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from iltools_datasets import StoreBuilder, TrajectoryStore, build_store
from iltools_datasets.demo.cartpole import CartPole
from iltools_datasets.demo.recording import archive_clips, record_clips
from iltools_datasets.sources import export, open_sources

G1_RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "unitree_g1"


def open_expert_store(workdir: Path, recordings: Sequence[Path] = ()) -> TrajectoryStore:
    """Build a store of the recordings in `workdir`, once, and open it: `qpos` and `qvel` per state, f32.

    Without recordings, the G1's are taken if they are there, and else a cart-pole's expert is simulated.
    """
    store = workdir / "store"
    if not (store / "manifest.json").exists():
        archive = workdir / "expert.zarr"
        paths = list(recordings) or sorted(G1_RECORDINGS.glob("*.csv"))
        if paths:
            print(f"reading {', '.join(path.name for path in paths)}")
            export(open_sources(paths), archive, overwrite=True)
        else:
            print("simulating the expert of a cart-pole")
            plant = CartPole()
            archive_clips(archive, plant, record_clips(plant, np.random.default_rng(0), 40, 10))
        build_store(archive, store, ["qpos", "qvel"], overwrite=True, progress=False)
    return TrajectoryStore.open(store)


def record_cartpole(path: Path, num_clips: int) -> TrajectoryStore:
    """Build a store of an expert that balances a pole, and open it.

    Per state `observation` f32 [4] (m, rad, m/s, rad/s); per transition `action` f32 [1] (N), and under `"next"`
    `reward` f32 [1] (the cosine of the pole's angle: 1 where it stands), `terminated` and `done`, never true.
    """
    with StoreBuilder(path) as builder:
        for number, clip in enumerate(record_clips(CartPole(), np.random.default_rng(0), 0, num_clips)):
            states = np.concatenate([clip.qpos, clip.qvel], axis=1)
            never = np.zeros((len(states) - 1, 1), bool)
            ends = {("next", "terminated"): never, ("next", "done"): never}
            rows = {"action": clip.action[:-1], ("next", "reward"): np.cos(states[1:, 1:2]), **ends}
            builder.add(0, number, states={"observation": states}, transitions=rows)
    return TrajectoryStore.open(path)
