"""A LeRobot set to try things with: recordings of a Unitree G1 where there are some, else a simulated cart-pole's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from iltools_datasets.demo.cartpole import CartPole
from iltools_datasets.demo.recording import record_clips

G1_SET = Path(__file__).resolve().parents[2] / "shared" / "data" / "lerobot_g1"


def find_or_write_set(workdir: Path) -> Path:
    """Return the directory of the G1's set, or of one that is written to `workdir`."""
    if (G1_SET / "meta" / "info.json").is_file():
        return G1_SET
    print("simulating the expert of a cart-pole")
    root = workdir / "cartpole"
    write_set(root, CartPole())
    return root


def write_set(root: Path, plant: CartPole) -> None:
    """Write what the expert of a cart-pole saw and did as a LeRobot set of version 3.0: state [4], action [1]."""
    clips = record_clips(plant, np.random.default_rng(0), 40, 10)
    lengths = np.array([clip.num_states for clip in clips])
    last = np.cumsum(lengths)
    frame = np.concatenate([np.arange(length) for length in lengths])
    columns = {
        "observation.state": np.concatenate([np.hstack([clip.qpos, clip.qvel]) for clip in clips]),
        "action": np.concatenate([clip.action for clip in clips]),
        "timestamp": (frame * plant.dt).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(clips)), lengths),
        "index": np.arange(len(frame)),
        "task_index": np.zeros(len(frame), np.int64),
    }
    zeros = np.zeros(len(clips), np.int64)
    episodes = {
        "episode_index": np.arange(len(clips)),
        "tasks": [["swing the pole up"]] * len(clips),
        "length": lengths,
        "data/chunk_index": zeros,
        "data/file_index": zeros,
        "dataset_from_index": last - lengths,
        "dataset_to_index": last,
        "meta/episodes/chunk_index": zeros,
        "meta/episodes/file_index": zeros,
    }
    info = {
        "codebase_version": "v3.0",
        "robot_type": "cart-pole",
        "total_episodes": len(clips),
        "total_frames": len(frame),
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": round(1 / plant.dt),
        "splits": {"train": f"0:{len(clips)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": {
            key: {"dtype": values.dtype.name, "shape": list(values.shape[1:]) or [1], "names": None}
            for key, values in columns.items()
        },
    }
    files = {
        "data/chunk-000/file-000.parquet": {key: _arrow(values) for key, values in columns.items()},
        "meta/episodes/chunk-000/file-000.parquet": episodes,
        "meta/tasks.parquet": {"task_index": [0], "task": ["swing the pole up"]},
    }
    for name, table in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), root / name)
    (root / "meta/info.json").write_text(json.dumps(info))
    summaries = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
    stats = {
        key: {name: np.atleast_1d(of(values, axis=0)).tolist() for name, of in summaries.items()}
        for key, values in columns.items()
    }
    (root / "meta/stats.json").write_text(json.dumps(stats))


def _arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
