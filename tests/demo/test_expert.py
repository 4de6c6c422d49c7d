"""The expert: its gain against scipy's Riccati solver, its swing-up against the goal, its clips against its own law."""

from pathlib import Path

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.demo.cartpole import CartPole, wrapped
from iltools_datasets.demo.expert import SwingUpExpert, solve_riccati
from iltools_datasets.demo.recording import archive_clips, random_starts, record_clips, roll_out

PLANT = CartPole()


def test_riccati_solution_is_scipys() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is the oracle here")
    rng = np.random.default_rng(0)
    for _ in range(10):
        a, b = rng.normal(size=(5, 5)), rng.normal(size=(5, 2))
        q, r = np.diag(rng.uniform(0.1, 2, 5)), np.diag(rng.uniform(0.1, 2, 2))
        np.testing.assert_allclose(
            solve_riccati(a, b, q, r), linalg.solve_continuous_are(a, b, q, r), rtol=1e-6, atol=1e-8
        )


def test_riccati_refuses_what_cannot_be_stabilised() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="stable eigenvalues"):
        solve_riccati(np.zeros((2, 2)), np.zeros((2, 1)), np.eye(2), np.eye(1))


def test_expert_ends_upright_from_anywhere() -> None:
    start = random_starts(np.random.default_rng(1), 200, np.pi)
    states = roll_out(PLANT, SwingUpExpert(PLANT), start, round(8 / PLANT.dt))
    last_second = states[-round(1 / PLANT.dt) :]
    assert np.abs(wrapped(last_second[..., 1])).max() < np.radians(2)
    assert np.abs(states[..., 0]).max() < 3.0


def test_expert_is_the_same_every_turn() -> None:
    states = random_starts(np.random.default_rng(2), 50, np.pi)
    turned = states + np.array([0, 4 * np.pi, 0, 0])
    expert = SwingUpExpert(PLANT)
    np.testing.assert_allclose(expert(turned), expert(states), atol=1e-9)


def test_clips_are_seeded_of_unequal_length_and_hold_the_experts_answers() -> None:
    clips = record_clips(PLANT, np.random.default_rng(5), 12, 6)
    again = record_clips(PLANT, np.random.default_rng(5), 12, 6)
    assert len({clip.num_states for clip in clips}) > 5
    expert = SwingUpExpert(PLANT)
    for clip, same in zip(clips, again, strict=True):
        np.testing.assert_array_equal(clip.qpos, same.qpos)
        np.testing.assert_array_equal(clip.action, same.action)
        assert clip.qpos.shape == clip.qvel.shape == (clip.num_states, 2)
        state = np.concatenate([clip.qpos, clip.qvel], axis=1).astype(np.float64)
        np.testing.assert_allclose(expert(state)[:, None], clip.action, atol=1e-3)


def test_archive_holds_the_clips_bit_for_bit(tmp_path: Path) -> None:
    clips = record_clips(PLANT, np.random.default_rng(5), 3, 2)
    archive_clips(tmp_path / "expert.zarr", PLANT, clips)
    reader = ArchiveReader(tmp_path / "expert.zarr")
    assert [task.name for task in reader.tasks] == ["cartpole/balance", "cartpole/swing_up"]
    for trajectory, clip in zip(reader.trajectories, clips, strict=True):
        arrays = reader.read(trajectory)
        assert trajectory.attributes["fps"] == 50
        for key in ("qpos", "qvel", "action"):
            np.testing.assert_array_equal(arrays[key], getattr(clip, key))
