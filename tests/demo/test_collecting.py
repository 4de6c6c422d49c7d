"""The demo that collects: a killed collector loses nothing, and who trains meanwhile sees the store grow."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torchrl", reason="the demo needs the extra torch")

from iltools_datasets.demo import collecting
from iltools_datasets.demo.events import Collected, Tracked, Trained
from iltools_datasets.store.trajectory_store import TrajectoryStore

pytestmark = pytest.mark.torch


def test_a_killed_collector_loses_nothing_while_somebody_trains(tmp_path: Path) -> None:
    events = {type(event): event for event in collecting.demo_collecting(tmp_path, seed=1, training_steps=150)}
    collected, trained = events[Collected], events[Trained]
    assert isinstance(collected, Collected)
    assert isinstance(trained, Trained)
    assert collected.passed
    assert collected.rows_said <= collected.rows_found <= collected.rows_said + 64
    assert list(collected.growth) == sorted(collected.growth)
    assert collected.growth[0] < collected.growth[-1]
    store = TrajectoryStore.open(tmp_path / collecting.STORE_NAME)
    assert store.num_trajectories == collected.growth[-1] > 128
    assert trained.last_loss < trained.first_loss
    assert Tracked in events


def test_a_collector_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(collecting.CollectorDiedError, match="the collector failed"):
        for _ in collecting.demo_collecting(tmp_path, training_steps=2):
            pass
