"""Episodes in npz, as imitation, stable-baselines and environments save them, and bodies and robots by their names."""

import numpy as np
import pytest
from iltools_datasets.errors import SourceError
from iltools_datasets.motion.kinematics import free_joint_velocity
from iltools_datasets.sources import export, open_source, open_sources
from motions import as_xyzw, walk

RNG = np.random.default_rng(5)


def numbers(*shape, dtype="f4"):
    return RNG.standard_normal(shape).astype(dtype)


def read(path, format, **options):
    source = open_source(path, **options)
    assert source.format == format
    return list(source.read(source.files()[0])), source.notes


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def same(found, expected):
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


def imitation(path, lengths=(4, 1, 6), **changes):
    """As `imitation.data.serialize` saved trajectories: one observation more per episode, infos pickled."""
    steps = sum(lengths)
    arrays = {
        "obs": numbers(steps + len(lengths), 3),
        "acts": numbers(steps, 2),
        "rews": numbers(steps),
        "infos": np.array([{} for _ in range(steps)], dtype=object),
        "indices": np.cumsum(lengths)[:-1],
        "terminal": np.array([True, False, True][: len(lengths)]),
        **changes,
    }
    arrays = {key: value for key, value in arrays.items() if value is not None}
    return save(path, **arrays), arrays


def test_imitation(tmp_path):
    path, wrote = imitation(tmp_path / "expert.npz")
    recordings, notes = read(path, "episode-npz")
    step = state = 0
    for one, length, terminal in zip(recordings, (4, 1, 6), (True, False, True), strict=True):
        assert same(one.arrays["obs"], wrote["obs"][state : state + length + 1])
        assert same(one.arrays["actions"], wrote["acts"][step : step + length])
        assert same(one.arrays["rewards"], wrote["rews"][step : step + length])
        assert one.arrays["terminated"].tolist() == [False] * (length - 1) + [terminal]
        assert one.arrays["truncated"].tolist() == [False] * (length - 1) + [not terminal]
        step, state = step + length, state + length + 1
    assert ["left out 'infos', a pickled object, which is never read" in note for note in notes] == [True]
    assert [one.attributes["episode"] for one in recordings] == [0, 1, 2]


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"obs": numbers(13, 3)}, "'obs' has 13 rows; 11 steps in 3 episodes have 14 observations"),
        ({"indices": np.array([5, 4])}, "'indices' should rise from 0 to the 11 steps"),
        ({"indices": np.array([4, 11])}, "'indices' should rise"),
        ({"indices": np.array([4.0, 5.0])}, "'indices' should rise"),
        ({"terminal": np.array([True])}, "'terminal' should be a flag of each of the 3 episodes"),
        ({"acts": np.zeros((0, 2))}, "'acts' should be numbers with a row per step"),
    ],
)
def test_imitation_that_does_not_fit(tmp_path, changes, words):
    path, _ = imitation(tmp_path / "expert.npz", **changes)
    with pytest.raises(SourceError, match=f"{path}: {words}"):
        export(open_sources([path]), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_stable_baselines(tmp_path):
    arrays = {
        "obs": numbers(10, 3),
        "actions": numbers(10, 1),
        "rewards": numbers(10, dtype="f8"),
        "episode_starts": np.isin(np.arange(10), (0, 6)),
        "episode_returns": numbers(2),
    }
    recordings, notes = read(save(tmp_path / "expert_pendulum.npz", **arrays), "episode-npz")
    for one, rows in zip(recordings, (slice(0, 6), slice(6, 10)), strict=True):
        for key in ("obs", "actions", "rewards"):
            assert same(one.arrays[key], arrays[key][rows])
    assert notes == []


def test_steps_with_what_follows(tmp_path):
    states = numbers(11, 3)
    now, ends = np.r_[0:4, 5:10], np.isin(np.arange(9), (3, 8))
    arrays = {
        "observations": states[now],
        "next_observations": states[now + 1],
        "actions": numbers(9, 2),
        "dones": ends,
    }
    recordings, _ = read(save(tmp_path / "a.npz", **arrays), "episode-npz")
    assert set(recordings[0].arrays) == {"observations", "actions", "done"}
    assert same(recordings[0].arrays["observations"], states[:5])
    assert same(recordings[1].arrays["observations"], states[5:])
    assert [one.arrays["done"].tolist() for one in recordings] == [[False] * 3 + [True], [False] * 4 + [True]]


def test_qpos_alone(tmp_path):
    arrays = {"qpos": numbers(9, 10), "ctrl": numbers(9, 3), "fps": np.array(60), "robot": np.array("t1")}
    ((one,), notes) = read(save(tmp_path / "a.npz", **arrays), "episode-npz")
    assert same(one.arrays["qpos"], arrays["qpos"])
    assert same(one.arrays["ctrl"], arrays["ctrl"])
    assert (one.fps, one.attributes["robot"], notes) == (60, "t1", [])


@pytest.mark.faults("clip that is not what it claims")
def test_observations_of_another_length(tmp_path):
    with pytest.raises(SourceError, match="'obs' has 5 rows, expected 4 like 'actions'"):
        read(save(tmp_path / "a.npz", obs=numbers(5, 2), actions=numbers(4, 2)), "episode-npz")


def test_retargeted_motion_in_npz(tmp_path):
    moved = walk()
    arrays = {
        "fps": np.array(30.0),
        "root_pos": moved["position"],
        "root_rot": as_xyzw(moved["rotation"]),
        "dof_pos": moved["joints"],
        "local_body_pos": np.zeros((80, 2, 3), "f4"),
        "link_body_list": np.array(["pelvis", "foot"]),
    }
    path = save(tmp_path / "a.npz", **arrays)
    ((one,), notes) = read(path, "retargeted-npz")
    qpos = np.concatenate([moved["position"], moved["rotation"], moved["joints"]], axis=1)
    assert same(one.arrays["qpos"], qpos)
    assert same(one.arrays["qvel"], free_joint_velocity(qpos, 30))
    assert one.attributes["body_names"] == ["pelvis", "foot"]
    assert notes == []
    arrays["root_rot"] = moved["rotation"]
    with pytest.raises(SourceError, match=r"in doubt.*pass quaternion_order=wxyz"):
        read(save(path, **arrays), "retargeted-npz")


AMASS = {
    "amass": {
        "poses": numbers(9, 156, dtype="f8"),
        "trans": numbers(9, 3),
        "dmpls": numbers(9, 8),
        "mocap_framerate": 120.0,
    },
    "smplx": {
        "pose_body": numbers(9, 63),
        "root_orient": numbers(9, 3),
        "trans": numbers(9, 3),
        "mocap_frame_rate": np.float64(120),
    },
    "smpl": {"global_orient": numbers(9, 3), "body_pose": numbers(9, 69), "fps": np.array([120])},
}


@pytest.mark.parametrize("name", AMASS)
def test_bodies_are_kept_as_they_are(tmp_path, name):
    path = save(tmp_path / "walk_poses.npz", betas=np.ones(16), gender=np.array("female"), **AMASS[name])
    ((one,), notes) = read(path, "smpl-npz")
    wrote = {key: value for key, value in AMASS[name].items() if np.ndim(value) > 1}
    assert set(one.arrays) == set(wrote)
    for key, value in wrote.items():
        assert same(one.arrays[key], value)
    assert one.fps == 120
    assert (one.attributes["betas"], one.attributes["gender"]) == ([1.0] * 16, "female")
    assert one.quaternions is None
    assert "a human body and no robot" in notes[0]
