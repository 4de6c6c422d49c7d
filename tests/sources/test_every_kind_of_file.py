"""What happens to files of any format happens to each: endings, links, twins of macOS, pointers, cuts, rates, names."""

import json
import pickle

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError
from iltools_datasets.sources import export, open_sources
from motions import as_xyzw, walk

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n"


def clip(order="xyzw", **more):
    moved = walk(40)
    rotation = as_xyzw(moved["rotation"]) if order == "xyzw" else moved["rotation"]
    return {"root_pos": moved["position"], "root_rot": rotation, "dof_pos": moved["joints"], **more}


def hdf5(path, **said):
    h5py = pytest.importorskip("h5py", reason="needs the hdf5 extra")
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo.attrs.update(said)
        demo["actions"] = np.ones((40, 3), "f4")
        demo["obs/joint_pos"] = np.ones((40, 5), "f4")


def pkl(path, **said):
    path.write_bytes(pickle.dumps(clip(**said)))


def npy(path, **said):
    np.save(path, {"qpos": np.ones((40, 9)), **said}, allow_pickle=True)


def torch_zip(path, **said):
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    torch.save({key: torch.tensor(value) for key, value in clip().items()} | said, path)


def json_text(path, **said):
    moved = clip()
    frames = np.concatenate(list(moved.values()), axis=1).tolist()
    path.write_text(json.dumps({"FrameDuration": 1 / said["fps"] if "fps" in said else -1, "Frames": frames}))


def npz(**arrays):
    return lambda path, **said: np.savez(path, **arrays, **said)


MAKERS = {
    # name: (ending, writer, whether it needs a rate)
    "hdf5-demos": (".hdf5", hdf5, False),
    "motion-pkl": (".pkl", pkl, True),
    "motion-pkl of numpy": (".npy", npy, False),
    "motion-pkl of torch": (".motion", torch_zip, True),
    "motion-json": (".json", json_text, True),
    "retargeted-npz": (".npz", npz(**clip()), True),
    "episode-npz": (".npz", npz(obs=np.ones((40, 3)), acts=np.ones((40, 2))), False),
    "smpl-npz": (".npz", npz(poses=np.ones((40, 156)), trans=np.ones((40, 3))), False),
}


def make(folder, name, file="walk", **said):
    ending, write, _ = MAKERS[name]
    path = folder / f"{file}{ending}"
    write(path, **said)
    return path


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize("name", MAKERS)
def test_one_clip_of_one_file(tmp_path, name):
    """In upper case, below a link that leads in a circle, beside what macOS leaves behind."""
    deep = tmp_path / "data" / "run" / "deep"
    deep.mkdir(parents=True)
    path = make(deep, name, fps=50)
    path = path.rename(deep / path.name.upper())
    (deep / "up").symlink_to(tmp_path / "data")
    (deep / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07" + bytes(80))
    (tmp_path / "data" / "__MACOSX").mkdir()
    (tmp_path / "data" / "__MACOSX" / path.name).write_bytes(b"\x00\x05\x16\x07" + bytes(80))
    report = export(open_sources([tmp_path / "data"]), tmp_path / "a.zarr")
    assert report.formats == {name.split()[0]: 1}
    (one,) = ArchiveReader(tmp_path / "a.zarr").trajectories
    assert one.motion == "WALK"
    assert one.num_states == 40
    assert one.attributes["fps"] == pytest.approx(50)


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize("content", [LFS, b"", bytes(4096), b"<!DOCTYPE html><html>Log in</html>"])
@pytest.mark.parametrize("name", MAKERS)
def test_what_stands_in_place_of_a_file(tmp_path, name, content):
    path = make(tmp_path, name, fps=50)
    path.write_bytes(content)
    words = {LFS: "git lfs pull", b"": "is empty", bytes(4096): "nothing but zeros"}.get(content, "web page")
    with pytest.raises(SourceError, match=f"{path}: .*{words}"):
        open_sources([path])
    data = tmp_path / "data"
    data.mkdir()
    path.rename(data / path.name)
    make(data, "episode-npz", "good")
    report = export(open_sources([data]), tmp_path / "a.zarr", keep_going=True)
    assert report.num_trajectories == 1
    said = [*report.notes, *(failure.reason for failure in report.failures)]
    assert [words in line and path.name in line for line in said].count(True) == 1


@pytest.mark.parametrize("name", MAKERS)
def test_a_rate_is_what_is_told(tmp_path, name):
    path = make(tmp_path, name)
    if MAKERS[name][2]:
        with pytest.raises(SourceError, match=f"{path}.*pass fps=30"):
            export(open_sources([path]), tmp_path / "a.zarr")
    export(open_sources([path], fps=59.94), tmp_path / "a.zarr")
    assert ArchiveReader(tmp_path / "a.zarr").trajectories[0].attributes["fps"] == 59.94
    other = make(tmp_path, name, "other", fps=50)
    report = export(open_sources([other], fps=59.94), tmp_path / "b.zarr")
    assert ArchiveReader(tmp_path / "b.zarr").trajectories[0].attributes["fps"] == 59.94
    assert any("says 50 states per second; 59.94 was told" in note for note in report.notes)


@pytest.mark.parametrize("name", MAKERS)
def test_names_are_what_is_told(tmp_path, name):
    path = make(tmp_path, name, fps=50)
    export(open_sources([path], joint_names="a,b,c,d,e"), tmp_path / "a.zarr")
    assert ArchiveReader(tmp_path / "a.zarr").trajectories[0].attributes["joint_names"] == ["a", "b", "c", "d", "e"]
    with pytest.raises(SourceError, match="no option 'colour' for the formats"):
        open_sources([path], colour="red")


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize("name", MAKERS)
def test_cut_anywhere(tmp_path, name):
    path = make(tmp_path, name, fps=50)
    content = path.read_bytes()
    for part in np.linspace(0, 1, 12)[1:-1]:
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(SourceError, match=str(path)):
            export(open_sources([path]), tmp_path / "a.zarr")
        assert not (tmp_path / "a.zarr").exists()
