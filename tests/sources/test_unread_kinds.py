"""Files that people have and no source reads: each is told for what it is, with what to do; none stops the others."""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import zipfile

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.errors import SourceError
from iltools_datasets.sources import export, open_sources
from iltools_datasets.sources.kinds import kind_of
from motions import robot_rows, tracking_arrays, walk, write_rows


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def zipped(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


def hdf5(*names):
    return b"\x89HDF\r\n\x1a\n" + bytes(88) + b"HEAP" + b"\0".join(name.encode() for name in names) + bytes(500)


class Boom:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def retargeted(**more):
    return {"fps": 30, "root_pos": np.zeros((5, 3)), "root_rot": np.zeros((5, 4)), "dof_pos": np.zeros((5, 29)), **more}


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n"
STATES = np.zeros((9, 10))

KINDS = {
    # name: (content, what it is, what to do)
    "lfs.npz": (LFS, "is a Git LFS pointer", "git lfs pull"),
    "lfs_30hz.csv": (LFS, "is a Git LFS pointer", "git lfs pull"),
    "lfs.zarr.zip": (LFS, "is a Git LFS pointer", "git lfs pull"),
    "lfs.pkl": (LFS, "is a Git LFS pointer", "git lfs pull"),
    "lfs.hdf5": (LFS, "is a Git LFS pointer", "git lfs pull"),
    "annex.npz": (b"/annex/objects/SHA256E-s1--abc.npz\n", "pointer of git-annex", "git annex get"),
    "dvc.npz": (b"outs:\n- md5: 1234\n  path: a.npz\n", "pointer of DVC", "dvc pull"),
    "empty.npz": (b"", "is empty", "get it again"),
    "empty.csv": (b"", "is empty", "get it again"),
    "zeros.npz": (bytes(5000), "nothing but zeros", "get it again"),
    "page.npz": (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "a web page", "download it again"),
    "page.csv": (b"<html>404</html>", "a web page", "download it again"),
    "denied.npz": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "error message",
        "download it again",
    ),
    "fork.npz": (b"\x00\x05\x16\x07" + bytes(80), "AppleDouble", "remove it"),
    "cut.npz": (npz(qpos=STATES, qvel=STATES)[:-40], "is cut", "get it again"),
    "old.pkl": (pickle.dumps({"a": [1.5]}, 0), "a pickle of protocol 0 or 1", "protocol=4"),
    "boom.pkl": (
        pickle.dumps(Boom()),
        "a pickle that cannot be read as plain data .*_Fail is not data",
        "none is ever run",
    ),
    "packed.joblib": (
        b"x\x9c" + bytes(range(200)),
        "compressed pickle .*packed by zlib, and damaged",
        "none is ever run",
    ),
    "lz4.joblib": (
        b"\x04\x22\x4d\x18" + bytes(90),
        "compressed pickle .*packed by lz4, which is not read",
        "none is ever",
    ),
    "oldest.pkl": (b"ZF0x12" + bytes(90), "compressed pickle .*packed by ZF, which is not read", "none is ever"),
    "no.pkl": (b"walk", "is called a pickle, but is none", "get it again"),
    "amp.npy": (npy(np.array({"rotation": 1}, dtype=object)), "a dictionary with 'rotation': no known", "convert"),
    "roll.pkl": (
        pickle.dumps({"observations": 1, "actions": 2}),
        "with 'observations', 'actions': no known",
        "convert",
    ),
    "plain.npy": (npy(np.zeros((7, 36))), r"one array of numpy, shape \(7, 36\)", "convert"),
    "motion.pt": (zipped(**{"motion/data.pkl": b"\x80\x02}."}), "a file of torch.*it holds {}", "convert"),
    "new.mat": (b"MATLAB 7.3 MAT-file" + bytes(493) + hdf5("x"), "MATLAB file .7.3", "h5py"),
    "old.mat": (b"MATLAB 5.0 MAT-file, Platform" + bytes(100), "MATLAB file", "scipy.io.loadmat"),
    "run.mcap": (b"\x89MCAP0\r\n" + bytes(30), "MCAP", "package mcap"),
    "run.bag": (b"#ROSBAG V2.0\n" + bytes(99), "ROS bag", "rosbags"),
    "run.db3": (b"SQLite format 3\0" + bytes(99), "SQLite", "rosbags"),
    "rows.parquet": (b"PAR1" + bytes(50) + b"PAR1", "Parquet", "pyarrow"),
    "rows.arrow": (b"ARROW1\0\0" + bytes(50), "Arrow table", "pyarrow"),
    "walk.bvh": (b"HIERARCHY\nROOT Hips\n", "BVH", "retarget"),
    "walk.asf": (b"# AST/ASF file\n:version 1.10\n", "ASF", "retarget"),
    "walk.amc": (b":FULLY-SPECIFIED\n:DEGREES\n", "AMC", "retarget"),
    "walk.fbx": (b"Kaydara FBX Binary  \0\x1a\0", "FBX", "retarget"),
    "walk.trc": (b"PathFileType\t4\t(X/Y/Z)\n", "TRC", "retarget"),
    "scene.usd": (b"PXR-USDC" + bytes(20), "USD scene", "record qpos and qvel"),
    "robot.xml": (b"<mujoco model='g1'></mujoco>", "model of MuJoCo", "no motion"),
    "robot.urdf": (b"<?xml version='1.0'?><robot name='g1'/>", "URDF", "no motion"),
    "motive.csv": (b"Format Version,1.23,Take Name,Take 1,Capture Frame Rate,120\n", "Motive", "retarget"),
    "data.tar": (b"walk.csv".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "tar archive", "unpack"),
    "data.tar.gz": (gzip.compress(b"walk"), "packed by gzip", "unpack"),
    "data.csv.bz2": (bz2.compress(b"walk"), "packed by bzip2", "unpack"),
    "data.csv.xz": (lzma.compress(b"walk"), "packed by xz", "unpack"),
    "data.zip": (zipped(walk=b"1,2,3"), "zip archive", "unpack"),
    "video.mp4": (struct.pack(">I", 24) + b"ftypisom" + bytes(20), "video", "LeRobot"),
    "picture.png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "picture", "LeRobot"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_by_itself_is_told_for_what_it_is(tmp_path, name):
    content, what, instead = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"{path}: .*{what}.*; .*{instead}") as raised:
        open_sources([path])
    assert "known formats are" not in str(raised.value)


def test_nothing_of_it_is_unpickled_or_decoded(tmp_path, monkeypatch):
    for module, name in ((pickle, "load"), (pickle, "loads"), (np, "load"), (gzip, "open"), (bz2, "open")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("read"))
    for name, (content, _, _) in KINDS.items():
        (tmp_path / name).write_bytes(content)
        assert kind_of(tmp_path / name) is not None, name


@pytest.mark.faults
def test_in_a_folder_they_are_passed_over_with_a_line_each_kind(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    np.savez(data / "walk.npz", **tracking_arrays(walk()))
    wanted = [name for name in KINDS if not name.endswith((".npz", ".csv", ".zarr.zip"))]
    for name in wanted:
        (data / name).write_bytes(KINDS[name][0])
    for number in range(5):
        (data / f"config{number}.pkl").write_bytes(pickle.dumps({"lr": number}))
    (data / "README.md").write_text("about it")
    (data / "LICENSE").write_text("free")
    report = export(open_sources([data]), tmp_path / "a.zarr")
    assert report.formats == {"motion-npz": 1}
    text = "\n".join(report.notes)
    assert "passed over 11 .pkl files (boom.pkl, config0.pkl, config1.pkl, ...): " in text
    assert "pickles are programs, and none is ever run" in text
    assert "passed over 2 files (LICENSE, README.md) of no known format" in text
    for name in wanted:
        assert name.rpartition(".")[2] in text, name


@pytest.mark.parametrize("name", ["lfs.npz", "page.csv", "empty.npz", "lfs.zarr.zip", "cut.npz", "motive.csv"])
def test_one_that_ends_like_a_known_format_stops_the_export_or_is_listed(tmp_path, name):
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "walk_30hz.csv", robot_rows(walk()))
    np.savez(data / "walk.npz", **tracking_arrays(walk()))
    (data / name).write_bytes(KINDS[name][0])
    with pytest.raises(SourceError, match=KINDS[name][1]):
        export(open_sources([data]), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
    report = export(open_sources([data]), tmp_path / "a.zarr", keep_going=True)
    assert report.num_trajectories == 2
    assert [failure.path.name for failure in report.failures] == [name]
    assert KINDS[name][2] in report.failures[0].reason


def directory(path, **files):
    for name, content in files.items():
        place = path / name.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    return path


DIRECTORIES = {
    "lerobot1": (
        {"meta_data__info.json": '{"codebase_version": "v1.6"}'},
        "LeRobot data set of version v1.6",
        "convert",
    ),
    "rlds": ({"dataset_info.json": "{}", "features.json": "{}"}, "RLDS", "tensorflow_datasets"),
    "bag": ({"metadata.yaml": "rosbag2_bagfile_information:\n  version: 5\n"}, "ROS 2 bag", "rosbags"),
    "arrow": ({"dataset_info.json": "{}", "data-0.arrow": "ARROW1"}, "Hugging Face", "datasets"),
    "store": ({"manifest.json": "{}", "data-1__meta.json": "{}"}, "a store", "sample it"),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories_that_are_one_thing(tmp_path, name):
    files, what, instead = DIRECTORIES[name]
    path = directory(tmp_path / "data" / name, **files)
    with pytest.raises(SourceError, match=f"{path}: is {'' if name == 'lerobot1' else '.*'}.*{what}.*; .*{instead}"):
        open_sources([path])
    write_rows(tmp_path / "data" / "walk_30hz.csv", robot_rows(walk()))
    report = export(open_sources([tmp_path / "data"]), tmp_path / "a.zarr")
    (note,) = report.notes
    assert f"passed over 1 directory ({name}): {name} is" in note


def test_folders_of_nothing_known_say_what_is_in_them(tmp_path):
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    for number in range(3):
        (data / "deep" / f"{number}.pkl").write_bytes(pickle.dumps({"lr": number}))
    (data / "notes.txt").write_text("hello")
    with pytest.raises(SourceError) as raised:
        open_sources([data])
    text = str(raised.value)
    assert "nothing of a known format: 3 .pkl files (0.pkl, 1.pkl, 2.pkl): deep/0.pkl is a pickle" in text
    assert "1 file (notes.txt) of no known format" in text


def test_archives_are_not_raw_files(tmp_path):
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add("lab", "walk", "t", {"qpos": np.zeros((3, 2))})
    with pytest.raises(
        SourceError, match=r"is a Zarr group without meta/episode_ends; .*archive already: iltools info shows it"
    ):
        open_sources([tmp_path / "a.zarr"])
    write_rows(tmp_path / "walk_30hz.csv", robot_rows(walk()))
    report = export(open_sources([tmp_path]), tmp_path / "out" / "b.zarr")
    assert "passed over 1 directory (a.zarr)" in report.notes[0]
    assert len(ArchiveReader(tmp_path / "out" / "b.zarr")) == 1


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"joint_pos": 0, "joint_vel": 0, "body_pos_w": 0}, "most like motion-npz, which also needs body_quat_w"),
        ({"qvel": 0}, "most like trajopt, which also needs qpos"),
        ({"a": 0}, "no known format has these members: ['a']"),
        ({}, "an npz without a member"),
    ],
)
def test_an_npz_that_lacks_something_says_what(tmp_path, members, words):
    np.savez(tmp_path / "a.npz", **{name: np.zeros((3, 2)) for name in members})
    with pytest.raises(SourceError) as raised:
        open_sources([tmp_path / "a.npz"])
    assert words in str(raised.value)


def test_an_npz_of_pickles(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.array({"qpos": 1}, dtype=object))
    with pytest.raises(SourceError, match=r"every member is a pickled object \(data\), and pickles are never read"):
        open_sources([tmp_path / "a.npz"])


@pytest.mark.parametrize("columns", [3, 6, 7])
def test_tables_of_another_width(tmp_path, columns):
    write_rows(tmp_path / "walk_30hz.csv", np.ones((5, columns)))
    with pytest.raises(SourceError, match=f"a table of {columns} columns; a robot has 7 of its root"):
        open_sources([tmp_path / "walk_30hz.csv"])
