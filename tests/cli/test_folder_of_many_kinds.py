"""A folder as people have it, two CSVs, four AMP npz, an HDF5, a pickle and a stray file, from export to view."""

import pickle

import numpy as np
import pytest
from motions import amp_arrays, as_xyzw, robot_rows, walk, write_rows

h5py = pytest.importorskip("h5py", reason="needs the hdf5 extra")
pytest.importorskip("matplotlib", reason="needs the view extra")


def fill(folder):
    folder.mkdir()
    for number in range(2):
        write_rows(folder / f"walk{number}_50hz.csv", robot_rows(walk(seed=number)))
    for number in range(4):
        np.savez(folder / f"amp{number}.npz", **amp_arrays(walk(60, seed=number)))
    with h5py.File(folder / "lift.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.ones((7, 3), "f4")
        demo["obs/joint_pos"] = np.ones((7, 4), "f4")
    moved = walk(70)
    clip = {
        "fps": 50,
        "root_pos": moved["position"],
        "root_rot": as_xyzw(moved["rotation"]),
        "dof_pos": moved["joints"],
    }
    (folder / "gmr.pkl").write_bytes(pickle.dumps(clip))
    (folder / "notes.xyz").write_bytes(b"\x01\x02 something of somebody's")


def test_from_export_to_view(tmp_path, iltools):
    archive, store, picture = tmp_path / "a.zarr", tmp_path / "store", tmp_path / "gmr.png"
    fill(tmp_path / "data")
    said = iltools("export", "auto", tmp_path / "data", "--out", archive, "--json").json
    assert said["formats"] == {"unitree-csv": 2, "amp-npz": 4, "hdf5-demos": 1, "motion-pkl": 1}
    assert (said["num_clips"], said["failures"]) == (8, [])
    assert any("passed over 1 file (notes.xyz) of no known format" in note for note in said["notes"])
    assert iltools("doctor", archive).code == 0
    refused = iltools("build", archive, "--out", store)
    assert refused.code == 2
    said = " ".join(refused.err.split())
    assert "hdf5_demos/lift/traj0: no array" in said
    assert "--select 'hdf5_demos/*' takes some of them" in said
    built = iltools("build", archive, "--out", store, "--select", "unitree_csv/*", "--select", "motion_pkl/*", "--json")
    assert built.code == 0, built.err
    shown = iltools("info", store, "--json").json
    assert (shown["num_clips"], shown["num_transitions"]) == (3, 79 + 79 + 69)
    assert iltools("view", archive, "--clip", "motion_pkl/gmr/traj0", "--out", picture).code == 0
    assert picture.stat().st_size > 1000
