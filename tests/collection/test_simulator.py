"""A real simulator: mjlab on the CPU, experts trained by rsl_rl's own runner, their checkpoints collected from.

Needs the sim extra; each command runs in a process of its own (tests/support/simulator.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulator
from iltools_datasets import TrajectoryStore

pytestmark = [pytest.mark.sim, pytest.mark.slow, pytest.mark.timeout(900)]
if not simulator.is_there():
    pytestmark.append(pytest.mark.skip("needs the sim extra: mjlab and rsl_rl"))


def last_line(*arguments: object) -> Any:
    return json.loads(simulator.run(*arguments).stdout.strip().splitlines()[-1])


def test_cartpole_from_training_to_a_store(tmp_path: Path) -> None:
    checkpoint, store = tmp_path / "model_10.pt", tmp_path / "store"
    last_line("train", simulator.CARTPOLE, checkpoint, 10, 64)
    said = json.loads(
        simulator.run(
            "iltools", "collect", f"mjlab:{simulator.CARTPOLE}", "--policy", checkpoint, "--out", store,
            "--num-envs", 64, "--episodes", 128, "--seed", 0, "--env-arg", "episode_length_s=1.0", "--json",
        ).stdout
    )  # fmt: skip
    assert (said["num_trajectories"], said["obs_dim"], said["action_dim"]) == (128, 5, 1)
    seen = last_line("compare", simulator.CARTPOLE, checkpoint, store)
    assert (seen["off"], seen["drawn"]) == (0.0, False)
    # Its task ends by time alone, and the last observation of each episode was seen.
    assert (seen["next_known"], seen["num_terminated"]) == (True, 0)
    assert len(seen["sigmas"]) == 1
    assert TrajectoryStore.open(store).segments.length.sum() == said["num_steps"]


@pytest.mark.skipif(not simulator.exports(), reason="needs onnx and onnxruntime")
def test_exports_of_the_runner_decide_alike(tmp_path: Path) -> None:
    checkpoint, folder = tmp_path / "model_0.pt", tmp_path / "exported"
    folder.mkdir()
    last_line("train", simulator.CARTPOLE, checkpoint, 1, 16)
    assert last_line("export", simulator.CARTPOLE, checkpoint, folder) == ["policy.onnx", "policy.pt"]
    for name in ("policy.pt", "policy.onnx"):
        store = tmp_path / name.replace(".", "_")
        simulator.run(
            "iltools", "collect", f"mjlab:{simulator.CARTPOLE}", "--policy", folder / name,
            "--out", store, "--num-envs", 16, "--steps", 20, "--seed", 0,
        )  # fmt: skip
        seen = last_line("compare", simulator.CARTPOLE, checkpoint, store)
        assert seen["off"] <= 1e-6 * max(seen["largest"], 1.0), name
        assert len(seen["sigmas"]) == 1


@pytest.fixture(scope="module")
def motion(shared_data: Path, tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("g1") / "motion.npz"
    made = last_line("motion", shared_data / "unitree_g1" / "G1_Take_102.bvh_60hz.csv", path)
    assert made["body_quat_w"] == [500, 30, 4]
    return path


@pytest.mark.shared_data
def test_motion_tracking_with_the_specifications_flags(motion: Path, tmp_path: Path) -> None:
    checkpoint, file = tmp_path / "model_1.pt", tmp_path / "expert_history5.npy"
    last_line("train", simulator.TRACKING, checkpoint, 1, 16, motion)
    simulator.run(
        "iltools", "collect", f"--task={simulator.TRACKING}", f"--checkpoint_path={checkpoint}", f"--motion={motion}",
        f"--output_path={file}", "--num_envs=16", "--max_steps=960", "--student_obs_history=5", "--headless",
    )  # fmt: skip
    held = np.load(file, allow_pickle=True).item()
    shapes = {key: value.shape for key, value in held.items() if key != "metadata"}
    assert shapes == {
        "observations": (960, 1, 154),
        "student_observations": (960, 1, 770),
        "actions": (960, 1, 29),
        "action_mean": (960, 1, 29),
        "action_sigma": (960, 1, 29),
    }
    # Newest first, term by term: the first frame of each term is what the expert saw of it.
    at = 0
    for width in (58, 6, 3, 29, 29, 29):
        newest = held["student_observations"][:, 0, 5 * at : 5 * at + width]
        np.testing.assert_array_equal(newest, held["observations"][:, 0, at : at + width])
        at += width
    assert not list(tmp_path.glob("*.recording"))
    store = tmp_path / "store"
    said = json.loads(
        simulator.run(
            "iltools", "collect", f"mjlab:{simulator.TRACKING}", "--policy", checkpoint, "--motion", motion,
            "--out", store, "--num-envs", 16, "--steps", 60, "--student-history", 5, "--stochastic", "--json",
        ).stdout
    )  # fmt: skip
    assert (said["num_steps"], said["obs_dim"], said["student_obs_dim"], said["action_dim"]) == (960, 154, 770, 29)
    seen = last_line("compare", simulator.TRACKING, checkpoint, store, motion)
    assert (seen["off"], seen["drawn"]) == (0.0, True)
    assert seen["num_terminated"] == said["num_terminated"] > 0


@pytest.mark.shared_data
def test_history_of_single_frames_is_the_envs_own(motion: Path) -> None:
    seen = last_line("history", motion, 60)
    assert (seen["rows"], seen["equal"], seen["width"]) == (960, 960, 770)
    assert seen["ends"] > 10
