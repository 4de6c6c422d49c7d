"""A `.npy` per array, written with numpy."""

import io

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError
from iltools_datasets.sources import export, open_source, open_sources

RNG = np.random.default_rng(4)


def fill(folder, prefix="", states=9, **more):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "qpos": RNG.standard_normal((states, 10)),
        "qvel": RNG.standard_normal((states, 9)).astype("f4"),
        "action": np.asfortranarray(RNG.standard_normal((states - 1, 3))),
        "fps": np.array(60),
        **more,
    }
    for key, array in arrays.items():
        np.save(folder / f"{prefix}{key}.npy", array)
    return arrays


def test_what_lies_beside_qpos_is_one_trajectory(tmp_path):
    wrote = {name: fill(tmp_path / "data" / "run", f"{name}_") for name in ("walk", "walk_fast")}
    wrote["deep"] = fill(tmp_path / "data" / "deep")
    np.save(tmp_path / "data" / "other.npy", np.zeros((3, 3)))
    report = export(open_sources([tmp_path / "data"]), tmp_path / "a.zarr")
    assert report.formats == {"state-npy": 3}
    assert any("passed over 1 .npy file (other.npy)" in note for note in report.notes)
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert [clip.motion for clip in reader.trajectories] == ["deep", "walk", "walk_fast"]
    source = open_source(tmp_path / "data", "state-npy")
    for file in source.files():
        (one,) = source.read(file)
        assert set(one.arrays) == {"qpos", "qvel", "action"}
        for key, array in one.arrays.items():
            expected = wrote[file.motion][key]
            assert array.dtype == expected.dtype
            assert np.array_equal(array, expected)
        assert (one.fps, one.quaternions) == (60, None)


def test_a_part_by_itself_is_not_taken_for_the_whole(tmp_path):
    fill(tmp_path)
    with pytest.raises(SourceError, match=r"qvel\.npy: is a part of what begins with qpos\.npy; name that"):
        export(open_sources([tmp_path / "qpos.npy", tmp_path / "qvel.npy"]), tmp_path / "a.zarr")
    assert export(open_sources([tmp_path / "qpos.npy"]), tmp_path / "a.zarr").num_trajectories == 1


@pytest.mark.faults("clip that is not what it claims")
def test_damage_and_other_lengths(tmp_path):
    fill(tmp_path, qvel=np.zeros((5, 9)))
    report = export(open_sources([tmp_path]), tmp_path / "out" / "a.zarr")
    assert any("left out 'qvel', float64 [5, 9]" in note for note in report.notes)
    content = (tmp_path / "qpos.npy").read_bytes()
    (tmp_path / "qpos.npy").write_bytes(content[:-8])
    with pytest.raises(SourceError, match=r"qpos\.npy: its header asks for float64 \[9, 10\], 720 bytes; it holds 712"):
        export(open_sources([tmp_path]), tmp_path / "out" / "b.zarr")
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)})
    (tmp_path / "qpos.npy").write_bytes(file.getvalue())
    with pytest.raises(SourceError, match=r"asks for float64 .* 24000000000000 bytes; it holds 0"):
        export(open_sources([tmp_path]), tmp_path / "out" / "b.zarr")
    (tmp_path / "qpos.npy").write_bytes(content)
    np.save(tmp_path / "qvel.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    report = export(open_sources([tmp_path]), tmp_path / "out" / "c.zarr")
    assert any("passed over 1 .npy file (qvel.npy)" in note for note in report.notes)
