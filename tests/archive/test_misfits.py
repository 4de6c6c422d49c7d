"""A clip whose arrays do not fit together: the archive opens, and whoever uses them together is told."""

import json

import numpy as np
import pytest
import zarr
from iltools_datasets import TrajectoryStore
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.doctor import examine
from iltools_datasets.errors import MissingKeyError, OutOfRangeError, SchemaError
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.storage import VectorizedTrajectoryDataset


def write(path, rows, clips=5, odd=3):
    """Clips of 40 states; in the odd one each key has as many rows as `rows` says."""
    root = zarr.open_group(path, mode="w", zarr_format=3)
    for number in range(clips):
        lengths = {"qpos": 40, "qvel": 40, "action": 39} | (rows if number == odd else {})
        for key, length in lengths.items():
            values = np.full((length, 3), number, "f4") + np.arange(length, dtype="f4")[:, None] / 100
            root.create_array(f"lab/walk/t{number}/{key}", data=values)
    return path


def build(path, store, obs_keys=("qpos", "qvel"), **options):
    _, report = build_store(path, store, list(obs_keys), **options)
    return {entry.name: entry.reason for entry in report.skipped}, report


@pytest.mark.faults
def test_such_a_clip_is_an_error_unless_it_may_be_left_out(tmp_path):
    archive = write(tmp_path / "a.zarr", {"qvel": 37})
    with pytest.raises(SchemaError, match=r"a\.zarr.*lab/walk/t3.*'qvel' has 37 rows, expected 40 like 'qpos'"):
        build(archive, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    skipped, report = build(archive, tmp_path / "store", strict=False)
    assert list(skipped) == ["lab/walk/t3"]
    assert "key 'qvel': expected 40 rows, found 37" in skipped["lab/walk/t3"]
    assert report.num_trajectories == 4
    store = TrajectoryStore.open(tmp_path / "store")
    assert [segment.traj_id for segment in store.segments] == [0, 1, 2, 4]  # the ids of the archive


def test_leaving_out_the_key_that_does_not_fit_helps(tmp_path):
    archive = write(tmp_path / "a.zarr", {"qvel": 37})
    skipped, report = build(archive, tmp_path / "a", ["qpos"], exclude_keys=["qvel"])
    assert (skipped, report.num_trajectories) == ({}, 5)
    # The other way round the clip has 37 states, and its action too many rows to belong to them.
    skipped, _ = build(archive, tmp_path / "b", ["qvel"], exclude_keys=["qpos"], strict=False)
    assert list(skipped) == ["lab/walk/t3"]
    _, report = build(archive, tmp_path / "c", ["qvel"], exclude_keys=["qpos", "action"])
    assert report.num_states == 4 * 40 + 37


def test_a_key_that_nobody_asked_for_is_left_out_instead_of_the_clip(tmp_path):
    archive = write(tmp_path / "a.zarr", {"qvel": 37})
    skipped, report = build(archive, tmp_path / "store", ["qpos"], strict=False)
    assert skipped == {}
    assert "lab/walk/t3, key 'qvel': expected 40 rows, found 37" in report.dropped_keys["qvel"]
    assert "qvel" not in report.keys


@pytest.mark.parametrize("rows", [{"action": 12}, {"action": 41}, {"done": 10}, {"qvel": 39}])
def test_actions_flags_and_whatever_is_no_row_per_step(tmp_path, rows):
    archive = write(tmp_path / "a.zarr", rows)
    with pytest.raises(SchemaError, match=f"lab/walk/t3.*'{next(iter(rows))}' has"):
        build(archive, tmp_path / "store")
    skipped, _ = build(archive, tmp_path / "store", strict=False)
    assert list(skipped) == ["lab/walk/t3"]


@pytest.mark.parametrize("short", ["qpos", "action"])
def test_packed_clips_too(tmp_path, short):
    archive = tmp_path / "a.zarr"
    with ArchiveWriter(archive, layout="packed") as writer:
        for number in range(5):
            arrays = {"qpos": np.full((40, 3), number, "f4"), "action": np.full((39, 2), number, "f4")}
            writer.add("lab", "walk", f"t{number}", arrays)
    root = json.loads((archive / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"][f"lab/packed/{short}"]["shape"][0] -= 45
    (archive / "zarr.json").write_text(json.dumps(root))
    with ArchiveReader(archive) as reader:
        assert [clip.name for clip in reader.misfits] == ["t3", "t4"]
        assert f"'{short}' has {155 if short == 'qpos' else 150} rows in all" in reader.misfits[0].misfit
        assert reader.read(reader.trajectories[2])["qpos"].shape == (40, 3)
        there = {trajectory.name: len(reader.read(trajectory)[short]) for trajectory in reader.trajectories}
        whole = 40 if short == "qpos" else 39
        assert there == {"t0": whole, "t1": whole, "t2": whole, "t3": 35 if short == "qpos" else 33, "t4": 0}
    with pytest.raises(SchemaError, match=f"'{short}' has"):
        build(archive, tmp_path / "store", ["qpos"])
    skipped, report = build(archive, tmp_path / "store", ["qpos"], strict=False)
    assert sorted(skipped) == ["lab/walk/t3", "lab/walk/t4"]
    assert report.num_trajectories == 3


def test_windows_of_such_a_clip(tmp_path):
    with VectorizedTrajectoryDataset(
        write(tmp_path / "a.zarr", {"qvel": 37}), 1, {"window_size": 2, "allow_wrap": True}
    ) as dataset:
        dataset.update_references({0: 3}, {0: 36})
        assert dataset.fetch_window([0], "qpos").shape == (1, 2, 3)
        with pytest.raises(SchemaError, match="'qvel' has 37 rows"):
            dataset.fetch_window([0], "qvel")
        dataset.update_references({0: 2})
        assert dataset.fetch_window([0], "qvel").shape == (1, 2, 3)


def test_the_doctor_names_it_and_looks_at_the_rest(tmp_path):
    diagnosis = examine(write(tmp_path / "a.zarr", {"qvel": 37}))
    (finding,) = [entry for entry in diagnosis.findings if entry.check == "length"]
    assert (finding.clip, finding.key) == ("lab/walk/t3", None)
    assert "'qvel' has 37 rows, expected 40 like 'qpos'; what does not fit was not looked at" in finding.message


def test_other_errors_stay_errors(tmp_path):
    archive = write(tmp_path / "a.zarr", {"qvel": 37})
    with pytest.raises(MissingKeyError, match="nothing"):
        build(archive, tmp_path / "store", ["nothing"])
    with ArchiveReader(archive) as reader, pytest.raises(OutOfRangeError):
        reader.read(reader.trajectories[3], ["qvel"], 0, 41)
