"""Unitree-style CSV: positions exactly as parsed, quaternions reordered, velocities against scipy."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError
from iltools_datasets.motion.kinematics import body_angular_velocity
from iltools_datasets.motion.rotations import quaternion_product, rotation_vector
from iltools_datasets.sources import export, open_source, recognise
from iltools_datasets.sources.formats.unitree_csv import G1_JOINTS, UnitreeCsvSource

scipy_rotation = pytest.importorskip("scipy.spatial.transform", reason="scipy is the oracle").Rotation


def write_csv(path, rows):
    path.write_text("".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in rows))
    return path


def moving_robot(frames=50, joints=29, seed=0):
    rng = np.random.default_rng(seed)
    turns = scipy_rotation.from_rotvec(np.cumsum(rng.normal(0, 0.05, (frames, 3)), axis=0)).as_quat()
    position = np.cumsum(rng.normal(0, 0.01, (frames, 3)), axis=0)
    return np.concatenate([position, turns, np.cumsum(rng.normal(0, 0.02, (frames, joints)), axis=0)], axis=1)


def parse(path):
    with path.open() as file:
        return np.array([[float(cell) for cell in row] for row in csv.reader(file)])


def expected_velocity(rows, fps):
    """Central differences, the rotation through scipy."""
    linear = np.gradient(rows[:, :3], 1 / fps, axis=0)
    joints = np.gradient(rows[:, 7:], 1 / fps, axis=0)
    angular = []
    for frame in range(len(rows)):
        before, after = max(frame - 1, 0), min(frame + 1, len(rows) - 1)
        first, last = (scipy_rotation.from_quat(rows[index, 3:7]) for index in (before, after))
        angular.append((first.inv() * last).as_rotvec() * fps / (after - before))
    return np.concatenate([linear, angular, joints], axis=1)


@pytest.mark.shared_data
def test_the_real_dances_come_back_exactly(shared_data, tmp_path):
    assert recognise(shared_data / "unitree_g1" / "G1_Take_102.bvh_60hz.csv") is UnitreeCsvSource
    report = export(open_source(shared_data / "unitree_g1", "unitree-csv"), tmp_path / "a.zarr")
    assert report.trajectory_lengths == [1749, 1942]
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert [task.motion for task in reader.tasks] == ["G1_Take_102.bvh_60hz", "G1_gangnam_style_V01.bvh_60hz"]
    for trajectory, arrays in reader.stream():
        rows = parse(shared_data / "unitree_g1" / trajectory.attributes["source_file"])
        assert arrays["qpos"].dtype == np.float64
        np.testing.assert_array_equal(arrays["qpos"][:, :3], rows[:, :3])
        np.testing.assert_array_equal(arrays["qpos"][:, 3], rows[:, 6])
        np.testing.assert_array_equal(arrays["qpos"][:, 4:7], rows[:, 3:6])
        np.testing.assert_array_equal(arrays["qpos"][:, 7:], rows[:, 7:])
        np.testing.assert_allclose(arrays["qvel"], expected_velocity(rows, 60.0), atol=1e-9)
        assert trajectory.attributes["fps"] == 60.0
        assert trajectory.attributes["quaternion_order"] == "wxyz"
        assert trajectory.attributes["joint_names"] == list(G1_JOINTS)
    assert reader.metadata["joint_names"] == list(G1_JOINTS)
    assert reader.metadata["dt"] == 1 / 60


def test_velocities_against_scipy(tmp_path):
    path = write_csv(tmp_path / "walk.csv", moving_robot())
    (recording,) = UnitreeCsvSource(path, fps=50).read(UnitreeCsvSource(path).files()[0])
    np.testing.assert_allclose(recording.arrays["qvel"], expected_velocity(parse(path), 50), atol=1e-9)
    assert recording.arrays["qvel"].shape == (50, 35)


def test_a_steady_turn_has_a_steady_velocity_in_the_bodys_frame():
    spin = np.array([0.3, -1.2, 2.0])
    start = scipy_rotation.from_rotvec([0.5, 0.1, -2.0])
    turns = [start * scipy_rotation.from_rotvec(spin * step / 100) for step in range(300)]
    quaternions = np.array([turn.as_quat(scalar_first=True) for turn in turns])
    quaternions[::3] *= -1  # the same rotations
    np.testing.assert_allclose(body_angular_velocity(quaternions, 100.0), np.tile(spin, (300, 1)), atol=1e-9)


angles = st.floats(-10, 10)


@given(st.tuples(angles, angles, angles), st.tuples(angles, angles, angles))
def test_rotations_against_scipy(first, second):
    left, right = scipy_rotation.from_rotvec(first), scipy_rotation.from_rotvec(second)
    product = quaternion_product(left.as_quat(scalar_first=True), right.as_quat(scalar_first=True))
    expected = left * right
    assert abs(abs(product @ expected.as_quat(scalar_first=True)) - 1) < 1e-9
    turned_back = scipy_rotation.from_rotvec(rotation_vector(product))
    assert (turned_back.inv() * expected).magnitude() < 1e-7


@given(st.floats(0, 1e-7))
def test_tiny_rotations(angle):
    quaternion = np.array([np.cos(angle / 2), np.sin(angle / 2), 0.0, 0.0])
    np.testing.assert_allclose(rotation_vector(quaternion), [angle, 0, 0], atol=1e-14)


def test_one_motion_for_all_files(tmp_path):
    for number in (10, 2):
        write_csv(tmp_path / f"walk{number}.csv", moving_robot(frames=number))
    export(open_source(tmp_path, fps=30, motion="walk"), tmp_path / "a.zarr", dataset_source="g1")
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert [task.name for task in reader.tasks] == ["g1/walk"]
    assert [trajectory.num_states for trajectory in reader.trajectories] == [2, 10]


def test_rates(tmp_path):
    named = write_csv(tmp_path / "walk_29.97fps.csv", moving_robot())
    plain = write_csv(tmp_path / "walk120.csv", moving_robot())
    assert next(open_source(named).read(open_source(named).files()[0])).fps == 29.97
    assert next(open_source(named, fps=25).read(open_source(named).files()[0])).fps == 25
    with pytest.raises(SourceError, match=r"walk120\.csv.*pass fps="):
        export(open_source(plain), tmp_path / "a.zarr")
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(SourceError, match="positive"):
            open_source(plain, fps=fps)


def test_joint_names(tmp_path):
    path = write_csv(tmp_path / "arm_30hz.csv", moving_robot(joints=2))
    (recording,) = UnitreeCsvSource(path).read(UnitreeCsvSource(path).files()[0])
    assert "joint_names" not in recording.attributes
    (recording,) = UnitreeCsvSource(path, joint_names=["a", "b"]).read(UnitreeCsvSource(path).files()[0])
    assert recording.attributes["joint_names"] == ["a", "b"]
    with pytest.raises(SourceError, match="2 joints, but 1 joint names"):
        export(UnitreeCsvSource(path, joint_names=["a"]), tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a table"),
        ("\n\n", "not a table"),
        ("a,b,c\n1,2,3\n", "1 rows"),
        ("a,b,c\nd,e,f\n", "not a table"),
        ("0,0,0,0,0,0,1,0\n0,0,0,0,0,0,1\n", "not a table"),
        ("1,2,3\n1,2,3\n", "3 columns"),
        ("0,0,0,0,0,0,1,0\n", "1 rows"),
        ("0,0,0,0,0,0,1,0\n0,0,0,0,0,0,1,nan\n", "row 1, column 7 is nan"),
        ("0,0,0,0,0,0,1,0\n0,0,0,0,0,0,2,0\n", "row 1: columns 3 to 6.*norm is 2.0"),
        ("\x00\xff", "not a table"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "walk_30hz.csv").write_text(content, encoding="latin-1")
    with pytest.raises(SourceError, match=f"walk_30hz.csv.*{message}"):
        export(open_source(tmp_path / "walk_30hz.csv", "unitree-csv"), tmp_path / "a.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["walk_30hz.csv"]


def test_keep_going_lists_what_failed(tmp_path):
    write_csv(tmp_path / "good_30hz.csv", moving_robot())
    (tmp_path / "bad_30hz.csv").write_text("what,is,this")
    with pytest.raises(SourceError, match="bad_30hz"):
        export(open_source(tmp_path, "unitree-csv"), tmp_path / "a.zarr")
    seen = []
    report = export(
        open_source(tmp_path, "unitree-csv"),
        tmp_path / "a.zarr",
        keep_going=True,
        progress=lambda done, total, path: seen.append((done, total, path.name)),
    )
    assert [failure.path.name for failure in report.failures] == ["bad_30hz.csv"]
    assert report.num_trajectories == len(ArchiveReader(tmp_path / "a.zarr")) == 1
    assert seen == [(0, 2, "bad_30hz.csv"), (1, 2, "good_30hz.csv")]
    (tmp_path / "good_30hz.csv").unlink()
    with pytest.raises(SourceError, match="nothing to export"):
        export(open_source(tmp_path, "unitree-csv"), tmp_path / "b.zarr", keep_going=True)
