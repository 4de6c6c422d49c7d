"""A store in which no two values are alike, and its contents."""

from __future__ import annotations

import numpy as np
import pytest
from iltools_datasets import StoreBuilder, TrajectoryStore

LENGTHS = [5, 40, 2, 17, 96, 33]
"""States per trajectory of `store`."""


@pytest.fixture(name="clips", scope="session")
def clips_fixture() -> list[dict[str, np.ndarray]]:
    """Trajectories in which no two values are alike, so that a row out of place cannot look right."""
    first = np.cumsum([0, *LENGTHS[:-1]])
    made = []
    for begin, num_states in zip(first, LENGTHS, strict=True):
        rows = 16 * np.arange(begin, begin + num_states, dtype=np.float32)[:, None]
        made.append(
            {"qpos": rows + np.arange(5), "qvel": rows + np.arange(5, 8), "action": rows[:-1] + np.arange(8, 10)}
        )
    return [{key: values.astype(np.float32) for key, values in clip.items()} for clip in made]


@pytest.fixture(name="columns", scope="session")
def columns_fixture(clips: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All transitions of the clips, column by column."""
    columns = {key: np.concatenate([clip[key][:-1] for clip in clips]) for key in ("qpos", "qvel")}
    columns["next_qpos"] = np.concatenate([clip["qpos"][1:] for clip in clips])
    columns["action"] = np.concatenate([clip["action"] for clip in clips])
    return columns


@pytest.fixture(name="store", scope="session")
def store_fixture(clips: list[dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """The store of the clips; trajectory k is (task k // 2, trajectory k % 2)."""
    path = tmp_path_factory.mktemp("numbered") / "store"
    with StoreBuilder(path) as builder:
        for k, clip in enumerate(clips):
            states = {key: clip[key] for key in ("qpos", "qvel")}
            builder.add(k // 2, k % 2, states=states, transitions={"action": clip["action"]})
    return TrajectoryStore.open(path)
