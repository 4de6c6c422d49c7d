"""Small stores, and the oracle they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from iltools_datasets import StoreBuilder

Clips = list[dict[str, np.ndarray]]


def make_clips(lengths: list[int], seed: int = 0) -> Clips:
    """Random trajectories: `qpos` and `qvel` per state, `action` per transition, `done` at the last transition."""
    rng = np.random.default_rng(seed)
    clips = []
    for states in lengths:
        done = np.zeros((states - 1, 1), dtype=bool)
        done[-1] = True
        clips.append(
            {
                "qpos": rng.standard_normal((states, 7), dtype=np.float32),
                "qvel": rng.standard_normal((states, 6), dtype=np.float32),
                "action": rng.standard_normal((states - 1, 3), dtype=np.float32),
                "done": done,
            }
        )
    return clips


def build_store(path: Path, clips: Clips, **options: Any) -> Path:
    """Write clips as a store, three trajectories per task, with a concatenated observation."""
    options.setdefault("concat", {"observation": ["qpos", "qvel"]})
    options.setdefault("alias", {"terminated": ("next", "done")})
    with StoreBuilder(path, **options) as builder:
        for k, clip in enumerate(clips):
            builder.add(
                k // 3,
                k % 3,
                states={"qpos": clip["qpos"], "qvel": clip["qvel"]},
                transitions={"action": clip["action"], ("next", "done"): clip["done"]},
                name=f"clip{k}",
                task_name=f"made/up{k // 3}",
            )
    return path


def expected_columns(clips: Clips) -> dict[Any, np.ndarray]:
    """All transitions of the clips, column by column, by concatenation alone."""

    def stack(of: Callable[[dict[str, np.ndarray]], np.ndarray]) -> np.ndarray:
        return np.concatenate([of(clip) for clip in clips])

    columns: dict[Any, np.ndarray] = {}
    for key in ("qpos", "qvel"):
        columns[key] = stack(lambda clip, key=key: clip[key][:-1])
        columns["next", key] = stack(lambda clip, key=key: clip[key][1:])
    columns["observation"] = np.concatenate([columns["qpos"], columns["qvel"]], axis=1)
    columns["next", "observation"] = np.concatenate([columns["next", "qpos"], columns["next", "qvel"]], axis=1)
    columns["action"] = stack(lambda clip: clip["action"])
    columns["next", "done"] = columns["terminated"] = stack(lambda clip: clip["done"])
    return columns
