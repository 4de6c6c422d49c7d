"""Archives that lie, run code, grow or are replaced: each fault for real, in a process whose memory is looked at."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
from fault_tools import last_line, run_python, snapshot
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.errors import SourceError
from raw_zarr import ARRAY, v2_array, v3_array, write_archive

BUILD = """
import sys
from iltools_datasets.ingest.from_archive import build_store
try:
    build_store(sys.argv[1], sys.argv[2], obs_keys=["qpos"])
finally:
    # Not getrusage: its peak is that of the process this one was started from, where that one was larger.
    print("peak", int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10)
"""


class Boom:
    def __reduce__(self) -> object:
        return os.system, ("touch CODE_RAN",)


@pytest.mark.faults("archive that runs code")
@pytest.mark.parametrize("where", ["compressor", "filter", "format 3"])
def test_codecs_of_python_objects_are_never_asked(tmp_path: Path, where: str) -> None:
    array = {
        "compressor": v2_array({"id": "pickle"}),
        "filter": v2_array(None, filters=[{"id": "pickle"}]),
        "format 3": v3_array([{"name": "numcodecs.pickle", "configuration": {}}]),
    }[where]
    write_archive(tmp_path / "a.zarr", array, pickle.dumps(Boom()))
    process = run_python(BUILD, tmp_path / "a.zarr", tmp_path / "store")
    assert process.returncode == 1
    assert "SourceError" in last_line(process), process.stderr
    assert "never read" in last_line(process)
    assert not list(Path.cwd().glob("CODE_RAN"))
    assert not (tmp_path / "store").exists()


@pytest.mark.faults("archive that grows")
@pytest.mark.parametrize("codec", ["zstd", "gzip", "blosc", "lz4", "zlib"])
@pytest.mark.parametrize("decoded_here", [True, False], ids=["here", "by zarr"])
def test_a_chunk_that_would_become_a_gigabyte(tmp_path: Path, codec: str, decoded_here: bool) -> None:
    huge = bytes(1 << 29)
    data = gzip.compress(huge, 6) if codec == "gzip" else bytes(numcodecs.get_codec({"id": codec}).encode(huge))
    write_archive(tmp_path / "a.zarr", v2_array({"id": codec}, order="C" if decoded_here else "F"), data)
    process = run_python(BUILD, tmp_path / "a.zarr", tmp_path / "store")
    assert process.returncode == 1
    assert "ArchiveCorruptError" in last_line(process), process.stderr
    assert ARRAY in last_line(process)
    assert int(process.stdout.split()[-1]) < 400  # MiB; the interpreter with zarr takes about 100


@pytest.mark.faults("archive replaced while open")
@pytest.mark.parametrize("ours", [True, False])
def test_a_replaced_archive_is_neither_zeros_nor_damage(tmp_path: Path, ours: bool) -> None:
    script = """
import shutil, sys
from pathlib import Path
import numpy as np, zarr
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
path = Path(sys.argv[1])
def write(value):
    if sys.argv[2] == "ours":
        with ArchiveWriter(path, overwrite=True) as writer:
            for number in range(2):
                writer.add("lab", "walk", f"t{number}", {"qpos": np.full((300, 2), value + number)})
        return
    shutil.rmtree(path, ignore_errors=True)
    root = zarr.open_group(path, mode="w")
    for number in range(2):
        root.create_array(f"lab/walk/t{number}/qpos", data=np.full((300, 2), value + number), chunks=(50, 2))
write(1.0)
reader = ArchiveReader(path)
assert reader.read(reader.trajectories[0])["qpos"].max() == 1
write(100.0)
print(reader.read(reader.trajectories[1])["qpos"].max())
"""
    process = run_python(script, tmp_path / "a.zarr", "ours" if ours else "theirs")
    assert process.returncode == 1, process.stdout
    assert "ArchiveChangedError" in last_line(process), process.stderr
    assert "replaced since it was opened" in last_line(process)


@pytest.mark.faults("archive with links or pipes")
@pytest.mark.parametrize("kind", ["link", "pipe", "sparse"])
def test_a_chunk_that_is_no_plain_file(tmp_path: Path, kind: str) -> None:
    file = write_archive(tmp_path / "a.zarr", v3_array([]), None)
    (tmp_path / "secret").write_bytes(np.arange(12, dtype="<f4").tobytes())
    if kind == "link":
        file.symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        with file.open("wb") as sparse:
            sparse.truncate(1 << 36)
    process = run_python(BUILD, tmp_path / "a.zarr", tmp_path / "store")
    assert process.returncode == 1
    assert "ArchiveCorruptError" in last_line(process), process.stderr
    assert int(process.stdout.split()[-1]) < 400


@pytest.mark.faults("clip that does not fit together")
def test_it_is_an_error_or_left_out(tmp_path: Path) -> None:
    import zarr

    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for number in range(3):
        for key in ("qpos", "qvel"):
            rows = 37 if (number, key) == (1, "qvel") else 40
            root.create_array(f"lab/walk/t{number}/{key}", data=np.ones((rows, 2)))
    before = snapshot(tmp_path / "a.zarr")
    strict = run_python(BUILD, tmp_path / "a.zarr", tmp_path / "store")
    assert strict.returncode == 1
    assert "lab/walk/t1" in last_line(strict)
    lenient = run_python(
        BUILD.replace('["qpos"]', '["qpos", "qvel"], strict=False'), tmp_path / "a.zarr", tmp_path / "store"
    )
    assert lenient.returncode == 0, lenient.stderr
    assert snapshot(tmp_path / "a.zarr") == before


@pytest.mark.faults("child forked while others read")
def test_locks_are_free_in_the_child(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add("lab", "walk", "t", {"qpos": np.ones((50_000, 4))})
    script = """
import os, sys
from iltools_datasets.storage import VectorizedTrajectoryDataset
dataset = VectorizedTrajectoryDataset(sys.argv[1], 2, {"window_size": 4})
dataset.fetch_window([0, 1], "qpos")
rows = dataset.rows
locks = [rows._lock, rows._reader._rows._lock, *(column.lock for column in rows._columns.values())]
for lock in locks:
    lock.acquire()
if os.fork() == 0:
    dataset.fetch_window([0, 1], "qpos")
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    process = run_python(script, tmp_path / "a.zarr")
    assert process.stdout.strip() == "7", process.stderr


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize("name", ["lfs.npz", "page.csv", "cut.npz", "empty.zarr.zip", "gmr.pkl", "walk.bvh"])
def test_raw_files_that_are_something_else(tmp_path: Path, name: str) -> None:
    content = {
        "lfs.npz": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        "page.csv": b"<!doctype html><html>",
        "cut.npz": b"PK\x03\x04" + bytes(200),
        "empty.zarr.zip": b"",
        "gmr.pkl": pickle.dumps(Boom()),
        "walk.bvh": b"HIERARCHY\nROOT Hips\n",
    }[name]
    (tmp_path / name).write_bytes(content)
    script = """
import sys
from iltools_datasets.sources import export, open_sources
export(open_sources([sys.argv[1]]), sys.argv[2])
"""
    process = run_python(script, tmp_path / name, tmp_path / "out.zarr")
    assert process.returncode == 1
    assert last_line(process).startswith("iltools_datasets.errors.SourceError"), process.stderr
    assert name in last_line(process)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.faults("quaternions in another order")
@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
def test_a_robot_that_would_lie_is_refused(tmp_path: Path, order: str) -> None:
    from motions import robot_rows, same_rotations, walk, write_rows

    write_rows(tmp_path / "walk_50hz.csv", robot_rows(walk(), order))
    script = """
import sys
from iltools_datasets.sources import export, open_sources
export(open_sources([sys.argv[1]]), sys.argv[2])
"""
    process = run_python(script, tmp_path / "walk_50hz.csv", tmp_path / "out.zarr")
    if order == "wxyz":
        assert process.returncode == 1
        assert "quaternion_order=wxyz" in last_line(process)
        assert not (tmp_path / "out.zarr").exists()
        return
    from iltools_datasets.archive import ArchiveReader

    reader = ArchiveReader(tmp_path / "out.zarr")
    assert same_rotations(reader.read(reader.trajectories[0])["qpos"][:, 3:7], walk()["rotation"])


SHAPE = (8, 3)
TRANSPOSED = [
    {"name": "transpose", "configuration": {"order": [1, 0]}},
    {"name": "bytes", "configuration": {"endian": "little"}},
]
FOREIGN = {
    "v3, transposed": {**v3_array([], SHAPE), "codecs": TRANSPOSED},
    "v2, in Fortran's order": v2_array(None, SHAPE, order="F"),
    "v2, filtered": v2_array(None, SHAPE, filters=[{"id": "shuffle", "elementsize": 4}]),
}


@pytest.mark.faults("claims that nobody wrote")
@pytest.mark.parametrize("claim", [[8, 2**31], [2**40, 3], [2**28, 3]], ids=str)
@pytest.mark.parametrize("array", FOREIGN.values(), ids=FOREIGN)
def test_what_zarr_has_to_read_is_not_made_room_for_either(
    tmp_path: Path, array: dict[str, Any], claim: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codecs outside the list go to zarr-python; the claims of their arrays are looked at before, as of all others."""
    rows = np.ones(SHAPE, np.float32)
    file = write_archive(tmp_path / "a.zarr", {**array, "shape": claim}, None)
    with ArchiveReader(tmp_path / "a.zarr") as reader:
        monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("memory was asked for"))
        with pytest.raises(SourceError, match=r"claims .* bytes in .* chunks"):
            reader.read(reader.trajectories[0])
    monkeypatch.undo()
    content = bytes(numcodecs.Shuffle(4).encode(rows)) if array.get("filters") else rows.tobytes()
    good = write_archive(tmp_path / "b.zarr", array, content)
    assert good.name == file.name, "the chunk that was left out is the one that is read"
    with ArchiveReader(tmp_path / "b.zarr") as reader:
        np.testing.assert_array_equal(reader.read(reader.trajectories[0])["qpos"], rows)
