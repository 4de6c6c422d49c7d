"""The demo as a whole: the policy tracks its expert, the losses are the same every time, nothing is left behind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchrl", reason="the demo needs the extra torch")
pytest.importorskip("typer", reason="the demo is a verb of the command line, the extra cli")

import torch
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.cli import main
from iltools_datasets.demo import run
from iltools_datasets.demo.cloning import ACTION, Normaliser, cartpole_features, train, untrained_policy
from iltools_datasets.demo.events import Built, Event, Recorded, Sampled, Tracked, Trained
from iltools_datasets.errors import MissingKeyError
from iltools_datasets.ingest.default_keys import default_obs_keys
from iltools_datasets.store.trajectory_store import TrajectoryStore

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def cartpole_events(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[type, Event]]:
    workdir = tmp_path_factory.mktemp("demo")
    return workdir, {type(event): event for event in run.demo_on_cartpole(workdir, training_steps=1500)}


def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_TRAINING_STEPS", 20)
    for function in (run.demo_on_cartpole, run.demo_on_archive):
        defaults = function.__defaults__
        assert defaults is not None
        monkeypatch.setattr(function, "__defaults__", (*defaults[:-1], 20))


def test_policy_tracks_the_expert(cartpole_events: tuple[Path, dict[type, Any]]) -> None:
    tracked = cartpole_events[1][Tracked]
    assert tracked.passed
    assert tracked.tracking.median_degrees < 1.0
    assert tracked.tracking.upright_share > 0.98


def test_loss_falls_and_every_mode_is_measured(cartpole_events: tuple[Path, dict[type, Any]]) -> None:
    events = cartpole_events[1]
    assert events[Trained].first_loss > 100 * events[Trained].last_loss
    shapes = {rate.mode: rate.batch_shape for rate in events[Sampled].rates}
    assert set(shapes.values()) == {(256,), (256, 32), (4096,)}
    assert all(rate.transitions_per_second > 0 for rate in events[Sampled].rates)


def test_archive_and_store_stay_in_the_workplace(cartpole_events: tuple[Path, dict[type, Any]]) -> None:
    workdir, events = cartpole_events
    store = TrajectoryStore.open(workdir / run.STORE_NAME)
    assert len(store) == events[Built].report.num_transitions
    assert store.num_trajectories == events[Recorded].num_clips
    assert sorted(path.name for path in workdir.iterdir()) == ["expert.zarr", "store"]


def test_training_is_the_same_every_time(cartpole_events: tuple[Path, dict[type, Any]]) -> None:
    from iltools_datasets.replay_manager import ExpertReplayManager

    def losses() -> list[float]:
        manager = ExpertReplayManager.load(cartpole_events[0] / run.STORE_NAME)
        manager.set_uniform_sampler(batch_size=256, without_replacement=True)
        manager.buffer.set_rng(torch.Generator().manual_seed(4))
        policy = untrained_policy(manager.buffer.sample(), ACTION, cartpole_features, seed=4)
        return list(train(policy, manager.buffer, ACTION, num_steps=10))

    state = torch.random.get_rng_state()
    assert losses() == losses()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_normaliser_leaves_constants_alone() -> None:
    sample = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    normaliser = Normaliser(sample)
    torch.testing.assert_close(normaliser(sample), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(normaliser.inverse(normaliser(sample)), sample)


@pytest.fixture
def motion_archive(tmp_path: Path) -> Path:
    """Two clips without actions."""
    rng = np.random.default_rng(0)
    with ArchiveWriter(tmp_path / "motion.zarr") as writer:
        for number, length in enumerate((40, 60)):
            walk = rng.normal(size=(length, 5)).astype(np.float32).cumsum(axis=0)
            writer.add("lab", "walk", f"traj{number}", {"joint_pos": walk, "steps": np.arange(length)})
    return tmp_path / "motion.zarr"


def test_a_users_archive_without_actions(motion_archive: Path, tmp_path: Path) -> None:
    events = {type(event): event for event in run.demo_on_archive(motion_archive, tmp_path / "work", training_steps=20)}
    assert Tracked not in events
    trained = events[Trained]
    assert isinstance(trained, Trained)
    assert trained.target == "next observation"


def test_a_users_archive_without_anything_to_observe(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "empty.zarr") as writer:
        writer.add("lab", "walk", "traj0", {"steps": np.arange(10)})
    with pytest.raises(MissingKeyError, match="nothing to observe"):
        default_obs_keys(ArchiveReader(tmp_path / "empty.zarr"))


@pytest.fixture
def temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


def test_command_prints_json_and_leaves_nothing_behind(
    motion_archive: Path,
    temporary_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short_training(monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--zarr", str(motion_archive), "--obs-keys", "joint_pos", "--json"])
    assert not stopped.value.code
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"built", "sampled", "trained"}
    assert document["built"]["report"]["num_transitions"] == 39 + 59
    assert not list(temporary_directory.iterdir())


def test_command_fails_when_the_policy_does_not_track(
    temporary_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short_training(monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        main(["demo"])
    assert stopped.value.code == 1
    assert "compared" in capsys.readouterr().out
    assert not list(temporary_directory.iterdir())


def test_keep_takes_an_empty_directory_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--keep", str(tmp_path)])
    assert stopped.value.code == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_obs_keys_need_an_archive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--obs-keys", "qpos"])
    assert stopped.value.code == 2
    assert "--zarr" in capsys.readouterr().err
