"""Every npz format: real files bit for bit against numpy, made-up ones for what the real ones lack."""

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError
from iltools_datasets.sources import export, open_source, open_sources, recognise
from iltools_datasets.sources.formats.amp_npz import AmpSource
from iltools_datasets.sources.formats.flat_zarr import FlatZarrSource
from iltools_datasets.sources.formats.loco_mujoco_legacy_npz import LocoMujocoLegacySource
from iltools_datasets.sources.formats.loco_mujoco_npz import LocoMujocoSource
from iltools_datasets.sources.formats.motion_npz import MotionTrackingSource
from iltools_datasets.sources.formats.trajopt_npz import TrajoptSource
from iltools_datasets.sources.formats.unitree_csv import UnitreeCsvSource


def to_archive(tmp_path, path, **options):
    report = export(open_source(path, **options), tmp_path / "a.zarr", overwrite=True)
    reader = ArchiveReader(tmp_path / "a.zarr")
    return reader, report


def read_one(path, **options):
    source = open_source(path, **options)
    (recording,) = source.read(source.files()[0])
    return recording


# Real files


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("pusht_zarr", FlatZarrSource),
        ("unitree_g1/G1_gangnam_style_V01.bvh_60hz.csv", UnitreeCsvSource),
        ("unitree_g1/g1_dance1_subject2_30.npz", AmpSource),
        ("isaaclab_amp", AmpSource),
        ("loco_mujoco/v0.4", LocoMujocoLegacySource),
        ("loco_mujoco/v1.0", LocoMujocoSource),
    ],
)
def test_real_files_are_recognised(shared_data, path, expected):
    assert recognise(shared_data / path) is expected


@pytest.mark.shared_data
def test_a_directory_of_many_formats(shared_data, tmp_path):
    directories = [shared_data / name for name in ("unitree_g1", "isaaclab_amp", "loco_mujoco", "pusht_zarr")]
    opened = open_sources(directories, fps=None)
    report = export(opened, tmp_path / "a.zarr")
    assert report.formats == {"unitree-csv": 2, "amp-npz": 4, "loco-mujoco": 2, "loco-mujoco-0.4": 4, "flat-zarr": 1}
    assert len(ArchiveReader(tmp_path / "a.zarr")) == 2 + 4 + 4 + 6 + 206


@pytest.mark.shared_data
@pytest.mark.parametrize("layout", ["nested", "packed"])
def test_real_amp_motions(shared_data, tmp_path, layout):
    export(open_sources([shared_data / "isaaclab_amp", shared_data / "unitree_g1"]), tmp_path / "a.zarr", layout=layout)
    reader = ArchiveReader(tmp_path / "a.zarr")
    seen = 0
    for trajectory, arrays in reader.stream():
        if trajectory.attributes["source_format"] != "amp-npz":
            continue
        seen += 1
        (path,) = shared_data.rglob(trajectory.attributes["source_file"])
        with np.load(path, allow_pickle=False) as oracle:
            assert set(arrays) == set(oracle.files) - {"fps", "dof_names", "body_names"}
            for key, values in arrays.items():
                assert values.dtype == oracle[key].dtype
                np.testing.assert_array_equal(values, oracle[key])
            assert trajectory.attributes["fps"] == float(oracle["fps"])
            assert trajectory.attributes["joint_names"] == oracle["dof_names"].tolist()
            assert trajectory.attributes["body_names"] == oracle["body_names"].tolist()
        assert trajectory.attributes["quaternion_order"] == "wxyz"
        assert trajectory.attributes["quaternions"] == {"body_rotations": [0]}
    assert seen == 4


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["UnitreeH1_walk_v1", "UnitreeH1_walk_v1_transitions"])
def test_real_loco_mujoco(shared_data, tmp_path, name):
    path = shared_data / "loco_mujoco" / "v1.0" / f"{name}.npz"
    reader, _ = to_archive(tmp_path, path)
    oracle = np.load(path, allow_pickle=False)
    assert [trajectory.path for trajectory in reader.trajectories] == [
        f"loco_mujoco/{name}/traj0",
        f"loco_mujoco/{name}/traj1",
    ]
    for (trajectory, arrays), first in zip(reader.stream(), (0, 250), strict=True):
        assert trajectory.attributes["fps"] == 500.0
        assert trajectory.attributes["joint_names"] == oracle["joint_names"].tolist()
        for key in ("qpos", "qvel"):
            assert arrays[key].dtype == oracle[key].dtype
            np.testing.assert_array_equal(arrays[key], oracle[key][first : first + 250])
        if "transitions" in name:
            steps = dict.fromkeys(("actions", "rewards", "done", "absorbing"), 249)
            states = dict.fromkeys(("qpos", "qvel", "observations"), 250)
            assert {key: len(array) for key, array in arrays.items()} == {**states, **steps}
            np.testing.assert_array_equal(arrays["observations"][:-1], oracle["observations"][first : first + 249])
            np.testing.assert_array_equal(arrays["observations"][1:], oracle["next_observations"][first : first + 249])
            np.testing.assert_array_equal(arrays["actions"], oracle["actions"][first : first + 249])
        else:
            assert set(arrays) == {"qpos", "qvel"}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["walk_straight", "05-run_UnitreeH1", "02-constspeed_UnitreeG1"])
def test_real_legacy_loco_mujoco(shared_data, tmp_path, name):
    path = shared_data / "loco_mujoco" / "v0.4" / f"{name}.npz"
    reader, _ = to_archive(tmp_path, path)
    oracle = np.load(path, allow_pickle=False)
    splits = oracle["split_points"] if "split_points" in oracle.files else np.array([0, 500])
    assert len(reader) == len(splits) - 1
    for (trajectory, arrays), first, end in zip(reader.stream(), splits[:-1], splits[1:], strict=True):
        joints = trajectory.attributes["joint_names"]
        assert [f"q_{joint}" for joint in joints] == [key for key in oracle.files if key.startswith("q_")]
        for column, joint in enumerate(joints):
            np.testing.assert_array_equal(arrays["qpos"][:, column], oracle[f"q_{joint}"][first:end])
            np.testing.assert_array_equal(arrays["qvel"][:, column], oracle[f"dq_{joint}"][first:end])
        if name == "walk_straight":
            np.testing.assert_array_equal(arrays["dir_arrow"], oracle["dir_arrow"][first:end])
            np.testing.assert_array_equal(arrays["goal_speed"], oracle["goal_speed"][first:end])
        assert trajectory.attributes["fps"] == 500.0


# Trajopt


def trajopt_arrays(states=20, seed=0, **changes):
    rng = np.random.default_rng(seed)
    arrays = {
        "qpos": rng.standard_normal((states, 8)),
        "qvel": rng.standard_normal((states, 7)).astype(np.float32),
        "action": rng.standard_normal((states - 1, 3)),
        "ee_pos": rng.standard_normal((states, 15)),
        "rewards": rng.standard_normal(states),
        "dt": np.array(0.02),
        **changes,
    }
    return {key: array for key, array in arrays.items() if array is not None}


def save_trajopt(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = trajopt_arrays(**changes)
    np.savez(path, **arrays)
    return arrays


@pytest.mark.parametrize("action", ["action", "actions"])
@pytest.mark.parametrize("action_rows", [19, 20])
@pytest.mark.parametrize("true_length", [None, 20, 7, 1])
def test_trajopt(tmp_path, action, action_rows, true_length):
    rng = np.random.default_rng(1)
    length = None if true_length is None else np.array([true_length])
    named = {"action": None, action: rng.standard_normal((action_rows, 3))}
    arrays = save_trajopt(tmp_path / "a.npz", true_length=length, **named)
    assert recognise(tmp_path / "a.npz") is TrajoptSource
    reader, _ = to_archive(tmp_path, tmp_path / "a.npz")
    found = reader.read(reader.trajectories[0])
    states = true_length or 20
    assert found.keys() == {"qpos", "qvel", "action", "ee_pos", "rewards"}
    for key in ("qpos", "qvel", "rewards"):
        assert found[key].dtype == arrays[key].dtype
        np.testing.assert_array_equal(found[key], arrays[key][:states])
    np.testing.assert_array_equal(found["action"], arrays[action][: states - (20 - action_rows)])
    np.testing.assert_array_equal(found["ee_pos"], arrays["ee_pos"].reshape(20, 5, 3)[:states])
    assert reader.trajectories[0].attributes["dt"] == 0.02
    assert "quaternion_order" not in reader.trajectories[0].attributes
    assert read_one(tmp_path / "a.npz", quaternions=[3], quaternion_order="xyzw").quaternion_order == "xyzw"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.zeros((20, 3))}, "both 'action' and 'actions'"),
        ({"qvel": None}, "no member 'qvel'"),
        ({"qvel": np.zeros((19, 7))}, "'qvel' has 19 rows, expected 20"),
        ({"action": np.zeros((21, 3))}, "'action' has 21 rows, expected 20 or 19"),
        ({"qpos": np.zeros(20)}, r"'qpos' should be numbers \[T, width\]"),
        ({"qpos": np.array(3.0)}, r"'qpos' should be numbers \[T, width\]"),
        ({"qpos": np.array([["a"]])}, r"'qpos' should be numbers"),
        ({"ee_pos": np.zeros((20, 14))}, "'ee_pos' is"),
        ({"dt": np.array(0.0)}, "'dt' should be a positive"),
        ({"true_length": np.array(21)}, "true_length is 21, qpos has 20 rows"),
        ({"true_length": np.array(0)}, "true_length is 0"),
        ({"true_length": np.array(2.5)}, "true_length is 2.5"),
        ({"qpos": np.array([None])}, "no member 'qpos'"),
    ],
)
def test_bad_trajopt_files(tmp_path, changes, message):
    save_trajopt(tmp_path / "a.npz", **changes)
    with pytest.raises(SourceError, match=rf"a\.npz: {message}|a\.npz.*{message}"):
        to_archive(tmp_path, tmp_path / "a.npz", format="trajopt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_unknown_members_are_noted(tmp_path):
    save_trajopt(tmp_path / "a.npz", extra=np.zeros(3), odd=np.array([None]))
    _, report = to_archive(tmp_path, tmp_path / "a.npz")
    assert [note.partition(": ")[2] for note in report.notes] == [
        "left out 'extra', float64 [3]: no row of numbers per state",
        "left out 'odd', a pickled object, which is never read",
    ]


def test_further_rows_are_kept(tmp_path):
    force = np.random.default_rng(3).standard_normal((20, 4, 3)).astype(np.float32)
    save_trajopt(tmp_path / "a.npz", true_length=np.array(15), force=force, phase=np.arange(20))
    reader, report = to_archive(tmp_path, tmp_path / "a.npz")
    arrays = reader.read(reader.trajectories[0])
    np.testing.assert_array_equal(arrays["force"], force[:15])
    assert arrays["phase"].dtype == np.int64
    assert report.notes == []


# LocoMuJoCo


def loco_arrays(lengths=(4, 3, 6), per_clip=True, **changes):
    rng = np.random.default_rng(0)
    states = sum(lengths)
    observations = rng.standard_normal((states, 5)).astype(np.float32)
    ends = np.cumsum(lengths)
    rows = np.setdiff1d(np.arange(states), ends - 1) if per_clip else np.arange(states - 1)
    arrays = {
        "qpos": rng.standard_normal((states, 9)),
        "qvel": rng.standard_normal((states, 8)),
        "xquat": rng.standard_normal((states, 2, 4)),
        "xpos": np.empty(0),
        "split_points": np.array([0, *ends]),
        "joint_names": np.array(["root", "hip", "knee"]),
        "jnt_type": np.array([0, 3, 2]),
        "frequency": np.array(100.0),
        "metadata": np.array(None),
        "observations": observations[rows],
        "next_observations": observations[rows + 1],
        "dones": rng.integers(0, 2, len(rows)),
        **changes,
    }
    return {key: array for key, array in arrays.items() if array is not None}, observations


@pytest.mark.parametrize("per_clip", [True, False])
def test_loco_mujoco_transitions_of_either_length(tmp_path, per_clip):
    arrays, observations = loco_arrays(per_clip=per_clip)
    np.savez(tmp_path / "a.npz", **arrays)
    reader, _ = to_archive(tmp_path, tmp_path / "a.npz")
    for (trajectory, found), (first, end, first_step) in zip(
        reader.stream(), ((0, 4, 0), (4, 7, 3), (7, 13, 5)), strict=True
    ):
        np.testing.assert_array_equal(found["observations"], observations[first:end])
        step = first_step if per_clip else first
        np.testing.assert_array_equal(found["done"], arrays["dones"][step : step + end - first - 1])
        np.testing.assert_array_equal(found["xquat"], arrays["xquat"][first:end])
        assert trajectory.attributes["quaternions"] == {"xquat": [0], "qpos": [3]}
        assert found.keys() == {"qpos", "qvel", "xquat", "observations", "done"}


def test_next_observations_that_are_not_the_next_are_kept(tmp_path):
    arrays, _ = loco_arrays()
    arrays["next_observations"][1] += 1
    np.savez(tmp_path / "a.npz", **arrays)
    reader, _ = to_archive(tmp_path, tmp_path / "a.npz")
    found = [arrays for _, arrays in reader.stream()]
    np.testing.assert_array_equal(found[0]["next_observations"], arrays["next_observations"][:3])
    np.testing.assert_array_equal(found[0]["observations"], arrays["observations"][:3])
    assert "next_observations" not in found[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_points": np.array([0, 4, 12])}, "rise from 0 to the 13 states"),
        ({"split_points": np.array([0, 7, 4, 13])}, "rise from 0"),
        ({"split_points": np.array([1, 13])}, "rise from 0"),
        ({"split_points": np.array([13])}, "two or more integers"),
        ({"split_points": np.array([0, 4.5, 13])}, "two or more integers"),
        ({"qvel": np.zeros((12, 8))}, "'qvel' is float64 .12, 8., expected 13 rows"),
        ({"dones": np.zeros(9)}, "'dones' has 9 rows; 13 states in 3 clips have 10 transitions, or 12"),
        ({"jnt_type": np.array([0, 0])}, "'jnt_type' .* does not fit the 9 columns"),
        ({"jnt_type": np.array([7])}, "'jnt_type'"),
        ({"frequency": np.array(-5.0)}, "'frequency' should be a positive rate"),
        ({"qpos": np.zeros(13)}, "'qpos' should be"),
    ],
)
def test_bad_loco_mujoco_files(tmp_path, changes, message):
    np.savez(tmp_path / "a.npz", **loco_arrays(**changes)[0])
    with pytest.raises(SourceError, match=rf"a\.npz.*{message}"):
        to_archive(tmp_path, tmp_path / "a.npz")
    assert not (tmp_path / "a.zarr").exists()


def test_loco_mujoco_without_a_model(tmp_path):
    for width, expected in ((9, None), (8, {})):
        arrays, _ = loco_arrays(jnt_type=None, frequency=None, xquat=None, qpos=np.zeros((13, width)))
        np.savez(tmp_path / "a.npz", **arrays)
        source = LocoMujocoSource(tmp_path / "a.npz", frequency=40)
        recording = next(source.read(source.files()[0]))
        assert recording.quaternions == expected
        assert recording.fps == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dq_knee": None}, "q_ but no dq_ or the reverse: .'knee'."),
        ({"dq_knee": np.zeros(5)}, "'dq_knee' is float64 .5., expected .6."),
        ({"q_hip": np.zeros((6, 2))}, "expected"),
    ],
)
def test_bad_legacy_files(tmp_path, changes, message):
    arrays = {"q_hip": np.zeros(6), "q_knee": np.zeros(6), "dq_hip": np.zeros(6), "dq_knee": np.zeros(6), **changes}
    np.savez(tmp_path / "a.npz", **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(SourceError, match=rf"a\.npz.*{message}"):
        to_archive(tmp_path, tmp_path / "a.npz", format="loco-mujoco-0.4")


# Motion tracking and AMP


def motion_arrays(frames=10, joints=29, bodies=4, **changes):
    rng = np.random.default_rng(0)
    turns = rng.standard_normal((frames, bodies, 4)).astype(np.float32)
    arrays = {
        "fps": np.array([50]),
        "joint_pos": rng.standard_normal((frames, joints)).astype(np.float32),
        "joint_vel": rng.standard_normal((frames, joints)).astype(np.float32),
        "body_pos_w": rng.standard_normal((frames, bodies, 3)).astype(np.float32),
        "body_quat_w": turns / np.linalg.norm(turns, axis=-1, keepdims=True),
        "body_lin_vel_w": rng.standard_normal((frames, bodies, 3)).astype(np.float32),
        "body_ang_vel_w": rng.standard_normal((frames, bodies, 3)).astype(np.float32),
        **changes,
    }
    return {key: array for key, array in arrays.items() if array is not None}


def test_motion_tracking(tmp_path):
    arrays = motion_arrays()
    np.savez(tmp_path / "dance.npz", **arrays)
    assert recognise(tmp_path) is MotionTrackingSource
    reader, _ = to_archive(tmp_path, tmp_path / "dance.npz")
    found = reader.read(reader.trajectories[0])
    assert found.keys() == arrays.keys() - {"fps"}
    for key, values in found.items():
        np.testing.assert_array_equal(values, arrays[key])
    assert reader.trajectories[0].path == "motion_npz/dance/traj0"
    assert reader.trajectories[0].attributes["fps"] == 50.0
    assert reader.trajectories[0].attributes["quaternions"] == {"body_quat_w": [0]}


@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
@pytest.mark.parametrize("named", [True, False])
def test_motion_tracking_with_the_root_among_the_joints(tmp_path, order, named):
    arrays = motion_arrays()
    wxyz = arrays["body_quat_w"][:, 0] * np.float32(-1)
    root = wxyz if order == "wxyz" else wxyz[:, [1, 2, 3, 0]]
    arrays["joint_pos"] = np.concatenate([arrays["body_pos_w"][:, 0], root, arrays["joint_pos"]], axis=1)
    if named:
        arrays["joint_names"] = np.array([f"joint{number}" for number in range(29)])
    np.savez(tmp_path / "dance.npz", **arrays)
    recording = read_one(tmp_path / "dance.npz")
    assert recording.arrays["joint_pos"].shape == (10, 36)
    np.testing.assert_array_equal(recording.arrays["joint_pos"][:, 3:7], wxyz)
    np.testing.assert_array_equal(recording.arrays["joint_pos"][:, 7:], arrays["joint_pos"][:, 7:])
    assert recording.quaternions == {"body_quat_w": (0,), "joint_pos": (3,)}
    assert f"({order} in the file)" in recording.attributes["joint_pos_layout"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint_vel": np.zeros((9, 29))}, "'joint_vel' is float64 .9, 29., expected floats .10, 29."),
        ({"body_quat_w": np.zeros((10, 4, 3))}, "'body_quat_w'"),
        ({"body_pos_w": np.zeros((10, 5, 3))}, "'body_"),
        ({"joint_pos": np.zeros((10, 29), int)}, "'joint_pos' is int64"),
        ({"joint_pos": np.zeros((10, 36))}, "columns 3 to 6 should be a unit quaternion"),
        ({"joint_pos": np.zeros(10)}, "'joint_pos'"),
        ({"body_pos_w": np.zeros(10)}, "'body_pos_w'"),
        ({"fps": np.array([0])}, "'fps'"),
        ({"body_names": np.array(["a"])}, "1 body names, but 4 bodies"),
        ({"joint_names": np.array(["a"])}, "1 joint names, but 'joint_pos' has 29"),
    ],
)
def test_bad_motion_files(tmp_path, changes, message):
    np.savez(tmp_path / "a.npz", **motion_arrays(**changes))
    with pytest.raises(SourceError, match=rf"a\.npz.*{message}"):
        to_archive(tmp_path, tmp_path / "a.npz")


def test_bad_amp_files(tmp_path):
    arrays = {
        "fps": np.array(30),
        "dof_names": np.array(["hip"]),
        "body_names": np.array(["pelvis", "foot"]),
        "dof_positions": np.zeros((5, 1)),
        "dof_velocities": np.zeros((5, 1)),
        "body_positions": np.zeros((5, 2, 3)),
        "body_rotations": np.zeros((5, 2, 4)),
        "body_linear_velocities": np.zeros((5, 2, 3)),
        "body_angular_velocities": np.zeros((5, 2, 3)),
    }
    for key, value, message in (
        ("dof_positions", np.zeros((5, 2)), "'dof_positions' is float64 .5, 2., expected floats .5, 1."),
        ("body_rotations", np.zeros((5, 2, 3)), "'body_rotations'"),
        ("dof_velocities", np.zeros((4, 1)), "'dof_velocities'"),
        ("dof_names", np.array([1]), "should be strings"),
        ("fps", np.array(np.nan), "'fps'"),
    ):
        np.savez(tmp_path / "a.npz", **{**arrays, key: value})
        with pytest.raises(SourceError, match=rf"a\.npz.*{message}"):
            to_archive(tmp_path, tmp_path / "a.npz")


def test_options_go_to_the_formats_that_have_them(tmp_path):
    save_trajopt(tmp_path / "one" / "a.npz")
    np.savez(tmp_path / "one" / "b.npz", **motion_arrays())
    opened = open_sources([tmp_path / "one"], quaternions=[3], motion=None)
    assert [type(source) for source in opened] == [TrajoptSource, MotionTrackingSource]
    assert opened[0].quaternions == (3,)
    with pytest.raises(SourceError, match="no option 'frequency' for the formats motion-npz, trajopt"):
        open_sources([tmp_path / "one"], frequency=3.0)


def test_files_of_no_known_format(tmp_path):
    save_trajopt(tmp_path / "raw" / "good.npz")
    np.savez(tmp_path / "raw" / "motion.npz", **motion_arrays())
    np.savez(tmp_path / "raw" / "odd.npz", something=np.zeros(3))
    (tmp_path / "raw" / "cut.npz").write_bytes((tmp_path / "raw" / "good.npz").read_bytes()[:-30])
    (tmp_path / "raw" / "LICENSE").write_text("not a recording")
    (tmp_path / "raw" / "labels.csv").write_text("clip,label")
    with pytest.raises(SourceError, match=r"cut\.npz: is cut: it begins as a zip"):
        export(open_sources([tmp_path / "raw"]), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
    named = [tmp_path / "raw", tmp_path / "raw" / "LICENSE"]
    report = export(open_sources(named), tmp_path / "a.zarr", keep_going=True)
    assert report.num_trajectories == 2
    assert {failure.path.name: failure.reason.partition(": ")[2] for failure in report.failures} == {
        "cut.npz": "is cut: it begins as a zip and its directory, which is the end, is missing; get it again",
        "odd.npz": "no known format has these members: ['something']",
        "labels.csv": "not a table of numbers: no row of numbers after the header (clip | label)",
        "LICENSE": "no known format",
    }
    with pytest.raises(SourceError, match="LICENSE: no known format; known formats are flat-zarr"):
        open_sources(named[1:])
    # Among files of one format, the source itself says what is wrong with the damaged one.
    (tmp_path / "raw" / "motion.npz").unlink()
    with pytest.raises(SourceError, match=r"cut\.npz"):
        export(open_sources([tmp_path / "raw"]), tmp_path / "a.zarr", overwrite=True)
