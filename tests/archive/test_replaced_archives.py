"""An archive that is replaced under an open reader: its old rows, or an error that says so, and never a mixture."""

import gc
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.archive.held import HeldZip, hold
from iltools_datasets.errors import ArchiveChangedError, ArchiveCorruptError, SourceError
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.storage import VectorizedTrajectoryDataset
from zarr.storage import MemoryStore

KINDS = ("format 2", "format 3", "sharded", "transposed", "consolidated")


def write_foreign(path, kind, offset, rows=400, clips=3):
    """An archive that somebody else wrote: clip i holds offset + i everywhere."""
    root = zarr.open_group(path, mode="w", zarr_format=2 if kind == "format 2" else 3)
    for number in range(clips):
        options = {"shards": (100, 3)} if kind == "sharded" else {}
        if kind == "transposed":
            options["filters"] = [zarr.codecs.TransposeCodec(order=(1, 0))]
        array = root.create_array(f"lab/walk/t{number}/qpos", shape=(rows, 3), chunks=(50, 3), dtype="f4", **options)
        array[:] = np.full((rows, 3), offset + number)
    if kind == "consolidated":
        with pytest.warns(UserWarning, match="onsolidated"):
            zarr.consolidate_metadata(path)


def rename_into_place(path, kind, rows):
    write_foreign(path.with_name("new.zarr"), kind, 101, rows)
    path.rename(path.with_name("old.zarr"))
    path.with_name("new.zarr").rename(path)
    shutil.rmtree(path.with_name("old.zarr"))


def write_in_place(path, kind, rows):
    write_foreign(path, kind, 101, rows)


def write_ours(path, kind, rows):
    with ArchiveWriter(path, overwrite=True) as writer:
        for number in range(3):
            writer.add("lab", "walk", f"t{number}", {"qpos": np.full((rows, 3), 101 + number, np.float32)})


def delete_an_array(path, kind, rows):
    shutil.rmtree(path / "lab" / "walk" / "t2" / "qpos")


def delete_all(path, kind, rows):
    shutil.rmtree(path)


REPLACEMENTS = (rename_into_place, write_in_place, write_ours, delete_an_array, delete_all)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [400, 70, 800])
@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_nothing_of_the_new_archive_is_read_as_the_old_one(tmp_path, kind, rows, replace):
    path = tmp_path / "a.zarr"
    write_foreign(path, kind, 1)
    reader = ArchiveReader(path)
    dataset = VectorizedTrajectoryDataset(path, 1, {"window_size": 4, "buffer_size": 8})
    np.testing.assert_array_equal(dataset.fetch_window([0], "qpos"), np.ones((1, 4, 3)))
    replace(path, kind, rows)
    dataset.update_references({0: 2}, {0: 300})
    with pytest.raises((ArchiveChangedError, ArchiveCorruptError)) as raised:
        dataset.fetch_window([0], "qpos")
    if not (replace is delete_an_array and kind == "consolidated"):
        assert isinstance(raised.value, ArchiveChangedError)
        assert "replaced since it was opened; open it again" in str(raised.value)
        with pytest.raises(ArchiveChangedError):
            reader.read(reader.trajectories[2])
    dataset.close()


@pytest.mark.faults
@pytest.mark.parametrize("layout", ["nested", "packed"])
def test_a_replaced_archive_of_ours_is_not_called_damaged(tmp_path, layout):
    def write(value):
        with ArchiveWriter(tmp_path / "a.zarr", overwrite=True, layout=layout) as writer:
            for number in range(3):
                writer.add("lab", "walk", f"t{number}", {"qpos": np.full((40_000, 3), value + number, np.float32)})

    write(0)
    dataset = VectorizedTrajectoryDataset(tmp_path / "a.zarr", 1, {"window_size": 4, "buffer_size": 8})
    dataset.fetch_window([0], "qpos")
    write(100)
    dataset.update_references({0: 2}, {0: 30_000})
    with pytest.raises(ArchiveChangedError, match="replaced since it was opened"):
        dataset.fetch_window([0], "qpos")
    dataset.close()


def test_a_legal_missing_chunk_is_still_one(tmp_path):
    write_foreign(tmp_path / "a.zarr", "format 3", 1)
    reader = ArchiveReader(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "lab/walk/t1/qpos/c/0/0").unlink()
    values = reader.read(reader.trajectories[1])["qpos"]
    assert (values[:50] == 0).all()
    assert (values[50:] == 2).all()
    assert reader.missing_chunks == {"lab/walk/t1/qpos": 1}


def test_a_store_that_is_replaced(tmp_path):
    def fill(store, value):
        group = zarr.open_group(store, mode="w")
        group.create_array("lab/walk/t0/qpos", shape=(40, 2), chunks=(10, 2), dtype="f4")[:] = value

    store = MemoryStore()
    fill(store, 3)
    reader = ArchiveReader(store)
    fill(store, 4)
    for key in [key for key in store._store_dict if "/c/" in key]:
        del store._store_dict[key]
    group = zarr.open_group(store, mode="r+")
    group.attrs["another"] = True
    with pytest.raises(ArchiveChangedError, match="replaced since it was opened"):
        reader.read(reader.trajectories[0])


def test_a_build_of_an_archive_that_is_replaced_meanwhile_leaves_nothing(tmp_path, monkeypatch):
    write_foreign(tmp_path / "a.zarr", "format 3", 1)
    hold_and_list = ArchiveReader.stream

    def replaced(self, *arguments, **options):
        rename_into_place(tmp_path / "a.zarr", "format 3", 400)
        return hold_and_list(self, *arguments, **options)

    monkeypatch.setattr(ArchiveReader, "stream", replaced)
    with pytest.raises(ArchiveChangedError):
        build_store(tmp_path / "a.zarr", tmp_path / "store", ["qpos"])
    assert not (tmp_path / "store").exists()


def test_opening_what_is_replaced_again_and_again(tmp_path, monkeypatch):
    write_foreign(tmp_path / "a.zarr", "format 3", 1)
    monkeypatch.setattr("iltools_datasets.archive.held.HeldDirectory.is_current", lambda self: False)
    with pytest.raises(ArchiveChangedError, match="again and again"):
        ArchiveReader(tmp_path / "a.zarr")


def test_metadata_beside_the_consolidated_one_must_agree_with_it(tmp_path):
    write_ours(tmp_path / "a.zarr", None, 90_000)
    own = tmp_path / "a.zarr" / "lab/walk/t0/qpos/zarr.json"
    own.write_text(own.read_text().replace("90000", "80000"))
    next((tmp_path / "a.zarr" / "lab/walk/t0/qpos").glob("c.*")).unlink()
    reader = ArchiveReader(tmp_path / "a.zarr")
    with pytest.raises(ArchiveCorruptError, match="disagree"):
        reader.read(reader.trajectories[0])


# Closing


def open_below(path):
    gc.collect()
    return [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if str(path) in str(link.resolve())]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_closing_ends_threads_and_lets_go_of_the_directory(tmp_path):
    write_ours(tmp_path / "a.zarr", None, 90_000)
    threads = set(threading.enumerate())
    with VectorizedTrajectoryDataset(tmp_path / "a.zarr", 2, {"window_size": 64, "buffer_size": 128}) as dataset:
        for step in range(0, 2_000, 64):
            dataset.update_references({0: 0, 1: 1}, {0: step, 1: step})
            dataset.fetch_window([0, 1], "qpos")
    with ArchiveReader(tmp_path / "a.zarr") as reader:
        reader.read(reader.trajectories[0])
    for _ in range(2):
        assert set(threading.enumerate()) <= threads  # those of other tests may end meanwhile
        assert open_below(tmp_path) == []
        np.testing.assert_array_equal(dataset.fetch_window([0], "qpos")[0, 0], [101, 101, 101])  # begins anew
        assert reader.read(reader.trajectories[1])["qpos"].max() == 102
        dataset.close()
        reader.close()


def test_what_was_closed_is_opened_again_only_as_the_same_archive(tmp_path):
    write_ours(tmp_path / "a.zarr", None, 10)
    with ArchiveReader(tmp_path / "a.zarr") as reader:
        pass
    reader.read(reader.trajectories[0])
    reader.close()
    write_ours(tmp_path / "a.zarr", None, 10)
    with pytest.raises(ArchiveChangedError, match=r"a\.zarr: was replaced"):
        reader.read(reader.trajectories[0])


# Forks


FORKS = """
import os, sys, threading, time
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.storage import VectorizedTrajectoryDataset
path = sys.argv[1]
dataset = VectorizedTrajectoryDataset(path, 4, {"window_size": 8, "buffer_size": 16, "allow_wrap": True})
reader = ArchiveReader(path)
dataset.update_references({e: e % 3 for e in range(4)})
stop = False
def busy():
    step = 0
    while not stop:
        step = (step + 977) % 80000
        dataset.env_steps[:] = step
        dataset.fetch_window(range(4), "qpos")
        reader.read(reader.trajectories[step % 3], ["qpos"], step, step + 5)
threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
for thread in threads: thread.start()
def try_all():
    for step in (0, 40000, 79000):
        dataset.env_steps[:] = step
        window = dataset.fetch_window(range(4), "qpos")
        assert window[:, :, 0].tolist() == [[101 + e % 3] * 8 for e in range(4)], window
        assert reader.read(reader.trajectories[1], ["qpos"], step, step + 9)["qpos"].max() == 102
    assert reader.read(reader.trajectories[1], ["qpos"])["qpos"].max() == 102
    dataset.close(); reader.close()
for number in range(40):
    time.sleep(0.003 * (number % 4))
    child = os.fork()
    if child == 0:
        try:
            try_all()
            os._exit(0)
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
    deadline = time.monotonic() + 20
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            sys.exit(f"child {number} hangs")
        time.sleep(0.002)
stop = True
for thread in threads: thread.join()
"""


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_forked_while_others_read_do_not_hang(tmp_path):
    write_ours(tmp_path / "a.zarr", None, 90_000)
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(tmp_path / "a.zarr")]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "Error" not in outcome.stderr


TAKEN = """
import os, sys
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.storage import VectorizedTrajectoryDataset
dataset = VectorizedTrajectoryDataset(sys.argv[1], 2, {"window_size": 4})
reader = ArchiveReader(sys.argv[1])
dataset.fetch_window([0, 1], "qpos"); reader.read(reader.trajectories[0], ["qpos"], 3, 9)
rows = dataset.rows
locks = [rows._lock, rows._reader._rows._lock, reader._rows._lock, *(c.lock for c in rows._columns.values())]
for lock in locks: lock.acquire()
if os.fork() == 0:
    dataset.fetch_window([0, 1], "qpos"); reader.read(reader.trajectories[0], ["qpos"], 3, 9)
    reader.read(reader.trajectories[0]); dataset.close(); reader.close()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_locks_that_were_taken_when_a_child_was_forked_are_free_in_it(tmp_path):
    write_ours(tmp_path / "a.zarr", None, 90_000)
    command = [sys.executable, "-W", "ignore", "-c", TAKEN, str(tmp_path / "a.zarr")]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "7\n"


# Zips


def zipped(path, method=zipfile.ZIP_DEFLATED, below=""):
    with zipfile.ZipFile(path.with_suffix(".zip"), "w", method) as archive:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                archive.write(file, below + file.relative_to(path).as_posix())
    return path.with_suffix(".zip")


@pytest.mark.parametrize("below", ["", "motion.zarr/", "a/b/"])
@pytest.mark.parametrize("kind", ["format 2", "format 3", "sharded"])
def test_an_archive_inside_a_zip(tmp_path, kind, below):
    write_foreign(tmp_path / "a.zarr", kind, 1)
    with ArchiveReader(zipped(tmp_path / "a.zarr", below=below)) as reader:
        assert [trajectory.num_states for trajectory in reader.trajectories] == [400] * 3
        for number, trajectory in enumerate(reader.trajectories):
            np.testing.assert_array_equal(reader.read(trajectory)["qpos"], np.full((400, 3), number + 1, np.float32))
            assert reader.read(trajectory, start=120, stop=130)["qpos"].shape == (10, 3)


def test_a_zip_that_is_wrong(tmp_path):
    write_foreign(tmp_path / "a.zarr", "format 3", 1)
    path = zipped(tmp_path / "a.zarr", zipfile.ZIP_STORED)
    whole = path.read_bytes()
    for content in (b"", b"rubbish", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"a\.zip: not a Zarr archive: neither a directory nor a zip"):
            ArchiveReader(path)
    path.write_bytes(whole)
    reader = ArchiveReader(path)
    path.write_bytes(whole + b"\0")
    reader.close()
    with pytest.raises(ArchiveChangedError, match="replaced"):
        reader.read(reader.trajectories[0])


def test_a_zip_bomb(tmp_path):
    write_foreign(tmp_path / "a.zarr", "format 3", 1)
    (tmp_path / "a.zarr/lab/walk/t0/qpos/c/0/0").write_bytes(bytes(1 << 28))
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        reader = ArchiveReader(zipped(tmp_path / "a.zarr", method if method == zipfile.ZIP_DEFLATED else 0))
        with pytest.raises(ArchiveCorruptError, match=f"{1 << 28} bytes, expected at most"):
            reader.read(reader.trajectories[0])
    zipped(tmp_path / "a.zarr", zipfile.ZIP_BZIP2)
    with pytest.raises(SourceError, match="method 12 of zip"):
        ArchiveReader(tmp_path / "a.zip")
    assert isinstance(hold(tmp_path / "a.zip"), HeldZip)


def test_links_that_lead_up_are_not_gone_round(tmp_path):
    write_foreign(tmp_path / "a.zarr", "format 3", 1)
    (tmp_path / "a.zarr" / "lab" / "loop").symlink_to("..")
    (tmp_path / "a.zarr" / "lab" / "walk" / "here").symlink_to(".")
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert len(reader) == 3
    assert reader.skipped == []
