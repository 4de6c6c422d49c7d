"""Looking into an archive, and replays built from it."""

import json

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.offline import OfflineDataset

LENGTHS = {"run": [5, 9], "walk": [4, 1]}


def clip(motion, number):
    rng = np.random.default_rng([len(motion), number])
    states = LENGTHS[motion][number]
    return {
        "qpos": rng.standard_normal((states, 3)).astype(np.float32),
        "qvel": rng.standard_normal((states, 2)).astype(np.float32),
        "action": rng.standard_normal((max(states - 1, 1), 2)).astype(np.float32),
    }


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "data" / "trajectories.zarr"
    with ArchiveWriter(path) as writer:
        for motion, lengths in LENGTHS.items():
            for number in range(len(lengths)):
                writer.add("lib", motion, f"traj{number}", clip(motion, number))
    return path


def test_what_is_inside(archive):
    dataset = OfflineDataset.from_zarr_root(archive.parent)
    assert (dataset.num_trajectories, len(dataset), dataset.total_steps) == (4, 4, 19)
    assert [trajectory.path for trajectory in dataset.trajectories] == [
        "lib/run/traj0",
        "lib/run/traj1",
        "lib/walk/traj0",
        "lib/walk/traj1",
    ]
    assert dataset.metadata is None
    seen = []
    for trajectory, arrays in dataset.reader.stream():
        _, motion, name = trajectory.path.split("/")
        expected = clip(motion, int(name[-1]))
        assert arrays.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(arrays[key], values)
        seen.append(trajectory)
    assert seen == dataset.trajectories
    listed = [(t.dataset_source, t.motion, t.trajectory, t.length) for t in dataset.iter_trajectories()]
    assert listed == [
        ("lib", motion, f"traj{number}", length) for motion, of in LENGTHS.items() for number, length in enumerate(of)
    ]


def test_listing_reads_no_array(archive, monkeypatch):
    dataset = OfflineDataset.from_zarr_root(archive.parent)
    monkeypatch.setattr(dataset.reader, "stream", None)
    monkeypatch.setattr(dataset.reader, "read", None)
    assert list(dataset.iter_trajectories()) == dataset.trajectories


def test_where_archive_and_description_are_found(archive):
    description = {"name": "made up", "dt": 0.02}
    (archive.parent / "meta.json").write_text(json.dumps(description))
    for root, name in ((archive.parent, None), (archive, None), (archive.parent, "trajectories.zarr")):
        dataset = OfflineDataset.from_zarr_root(root, zarr_name=name)
        assert (dataset.metadata.name, dataset.metadata.dt, dataset.metadata.num_trajectories) == ("made up", 0.02, 0)
        assert dataset.num_trajectories == 4
    (archive.parent / "other.json").write_text('{"name": "other", "robot": "g1", "metadata": {"a": 1}}')
    other = OfflineDataset.from_zarr_root(archive, metadata_filename="other.json").metadata
    assert (other.name, other.metadata) == ("other", {"robot": "g1", "a": 1})


def test_what_is_not_there(archive):
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        OfflineDataset.from_zarr_root(archive.parent / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"clips\.zarr"):
        OfflineDataset.from_zarr_root(archive.parent, zarr_name="clips.zarr")
    for content in ("{", "[1]"):
        (archive.parent / "meta.json").write_text(content)
        with pytest.raises(SourceError, match=r"meta\.json"):
            OfflineDataset.from_zarr_root(archive.parent)


@pytest.mark.torch
def test_replays(archive, tmp_path):
    pytest.importorskip("torchrl", reason="needs the torch extra")
    dataset = OfflineDataset.from_zarr_root(archive.parent)
    manager = dataset.build_replay_manager(tmp_path / "store", ["qpos", "qvel"], act_key="action")
    assert sum(segment.length for segment in manager.segments) == 4 + 8 + 3
    manager, assignments = dataset.make_sequential_replay(
        scratch_dir=tmp_path / "store2", num_envs=5, obs_keys=["qpos", "qvel"]
    )
    assert [(a.task_id, a.traj_id, a.step) for a in assignments] == [
        (0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 0), (0, 1, 0)
    ]  # fmt: skip
    for step in range(3):
        batch = manager.buffer.sample()
        for env, (motion, number) in enumerate([("run", 0), ("run", 1), ("walk", 0), ("run", 0), ("run", 1)]):
            np.testing.assert_array_equal(batch["qpos"][env].numpy(), clip(motion, number)["qpos"][step])
    with pytest.raises(ValueError, match="num_envs"):
        dataset.make_sequential_replay(tmp_path / "store3", 0, ["qpos"])
