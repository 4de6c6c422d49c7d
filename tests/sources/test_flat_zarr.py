"""Flat Zarr replays: every step of every episode, bit for bit."""

import zipfile

import numpy as np
import pytest
import zarr
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.sources import export, open_source, recognise
from iltools_datasets.sources.formats.flat_zarr import FlatZarrSource


def make_replay(path, ends=(4, 5, 11), steps=11, zarr_format=2, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "data/state": rng.standard_normal((steps, 5)).astype(np.float32),
        "data/img": rng.integers(0, 255, (steps, 6, 6, 3), dtype=np.uint8),
        "data/action": rng.standard_normal((steps, 2)),
        "meta/episode_ends": np.array(ends, dtype=np.int64),
        **changes,
    }
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    for name, values in arrays.items():
        if values is not None:
            chunks = (min(3, max(1, len(values))), *values.shape[1:])
            array = root.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)
            array[...] = values
    return arrays


@pytest.mark.shared_data
@pytest.mark.parametrize("layout", ["nested", "packed"])
def test_pusht_comes_back_bit_for_bit(shared_data, tmp_path, layout):
    raw = shared_data / "pusht_zarr" / "pusht_cchi_v7_replay.zarr"
    assert recognise(raw) is FlatZarrSource
    report = export(open_source(raw, fps=10.0), tmp_path / "a.zarr", layout=layout)
    oracle = zarr.open_group(raw, mode="r")
    ends = oracle["meta/episode_ends"][...]
    starts = np.concatenate([[0], ends[:-1]])
    assert (report.num_trajectories, report.num_states) == (206, 25650)
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert [task.name for task in reader.tasks] == ["flat_zarr/pusht_cchi_v7_replay"]
    assert [t.num_states for t in reader.trajectories] == (ends - starts).tolist() == report.trajectory_lengths
    values = {key: oracle[f"data/{key}"][...] for key in ("action", "state", "keypoint", "n_contacts")}
    for (trajectory, arrays), start, end in zip(reader.stream(), starts, ends, strict=True):
        assert arrays.keys() == values.keys()
        assert trajectory.attributes["fps"] == 10.0
        for key, array in arrays.items():
            assert array.dtype == values[key].dtype
            np.testing.assert_array_equal(array, values[key][start:end])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_directories_and_zips(tmp_path, zarr_format):
    arrays = make_replay(tmp_path / "raw" / "push.zarr", zarr_format=zarr_format)
    with zipfile.ZipFile(tmp_path / "raw" / "zipped.zarr.zip", "w") as archive:
        for file in (tmp_path / "raw" / "push.zarr").rglob("*"):
            archive.write(file, file.relative_to(tmp_path / "raw" / "push.zarr"))
    for path, motion in (("raw/push.zarr", "push"), ("raw/zipped.zarr.zip", "zipped")):
        export(open_source(tmp_path / path), tmp_path / "a.zarr", overwrite=True)
        reader = ArchiveReader(tmp_path / "a.zarr")
        assert [task.motion for task in reader.tasks] == [motion]
        for number, (first, last) in enumerate(((0, 4), (4, 5), (5, 11))):
            found = reader.read(reader.trajectory(0, number))
            for key in ("state", "img", "action"):
                np.testing.assert_array_equal(found[key], arrays[f"data/{key}"][first:last])
    export(open_source(tmp_path / "raw"), tmp_path / "a.zarr", overwrite=True)
    assert [task.motion for task in ArchiveReader(tmp_path / "a.zarr").tasks] == ["push", "zipped"]


def test_missing_chunks_are_noted(tmp_path):
    make_replay(tmp_path / "push.zarr")
    (tmp_path / "push.zarr" / "data" / "state" / "1.0").unlink()
    report = export(open_source(tmp_path / "push.zarr"), tmp_path / "a.zarr")
    assert len(report.notes) == 1
    assert "data/state: 1 chunks" in report.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ends": (4, 5, 12)}, "data/(state|img|action) has 11 steps, the last episode ends at 12"),
        ({"ends": (4, 4, 11)}, "must rise; episode 1 ends at step 4"),
        ({"ends": (0, 11)}, "must rise; episode 0 ends at step 0"),
        ({"ends": ()}, "must be integers"),
        ({"meta/episode_ends": np.array([11.0])}, "must be integers"),
        ({"data/action": np.zeros((10, 2))}, "data/action has 10 steps"),
        ({"data/img": None, "data/state": None, "data/action": None}, "no arrays below data/"),
    ],
)
def test_bad_replays(tmp_path, changes, message):
    make_replay(tmp_path / "push.zarr", **changes)
    with pytest.raises(SourceError, match=f"push\\.zarr.*{message}"):
        export(open_source(tmp_path / "push.zarr", "flat-zarr"), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_wrong_paths(tmp_path):
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        open_source(tmp_path / "nowhere", "flat-zarr")
    with pytest.raises(SourceError, match="episode_ends"):
        export(open_source(tmp_path, "flat-zarr"), tmp_path / "a.zarr")


def test_a_flat_replay_is_no_archive(tmp_path):
    make_replay(tmp_path / "push.zarr")
    with pytest.raises(SourceError, match="flat replay"):
        ArchiveReader(tmp_path / "push.zarr")
