"""Resampling against numpy's and scipy's interpolation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError
from iltools_datasets.sources import Recording, export, open_source
from iltools_datasets.sources.resample import resample, sample_times

transform = pytest.importorskip("scipy.spatial.transform", reason="scipy is the oracle")


def moving(states=40, fps=60.0, seed=0, **arrays):
    rng = np.random.default_rng(seed)
    turns = transform.Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.3, (states, 3)), axis=0))
    quaternions = turns.as_quat(scalar_first=True) * rng.choice([-1, 1], (states, 1))
    qpos = np.concatenate([rng.normal(size=(states, 3)), quaternions, rng.normal(size=(states, 4))], axis=1)
    return Recording({"qpos": qpos, **arrays}, fps, {"qpos": (3,)}), turns


@pytest.mark.parametrize("fps", [30.0, 50.0, 59.94, 120.0, 500.0, 7.0])
def test_positions_and_rotations(fps):
    recording, turns = moving()
    found = resample(recording, fps, "a").arrays["qpos"]
    old_times, new_times = np.arange(40) / 60, np.arange(len(found)) / fps
    assert new_times[-1] <= old_times[-1] + 1e-9 < new_times[-1] + 1 / fps + 1e-9
    for column in (0, 1, 2, 7, 8, 9, 10):
        expected = np.interp(new_times, old_times, recording.arrays["qpos"][:, column])
        np.testing.assert_allclose(found[:, column], expected, atol=1e-12)
    expected_turns = transform.Slerp(old_times, turns)(np.minimum(new_times, old_times[-1]))
    found_turns = transform.Rotation.from_quat(found[:, 3:7], scalar_first=True)
    assert (found_turns.inv() * expected_turns).magnitude().max() < 1e-7
    np.testing.assert_allclose(np.linalg.norm(found[:, 3:7], axis=1), 1, atol=1e-12)


def test_rates_that_divide_evenly_copy_frames():
    recording, _ = moving(states=41)
    np.testing.assert_array_equal(resample(recording, 20.0, "a").arrays["qpos"], recording.arrays["qpos"][::3])
    back = resample(resample(recording, 240.0, "a"), 60.0, "a")
    np.testing.assert_array_equal(back.arrays["qpos"], recording.arrays["qpos"])
    assert resample(recording, 60.0, "a") is recording


def test_what_is_not_interpolated():
    rng = np.random.default_rng(1)
    flags = np.zeros((40, 1), bool)
    flags[[7, 39]] = True
    recording, _ = moving(
        contact=rng.integers(0, 5, 40),
        image=rng.integers(0, 255, (40, 3, 3), dtype=np.uint8),
        actions=rng.normal(size=(39, 2)),
        terminated=flags,
        done=flags[1:].astype(np.float32),
        height=rng.normal(size=40).astype(np.float32),
    )
    found = resample(recording, 20.0, "a").arrays
    assert len(found["qpos"]) == 14
    np.testing.assert_array_equal(found["contact"], recording.arrays["contact"][::3])
    np.testing.assert_array_equal(found["image"], recording.arrays["image"][::3])
    np.testing.assert_array_equal(found["actions"], recording.arrays["actions"][::3])
    np.testing.assert_array_equal(np.flatnonzero(found["terminated"]), [3, 13])  # frame 7 lies in (6, 9]
    np.testing.assert_array_equal(np.flatnonzero(found["done"]), [2, 12])
    assert {key: array.dtype for key, array in found.items()} == {
        key: array.dtype for key, array in recording.arrays.items()
    }


@given(st.integers(1, 400), st.floats(1, 1000), st.floats(1, 1000))
def test_times_stay_inside(states, source_fps, fps):
    times = sample_times(states, source_fps, fps)
    assert times[0] == 0
    assert (np.diff(times) > 0).all()
    assert times[-1] <= states - 1 < times[-1] + source_fps / fps * (1 + 1e-3) + 1e-3


def test_what_cannot_be_resampled():
    for recording, message in (
        (Recording({"qpos": np.zeros((3, 1))}), "rate is not known"),
        (Recording({"qpos": np.zeros((3, 1))}, 30.0, None), "which columns are quaternions"),
    ):
        with pytest.raises(SourceError, match=f"here: .*{message}"):
            resample(recording, 20.0, "here")
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SourceError, match="positive"):
            resample(Recording({"qpos": np.zeros((3, 1))}, 30.0), fps, "here")


@pytest.mark.shared_data
def test_the_real_dance_at_half_and_at_odd_rates(shared_data, tmp_path):
    path = shared_data / "unitree_g1" / "G1_Take_102.bvh_60hz.csv"
    rows = np.genfromtxt(path, delimiter=",")
    for fps in (30.0, 50.0):
        export(open_source(path), tmp_path / "a.zarr", fps=fps, overwrite=True)
        reader = ArchiveReader(tmp_path / "a.zarr")
        (trajectory,) = reader.trajectories
        found = reader.read(trajectory)
        times, old_times = np.arange(len(found["qpos"])) / fps, np.arange(len(rows)) / 60
        for column in (*range(3), *range(7, 36)):
            np.testing.assert_allclose(
                found["qpos"][:, column], np.interp(times, old_times, rows[:, column]), atol=1e-9
            )
        turns = transform.Slerp(old_times, transform.Rotation.from_quat(rows[:, 3:7]))(times)
        found_turns = transform.Rotation.from_quat(found["qpos"][:, 3:7], scalar_first=True)
        assert (found_turns.inv() * turns).magnitude().max() < 1e-6
        # Velocities belong to the resampled positions.
        np.testing.assert_allclose(found["qvel"][:, 6:], np.gradient(found["qpos"][:, 7:], 1 / fps, axis=0), atol=1e-9)
        assert trajectory.attributes["fps"] == fps
        assert trajectory.attributes["dt"] == 1 / fps
        assert trajectory.attributes["resampled_from_fps"] == 60.0
        assert "slerp" in trajectory.attributes["resampling"]
