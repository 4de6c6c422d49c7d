"""TrajoptLoader and LocoMuJoCoLoader: sequences of trajectories, and their archives."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import ArchiveExistsError, OutOfRangeError, SourceError, SourceNotFoundError
from iltools_datasets.loco_mujoco.loader import LocoMuJoCoLoader
from iltools_datasets.offline import OfflineDataset
from iltools_datasets.trajopt.loader import Trajectory, TrajoptLoader


def save_clip(path, states, **changes):
    rng = np.random.default_rng(states)
    arrays = {
        "qpos": rng.standard_normal((states, 4)).astype(np.float32),
        "qvel": rng.standard_normal((states, 3)).astype(np.float32),
        "action": rng.standard_normal((states, 2)).astype(np.float32),
        "rewards": rng.standard_normal(states),
        "dt": np.array(0.01),
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


@pytest.fixture
def flat(tmp_path):
    for number, states in ((10, 9), (2, 5), (1, 7)):
        save_clip(tmp_path / "raw" / f"traj{number}.npz", states)
    return tmp_path / "raw"


@pytest.fixture
def by_motion(tmp_path):
    save_clip(tmp_path / "raw" / "walk" / "a.npz", 4)
    save_clip(tmp_path / "raw" / "run" / "a.npz", 5)
    save_clip(tmp_path / "raw" / "run" / "b.npz", 6)
    return tmp_path / "raw"


def test_a_loader_is_a_sequence(flat):
    loader = TrajoptLoader(flat)
    assert len(loader) == 3
    assert [len(trajectory.observations["qpos"]) for trajectory in loader] == [7, 5, 9]
    last = loader[-1]
    assert isinstance(last, Trajectory)
    expected = np.load(flat / "traj10.npz")
    assert last.observations.keys() == {"qpos", "qvel"}
    np.testing.assert_array_equal(last.observations["qvel"], expected["qvel"])
    np.testing.assert_array_equal(last.actions, expected["action"])
    np.testing.assert_array_equal(last.rewards, expected["rewards"])
    assert last.dt == 0.01
    assert len(loader[:2]) == 2
    for index in (3, -4):
        with pytest.raises(OutOfRangeError, match=f"trajectory {index} of 3"):
            loader[index]


def test_metadata(flat, tmp_path):
    loader = TrajoptLoader(flat)
    assert loader.metadata.num_trajectories == 3
    assert loader.metadata.trajectory_lengths == [7, 5, 9]
    assert loader.metadata.keys == ["action", "qpos", "qvel", "rewards"]
    assert loader.metadata.dt == 0.01
    assert loader.metadata.joint_names is None
    loader.save(tmp_path / "out", motion="digit")
    written = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert set(written) == {
        *("name", "source", "version", "citation", "num_trajectories", "keys", "trajectory_lengths"),
        *("dt", "joint_names", "body_names", "site_names", "metadata"),
    }
    assert written["trajectory_lengths"] == [7, 5, 9]
    assert asdict(OfflineDataset.from_zarr_root(tmp_path / "out").metadata) == written
    save_clip(flat / "traj3.npz", 4, dt=np.array(0.02))
    assert TrajoptLoader(flat).metadata.dt is None


def test_save_as_the_spec_has_it(flat, tmp_path):
    zarr_path = TrajoptLoader(str(flat)).save(out_dir=tmp_path / "zarr", dataset_source="trajopt", motion="digit_v3")
    assert Path(zarr_path) == tmp_path / "zarr" / "trajectories.zarr"
    reader = ArchiveReader(zarr_path)
    assert [trajectory.path for trajectory in reader.trajectories] == [f"trajopt/digit_v3/traj{i}" for i in range(3)]
    for trajectory, arrays in reader.stream():
        with np.load(flat / trajectory.attributes["source_file"]) as oracle:
            for key in ("qpos", "qvel", "action", "rewards"):
                assert arrays[key].dtype == oracle[key].dtype
                np.testing.assert_array_equal(arrays[key], oracle[key])
    with pytest.raises(ArchiveExistsError, match=r"trajectories\.zarr"):
        TrajoptLoader(flat).save(tmp_path / "zarr")
    again = TrajoptLoader(flat).save(tmp_path / "zarr", zarr_name="other.zarr", max_trajs_per_motion=2)
    assert [trajectory.path for trajectory in ArchiveReader(again).trajectories] == [
        "trajopt/default/traj0",
        "trajopt/default/traj1",
    ]


def test_motions_are_sub_directories(by_motion, tmp_path):
    loader = TrajoptLoader(by_motion)
    assert len(loader) == 3
    every = ArchiveReader(loader.save(tmp_path / "every"))
    assert [task.name for task in every.tasks] == ["trajopt/run", "trajopt/walk"]
    one = ArchiveReader(loader.save(tmp_path / "one", motion="run"))
    assert [t.num_states for t in one.trajectories] == [5, 6]
    limited = ArchiveReader(loader.save(tmp_path / "limited", max_trajs_per_motion=1))
    assert [t.path for t in limited.trajectories] == ["trajopt/run/traj0", "trajopt/walk/traj0"]
    assert len(TrajoptLoader(by_motion, motion="walk")) == 1


def test_bad_directories(tmp_path):
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        TrajoptLoader(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"no \.npz files"):
        TrajoptLoader(tmp_path)
    save_clip(tmp_path / "raw" / "a.npz", 4)
    save_clip(tmp_path / "raw" / "b.npz", 4, actions=np.zeros((4, 2)))
    with pytest.raises(SourceError, match=r"b\.npz: has both"):
        TrajoptLoader(tmp_path / "raw").save(tmp_path / "out")
    assert not (tmp_path / "out" / "trajectories.zarr").exists()
    assert not (tmp_path / "out" / "meta.json").exists()


def test_states_alone_are_enough(tmp_path):
    for number in range(2):
        rng = np.random.default_rng(number)
        np.savez(tmp_path / f"traj{number}.npz", qpos=rng.random((5, 4)), qvel=rng.random((5, 3)))
    loader = TrajoptLoader(data_path=tmp_path)
    assert (len(loader), loader[0].actions) == (2, None)
    reader = ArchiveReader(loader.save(tmp_path / "out"))
    assert [set(trajectory.keys) for trajectory in reader.trajectories] == [{"qpos", "qvel"}] * 2


@pytest.mark.torch
def test_as_dataset(flat):
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from iltools_datasets.trajopt.loader import TrajoptTrajectoryDataset

    dataset = TrajoptLoader(flat).as_dataset(device="cpu")
    assert isinstance(dataset, torch.utils.data.Dataset)
    assert len(dataset) == 3
    assert isinstance(dataset, TrajoptTrajectoryDataset)
    assert dataset.metadata.num_trajectories == 3
    item = dataset[1]
    assert item.keys() == {"observations", "actions", "rewards", "infos", "dt"}
    assert item["observations"].keys() == {"qpos", "qvel"}
    assert item["dt"].item() == np.float32(0.01)
    with np.load(flat / "traj2.npz") as oracle:
        for key, tensor in (*item["observations"].items(), ("action", item["actions"]), ("rewards", item["rewards"])):
            np.testing.assert_array_equal(tensor.numpy(), oracle[key])
    with pytest.raises(IndexError):
        dataset[3]


@pytest.mark.shared_data
def test_loco_mujoco_of_both_versions(shared_data, tmp_path):
    new = LocoMuJoCoLoader(shared_data / "loco_mujoco" / "v1.0" / "UnitreeH1_walk_v1_transitions.npz")
    assert len(new) == 2
    assert new[1].actions.shape == (249, 11)
    assert new[1].rewards.shape == (249,)
    assert new[1].infos["done"].shape == (249,)
    assert new[1].dt == 1 / 500
    assert new.metadata.joint_names is not None
    assert LocoMuJoCoLoader(shared_data / "loco_mujoco" / "v1.0", motion="walk").source.motion == "walk"
    old = LocoMuJoCoLoader(shared_data / "loco_mujoco" / "v0.4" / "walk_straight.npz", frequency=100)
    assert len(old) == 3
    assert old[2].dt == 0.01
    assert old[2].actions is None
    reader = ArchiveReader(old.save(tmp_path, dataset_source="a1"))
    assert [trajectory.path for trajectory in reader.trajectories] == [f"a1/walk_straight/traj{i}" for i in range(3)]
    with pytest.raises(SourceError, match="is amp-npz, expected a LocoMuJoCo file"):
        LocoMuJoCoLoader(shared_data / "isaaclab_amp")
