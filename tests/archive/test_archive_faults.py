"""Bad input is refused by name, damage is found, and a broken-off write leaves nothing."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from iltools_datasets._base import files as written
from iltools_datasets._base.files import swap
from iltools_datasets.archive import ArchiveReader, ArchiveWriter, targets
from iltools_datasets.errors import (
    ArchiveChangedError,
    ArchiveCorruptError,
    ArchiveExistsError,
    DuplicateTrajectoryError,
    MissingKeyError,
    OutOfRangeError,
    SchemaError,
    SourceError,
    SourceNotFoundError,
)

LAYOUTS = ("nested", "packed")


def write_one(path, value=1.0, layout="nested", **options):
    with ArchiveWriter(path, layout=layout, **options) as writer:
        writer.add("lib", "walk", "traj0", {"qpos": np.full((100_000, 2), value), "action": np.zeros((99_999, 1))})


def names_in(path):
    return sorted(entry.name for entry in path.iterdir())


def chunk_files(path):
    return sorted(file for file in path.rglob("c.*") if file.is_file())


def test_missing_path(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"nowhere\.zarr"):
        ArchiveReader(tmp_path / "nowhere.zarr")
    with pytest.raises(FileNotFoundError):
        ArchiveReader(tmp_path / "nowhere.zarr")


def test_not_an_archive(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(SourceError, match=path.name):
            ArchiveReader(path)
    zarr.save_array(tmp_path / "array.zarr", np.zeros(3))
    with pytest.raises(SourceError, match=r"array\.zarr"):
        ArchiveReader(tmp_path / "array.zarr")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"node_type": "group", "consolidated_metadata": 3}', b"\xff\xfe"]
)
def test_damaged_root_metadata(tmp_path, content):
    write_one(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.zarr"):
        ArchiveReader(tmp_path / "a.zarr")


def edit_root(path, edit):
    document = json.loads((path / "zarr.json").read_text())
    edit(document)
    (path / "zarr.json").write_text(json.dumps(document))


def test_a_newer_format_is_refused(tmp_path):
    write_one(tmp_path / "a.zarr")
    edit_root(tmp_path / "a.zarr", lambda root: root["attributes"]["iltools"].update(format=3))
    with pytest.raises(SourceError, match=r"format 3, this release reads \[1, 2\]"):
        ArchiveReader(tmp_path / "a.zarr")


@pytest.mark.faults
@pytest.mark.parametrize(
    "change", [{"shape": [10**15, 2]}, {"shape": [-1, 2]}, {"shape": "x"}, {"chunk_grid": {}}, {"codecs": []}]
)
def test_lying_array_metadata(tmp_path, change):
    write_one(tmp_path / "a.zarr")

    def edit(root):
        nodes = root["consolidated_metadata"]["metadata"]
        nodes["lib/walk/traj0/qpos"].update(change)
        del nodes["lib/walk/traj0/action"]

    edit_root(tmp_path / "a.zarr", edit)

    def read():
        reader = ArchiveReader(tmp_path / "a.zarr")
        return reader.read(reader.trajectories[0], ["qpos"])

    with pytest.raises((SourceError, SchemaError), match="lib/walk/traj0/qpos"):
        read()


@pytest.mark.faults
def test_rows_that_were_never_written_are_not_made_room_for(tmp_path, monkeypatch):
    """An array that claims a terabyte is refused before memory is asked for, be it claimed alike everywhere."""
    write_one(tmp_path / "a.zarr")
    for document in [tmp_path / "a.zarr" / "zarr.json", *(tmp_path / "a.zarr").rglob("qpos/zarr.json")]:
        document.write_text(document.read_text().replace('"shape":[100000,2]', '"shape":[68719476736,2]'))
    edit_root(
        tmp_path / "a.zarr",
        lambda root: root["consolidated_metadata"]["metadata"].pop("lib/walk/traj0/action"),
    )
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert reader.trajectories[0].num_states == 68_719_476_736
    monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("memory was asked for"))
    with pytest.raises(ArchiveCorruptError, match=r"qpos/c\.\d+\.0: chunk is missing"):
        reader.read(reader.trajectories[0], ["qpos"])


def test_a_path_out_of_the_archive(tmp_path):
    write_one(tmp_path / "a.zarr")

    def edit(root):
        nodes = root["consolidated_metadata"]["metadata"]
        nodes["../../b.zarr/qpos"] = nodes["lib/walk/traj0/qpos"]

    edit_root(tmp_path / "a.zarr", edit)
    with pytest.raises(SourceError, match="impossible array path"):
        ArchiveReader(tmp_path / "a.zarr")


@pytest.mark.faults
@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_chunk_of_ours_is_damage(tmp_path, layout):
    write_one(tmp_path / "a.zarr", layout=layout)
    victim = next(file for file in chunk_files(tmp_path / "a.zarr") if file.parent.name == "qpos")
    victim.unlink()
    reader = ArchiveReader(tmp_path / "a.zarr")
    with pytest.raises(ArchiveCorruptError, match=str(victim)):
        reader.read(reader.trajectories[0])


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "append"])
def test_damaged_chunk(tmp_path, damage):
    write_one(tmp_path / "a.zarr")
    victim = chunk_files(tmp_path / "a.zarr")[-1]
    data = bytearray(victim.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    victim.write_bytes({"flip": data, "cut": data[:-9], "empty": b"", "append": data + b"\0"}[damage])
    reader = ArchiveReader(tmp_path / "a.zarr")
    with pytest.raises(ArchiveCorruptError, match=str(victim)):
        reader.read(reader.trajectories[0])


@pytest.mark.faults
@pytest.mark.parametrize("shards", [None, (40, 2)])
def test_missing_chunks_of_others_are_fill_values_and_counted(tmp_path, shards):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    values = np.full((80, 2), 7.0)
    values[:10] = 1.0
    array = root.create_array(
        "lib/walk/t/qpos", shape=(80, 2), chunks=(10, 2), shards=shards, dtype=float, fill_value=7.0
    )
    array[...] = values
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert reader.missing_chunks == {}
    for _ in range(2):
        np.testing.assert_array_equal(reader.read(reader.trajectories[0])["qpos"], values)
    missing = reader.missing_chunks
    assert missing == {"lib/walk/t/qpos": 1 if shards else 7}  # files: a shard is one, whatever it holds


@pytest.mark.parametrize("rows", [9, 11])
def test_arrays_of_different_lengths(tmp_path, rows):
    arrays = {"qpos": np.zeros((10, 2)), "qvel": np.zeros((rows, 2))}
    with (
        pytest.raises(SchemaError, match=r"lib/walk/traj0.*'q(vel|pos)' has"),
        ArchiveWriter(tmp_path / "a.zarr") as writer,
    ):
        writer.add("lib", "walk", "traj0", arrays)
    root = zarr.open_group(tmp_path / "b.zarr", mode="w")
    for key, values in arrays.items():
        root.create_array(f"lib/walk/traj0/{key}", data=values)
    with ArchiveReader(tmp_path / "b.zarr") as reader:  # each by itself can be read
        (trajectory,) = reader.misfits
        assert trajectory.num_states == max(10, rows)
        assert trajectory.misfit in (
            "'qvel' has 9 rows, expected 10 like 'qpos'",
            "'qpos' has 10 rows, expected 11 like 'qvel'",
        )
        assert {key: len(array) for key, array in reader.read(trajectory).items()} == {"qpos": 10, "qvel": rows}
    assert names_in(tmp_path) == ["b.zarr"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\0b", "x" * 300, "zarr.json", "__x", ".zattrs", "a\nb", 3]
)
@pytest.mark.parametrize("place", range(4))
def test_impossible_names(tmp_path, name, place):
    names = ["lib", "walk", "traj0", "qpos"]
    names[place] = name
    with pytest.raises(SchemaError), ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add(*names[:3], {names[3]: np.zeros((2, 1))})
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "array", [np.zeros(()), np.array(["a", "b"]), np.array([object()]), np.zeros(3, np.complex64), np.zeros((0, 2))]
)
def test_impossible_arrays(tmp_path, array):
    with pytest.raises(SchemaError, match="lib/walk/traj0"), ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add("lib", "walk", "traj0", {"qpos": array})


def test_twins_and_duplicates(tmp_path):
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add("lib", "walk", "traj0", {"qpos": np.zeros((2, 1))})
        for twin in (("lib", "walk", "traj0"), ("lib", "walk", "Traj0"), ("lib", "Walk", "x"), ("LIB", "run", "x")):
            with pytest.raises(DuplicateTrajectoryError, match="/".join(twin[:1])):
                writer.add(*twin, {"qpos": np.zeros((2, 1))})
        with pytest.raises(SchemaError, match="upper and lower case"):
            writer.add("lib", "walk", "traj1", {"qpos": np.zeros((2, 1)), "QPOS": np.zeros((2, 1))})
        with pytest.raises(SchemaError, match="JSON"):
            writer.add("lib", "walk", "traj1", {"qpos": np.zeros((2, 1))}, {"a": object()})
    assert len(ArchiveReader(tmp_path / "a.zarr")) == 1


def test_reads_out_of_range(tmp_path):
    write_one(tmp_path / "a.zarr")
    reader = ArchiveReader(tmp_path / "a.zarr")
    trajectory = reader.trajectories[0]
    with pytest.raises(MissingKeyError, match=r"lib/walk/traj0: no key 'qvel'"):
        reader.read(trajectory, ["qpos", "qvel"])
    for start, stop in ((-1, 3), (5, 4), (0, 100_001)):
        with pytest.raises(OutOfRangeError, match="lib/walk/traj0"):
            reader.read(trajectory, start=start, stop=stop)


def test_existing_archives_are_kept(tmp_path):
    write_one(tmp_path / "a.zarr", 1.0)
    with pytest.raises(ArchiveExistsError, match=r"a\.zarr"):
        write_one(tmp_path / "a.zarr", 2.0)

    def break_off():
        with ArchiveWriter(tmp_path / "a.zarr", overwrite=True) as writer:
            writer.add("lib", "walk", "traj0", {"qpos": np.zeros((2, 1))})
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        break_off()
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert reader.read(reader.trajectories[0], ["qpos"])["qpos"][0, 0] == 1.0
    write_one(tmp_path / "a.zarr", 2.0, overwrite=True)
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert reader.read(reader.trajectories[0], ["qpos"])["qpos"][0, 0] == 2.0
    assert names_in(tmp_path) == ["a.zarr"]


def test_overwrite_deletes_nothing_but_archives(tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("all of it")
    with pytest.raises(ArchiveExistsError, match="not a Zarr archive"):
        write_one(tmp_path / "papers", overwrite=True)
    assert (tmp_path / "papers" / "thesis.tex").read_text() == "all of it"


@pytest.mark.parametrize("clips", [1, 200], ids=["few files", "many files"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_every_byte_is_on_disk_before_the_archive_is_visible(tmp_path, monkeypatch, clips, overwrite):
    """A rename that reaches the disk before the content does leaves an archive of zeros after a power failure."""
    if overwrite:
        write_one(tmp_path / "a.zarr")
    events = []
    fsync, rename, exchange = os.fsync, Path.rename, targets.swap
    monkeypatch.setattr(written, "_sync_all", lambda: events.append("everything"))
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(Path(f"/proc/self/fd/{fd}").readlink()), fsync(fd)))
    monkeypatch.setattr(targets, "swap", lambda *paths: (events.append("visible"), exchange(*paths)))
    monkeypatch.setattr(
        Path,
        "rename",
        lambda self, to: (events.append("visible") if to.name == "a.zarr" else None, rename(self, to))[1],
    )
    with ArchiveWriter(tmp_path / "a.zarr", overwrite=overwrite) as writer:
        for number in range(clips):
            writer.add("lib", "walk", f"traj{number}", {"qpos": np.ones((3, 2))})
    shown = events.index("visible")
    before, after = events[:shown], events[shown + 1 :]
    files = {path.relative_to(tmp_path / "a.zarr") for path in (tmp_path / "a.zarr").rglob("*")}
    synced = {Path(*path.parts[len(tmp_path.parts) + 1 :]) for path in before if path != "everything"}
    assert "everything" in before or files <= synced
    assert tmp_path in after  # and the new name itself


def test_add_needs_the_block(tmp_path):
    with pytest.raises(RuntimeError, match="with block"):
        ArchiveWriter(tmp_path / "a.zarr").add("lib", "walk", "t", {"qpos": np.zeros((2, 1))})


def test_swap_exchanges_two_directories(tmp_path, monkeypatch):
    for platform in ("linux", "elsewhere"):
        monkeypatch.setattr(sys, "platform", platform)
        for name in ("one", "other"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "who").write_text(name)
        swap(tmp_path / "one", tmp_path / "other")
        assert [(tmp_path / name / "who").read_text() for name in ("one", "other")] == ["other", "one"]
        assert names_in(tmp_path) == ["one", "other"]


@pytest.mark.faults
def test_a_killed_writer_leaves_the_old_archive_and_is_cleaned_up_after(tmp_path):
    write_one(tmp_path / "a.zarr", 1.0)
    script = textwrap.dedent(
        """
        import os, signal, sys
        import numpy as np
        from iltools_datasets.archive import ArchiveWriter
        with ArchiveWriter(sys.argv[1], overwrite=True) as writer:
            writer.add("lib", "walk", "traj0", {"qpos": np.zeros((1000, 1))})
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.zarr")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(names_in(tmp_path)) == 2
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert reader.read(reader.trajectories[0], ["qpos"])["qpos"][0, 0] == 1.0
    with ArchiveWriter(tmp_path / "a.zarr", overwrite=True) as living:
        living.add("lib", "walk", "traj0", {"qpos": np.full((2, 1), 3.0)})
        assert len(names_in(tmp_path)) == 2  # the dead writer's directory is gone, this one's is there
        write_one(tmp_path / "a.zarr", 2.0, overwrite=True)  # and a second writer leaves it alone
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert reader.read(reader.trajectories[0], ["qpos"])["qpos"][0, 0] == 3.0
    assert names_in(tmp_path) == ["a.zarr"]


@pytest.mark.faults
def test_a_reader_of_a_replaced_archive_never_mixes_the_two(tmp_path):
    write_one(tmp_path / "a.zarr", 1.0)
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert reader.read(reader.trajectories[0], ["qpos"], 0, 10)["qpos"].max() == 1.0
    write_one(tmp_path / "a.zarr", 2.0, overwrite=True)
    with pytest.raises(ArchiveChangedError, match="replaced since it was opened; open it again"):
        reader.read(reader.trajectories[0], ["qpos"])
    again = ArchiveReader(tmp_path / "a.zarr")
    assert again.read(again.trajectories[0], ["qpos"])["qpos"].min() == 2.0


def test_threads_and_forks_share_a_reader(tmp_path):
    write_one(tmp_path / "a.zarr", 1.0)
    reader = ArchiveReader(tmp_path / "a.zarr")
    trajectory = reader.trajectories[0]

    def read(start):
        return float(reader.read(trajectory, ["qpos"], start, 100_000)["qpos"].sum())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(0, 100_000, 5_000))) == [2.0 * (100_000 - s) for s in range(0, 100_000, 5_000)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(read_all, reader).result() == 200_000.0
    if hasattr(os, "fork"):
        child = subprocess.run([sys.executable, "-c", FORKED, str(tmp_path / "a.zarr")], check=True, timeout=60)
        assert child.returncode == 0


FORKED = """
import os, sys
from iltools_datasets.archive import ArchiveReader
reader = ArchiveReader(sys.argv[1])
assert reader.read(reader.trajectories[0], ["qpos"])["qpos"].sum() == 200_000
child = os.fork()
if child == 0:
    os._exit(0 if reader.read(reader.trajectories[0], ["qpos"])["qpos"].sum() == 200_000 else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def read_all(reader):
    return float(reader.read(reader.trajectories[0], ["qpos"])["qpos"].sum())
