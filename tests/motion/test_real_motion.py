"""Real clips of a Unitree G1 at 60 and 30 Hz under a controller of 50 Hz, against scipy in float64."""

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.motion.lookup import MotionLookup
from iltools_datasets.sources import export, open_source

pytest.importorskip("scipy", reason="scipy is the oracle")

from motion_cases import assert_on_a_line, places, turn_between
from scipy.spatial.transform import Rotation, Slerp

pytestmark = pytest.mark.shared_data
CONTROL_DT = 0.02


def built(source, tmp_path, keys):
    export(source, tmp_path / "archive.zarr")
    path, _ = build_store(tmp_path / "archive.zarr", tmp_path / "store", keys, concat_obs_to_key="frame")
    return TrajectoryStore.open(path)


def rotations_close(found, rows, fps, seconds):
    frames = np.arange(len(rows)) / fps
    inside = np.minimum(seconds, frames[-1])
    for body in range(rows.shape[1]):
        turns = Rotation.from_quat(rows[:, body].astype(np.float64), scalar_first=True)
        wanted = Slerp(frames, turns)(inside).as_quat(scalar_first=True)
        assert turn_between(found[:, body], wanted) < 5e-7
    # What is not copied is of unit length, however long the frames were.
    between = found[places(seconds, fps, len(rows))[1] > 0].astype(np.float64)
    assert np.abs(np.linalg.norm(between, axis=-1) - 1).max() < 3e-7


def test_bodies_at_30_hz(shared_data, tmp_path):
    keys = ["dof_positions", "dof_velocities", "body_positions", "body_rotations"]
    keys += ["body_linear_velocities", "body_angular_velocities"]
    store = built(open_source(shared_data / "unitree_g1" / "g1_dance1_subject2_30.npz"), tmp_path, keys)
    arrays = store.trajectory(0, keys)
    seconds = np.arange(int((store.num_states - 1) / 30 / CONTROL_DT) + 1) * CONTROL_DT
    found = MotionLookup(store, keys).at(np.zeros(len(seconds), int), seconds)
    assert found["valid"].all()
    for key in (
        "dof_positions",
        "dof_velocities",
        "body_positions",
        "body_linear_velocities",
        "body_angular_velocities",
    ):
        assert_on_a_line(found[key][:, 0], arrays[key], 30, seconds)
    rotations_close(found["body_rotations"][:, 0], arrays["body_rotations"], 30, seconds)
    np.testing.assert_array_equal(
        found["body_positions"][::5, 0], arrays["body_positions"][::3][: len(found["valid"][::5])]
    )


@pytest.mark.parametrize("name", ["G1_Take_102.bvh_60hz.csv", "G1_gangnam_style_V01.bvh_60hz.csv"])
def test_a_root_at_60_hz(shared_data, tmp_path, name):
    store = built(open_source(shared_data / "unitree_g1" / name), tmp_path, ["qpos", "qvel"])
    arrays = store.trajectory(0, ["qpos", "qvel"])
    seconds = np.arange(int((store.num_states - 1) / 60 / CONTROL_DT) + 1) * CONTROL_DT
    lookup = MotionLookup(store, ["qpos", "qvel"])
    found = lookup.at(np.zeros(len(seconds), int), seconds)
    plain = [0, 1, 2, *range(7, 36)]
    assert_on_a_line(found["qpos"][:, 0, plain], arrays["qpos"][:, plain], 60, seconds)
    assert_on_a_line(found["qvel"][:, 0], arrays["qvel"], 60, seconds)
    rotations_close(found["qpos"][:, :, 3:7], arrays["qpos"][:, None, 3:7], 60, seconds)
    legs = MotionLookup(store, ["qpos"], joints=["right_knee_joint", "left_knee_joint"])
    names = list(store.attributes["motion"]["joint_names"])
    columns = [*range(7), *(7 + names.index(joint) for joint in legs.joint_names)]
    np.testing.assert_array_equal(legs.at(np.zeros(len(seconds), int), seconds)["qpos"], found["qpos"][..., columns])
