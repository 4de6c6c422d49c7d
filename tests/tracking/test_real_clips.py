"""A real clip of a Unitree G1 at 30 Hz, followed by envs of 50 Hz: what they are told against scipy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.sources import export, open_source
from iltools_datasets.tracking import MotionSampler

pytest.importorskip("scipy", reason="scipy is the oracle")

from motion_cases import assert_on_a_line, turn_between
from scipy.spatial.transform import Rotation, Slerp

pytestmark = pytest.mark.shared_data
CONTROL_DT = 0.02
OFFSETS = np.array([0, 1, 5, -2])


def test_envs_are_told_what_scipy_says(shared_data, tmp_path):
    keys = ["dof_positions", "body_positions", "body_rotations", "body_linear_velocities"]
    export(open_source(shared_data / "unitree_g1" / "g1_dance1_subject2_30.npz"), tmp_path / "archive.zarr")
    path, _ = build_store(tmp_path / "archive.zarr", tmp_path / "store", keys, concat_obs_to_key="frame")
    store = TrajectoryStore.open(path)
    rows = store.trajectory(0, keys)
    frames = np.arange(store.num_states) / 30
    sampler = MotionSampler(store, 64, CONTROL_DT, OFFSETS, keys=keys)
    sampler.reset()
    turns = [Slerp(frames, Rotation.from_quat(rows["body_rotations"][:, body].astype(np.float64), scalar_first=True))
             for body in range(rows["body_rotations"].shape[1])]  # fmt: skip
    seen = 0
    for _ in range(30):
        found = sampler.lookup()
        seconds = np.clip(sampler.time[:, None] + CONTROL_DT * OFFSETS, 0, frames[-1])
        for key in ("dof_positions", "body_positions", "body_linear_velocities"):
            assert_on_a_line(found[key], rows[key], 30, seconds)
        for body, turn in enumerate(turns):
            wanted = turn(seconds.ravel()).as_quat(scalar_first=True)
            assert turn_between(found["body_rotations"][:, :, body], wanted) < 5e-7
        seen += found["valid"].sum()
        sampler.reset(sampler.step())
    assert seen > 0.9 * 30 * 64 * len(OFFSETS)
