"""Sets that the tests of the reader write, and the transitions in them by the rules alone, in plain numpy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets.data import Transition

pytest.importorskip("pyarrow", reason="needs the extra data")
pytest.importorskip("av", reason="needs the extra data")
sys.path.append(str(Path(__file__).parents[1] / "lerobot"))

from sets import HEIGHT, VERSIONS, WIDTH, LeRobotSet, make_set, read_counter

__all__ = ["HEIGHT", "VERSIONS", "WIDTH", "LeRobotSet", "Oracle", "cache_fixture", "make_set", "read_counter"]


@pytest.fixture(name="cache", autouse=True)
def cache_fixture(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, and no other place where a set could be found. For tests that import it."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ILTOOLS_CACHE", str(path))
    monkeypatch.setenv("HF_HOME", str(path / "hub"))
    for name in ("HF_LEROBOT_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return path


class Oracle:
    """The items of some episodes of a set, one after the other."""

    def __init__(self, made: LeRobotSet, episodes: Sequence[int] | None = None) -> None:
        self.columns = [made.columns[episode] for episode in (made.episodes if episodes is None else episodes)]
        self.places = [
            (at, frame) for at, columns in enumerate(self.columns) for frame in range(len(columns["action"]))
        ]

    def __len__(self) -> int:
        return len(self.places)

    def value(self, item: int, key: str, offsets: Sequence[int] | None = None, after: int = 0) -> np.ndarray:
        """A feature at an item, or at the frame after it, or its window there."""
        at, frame = self.places[item]
        column = self.columns[at][key]
        if column.dtype == np.float64:
            column = column.astype(np.float32)
        frame = min(frame + after, len(column) - 1)
        if offsets is None:
            return column[frame]
        return column[[min(max(frame + offset, 0), len(column) - 1) for offset in offsets]]

    def is_pad(self, item: int, offsets: Sequence[int]) -> np.ndarray:
        """Which steps of a window lie outside the episode."""
        at, frame = self.places[item]
        return np.array([not 0 <= frame + offset < len(self.columns[at]["action"]) for offset in offsets])

    def is_last(self, item: int) -> bool:
        at, frame = self.places[item]
        return frame == len(self.columns[at]["action"]) - 1

    def transition(
        self,
        item: int,
        obs_keys: Sequence[str] = ("observation.state",),
        offsets: dict[str, list[int]] | None = None,
        reward_key: str | None = "next.reward",
    ) -> Transition:
        """An item with its observation as one array."""
        steps = offsets or {}

        def obs(after: int) -> Any:
            parts = [self.value(item, key, steps.get(key), after) for key in obs_keys]
            return parts[0] if len(parts) == 1 else np.concatenate([part.reshape(-1) for part in parts])

        reward = np.float32(0) if reward_key is None else self.value(item, reward_key)[0].astype(np.float32)
        action = self.value(item, "action", steps.get("action"))
        return Transition(obs(0), action, reward, obs(1), np.bool_(self.is_last(item)))
