"""Something else in the place of a file of a store: neither waited for, nor followed, nor believed in its length."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fault_tools import last_line, run_python
from iltools_datasets import StoreBuilder, TrajectoryStore, errors, repair_store, verify_store
from manifests import rewrite
from stores import build_store, make_clips

PUT_IN_ITS_PLACE = """
import os, shutil, socket, sys
from pathlib import Path
from stores import build_store, make_clips
from iltools_datasets import StoreBuilder, TrajectoryStore, errors, repair_store, verify_store

kind, place = sys.argv[1], Path(sys.argv[2])
os.chdir(place)  # sockets have short names

def put(victim, number):
    elsewhere = place / f"elsewhere{number}"
    if victim.exists():
        victim.rename(elsewhere)
    else:
        elsewhere.write_text("precious")
    if kind == "pipe":
        os.mkfifo(victim)
    elif kind == "link":
        victim.symlink_to(elsewhere)
    elif kind == "dangling link":
        victim.symlink_to(place / "nowhere" / str(number))
    elif kind == "directory":
        victim.mkdir()
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("s")
        Path("s").rename(victim)
    elif kind == "device":
        victim.symlink_to("/dev/zero")
    return elsewhere

files = ["manifest.json", "names.json", "segments.i64", "meta.json", "states/meta.json", "states/observation.memmap"]
for number, name in enumerate(files):
    path = build_store(place / f"store{number}", make_clips([9, 9]))
    data = TrajectoryStore.open(path).data_dir
    victim = path / name if number == 0 else data / name
    put(victim, number)
    for backend in ("mmap", "pread", "ram"):
        try:
            TrajectoryStore.open(path, backend)
            assert name.endswith("meta.json"), f"{name} was opened"  # that is for TensorDict, and for verify
        except errors.StoreCorruptError as error:
            assert str(victim) in str(error), error
    damages = [damage for damage in verify_store(path) if damage.file == str(victim)]
    assert len(damages) == 1, (name, damages)
    assert any(word in damages[0].what for word in ("link", "regular file")), damages
    try:
        repair_store(path)
        assert number
    except errors.StoreCorruptError:
        assert number == 0
    assert data.exists()
    if number == 0 and kind == "directory":  # which no rename can replace, and no build makes
        try:
            StoreBuilder(path, overwrite=True)
            raise AssertionError("a directory was taken for a manifest")
        except errors.StoreExistsError:
            continue
    build_store(path, make_clips([5]), overwrite=True)
    assert len(TrajectoryStore.open(path)) == 4 and verify_store(path) == []

path = build_store(place / "locked", make_clips([9]))
for name in (".lock", "manifest.json.new"):
    victim = path / name
    elsewhere = put(victim, name)
    before = elsewhere.read_text()
    try:
        build_store(path, make_clips([5]), overwrite=True)
        assert name != ".lock"
    except errors.StoreCorruptError as error:
        assert name == ".lock" and str(victim) in str(error), error
    except OSError as error:
        assert kind == "directory" and str(victim) in str(error), error
    assert elsewhere.read_text() == before
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink(missing_ok=True)
assert not (place / "nowhere").exists()
print("done")
"""


@pytest.mark.faults("pipe, link or device")
@pytest.mark.parametrize("kind", ["pipe", "link", "dangling link", "directory", "socket", "device"])
def test_something_else_in_the_place_of_a_file(tmp_path: Path, kind: str) -> None:
    process = run_python(PUT_IN_ITS_PLACE, kind, tmp_path)
    assert (process.returncode, process.stdout) == (0, "done\n"), process.stderr


@pytest.mark.faults("pipe, link or device")
@pytest.mark.parametrize("name", ["names.json", "segments.i64"])
def test_a_linked_data_directory(tmp_path: Path, name: str) -> None:
    path = build_store(tmp_path / "store", make_clips([9]))
    data = TrajectoryStore.open(path).data_dir
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.StoreCorruptError, match="is a symbolic link"):
        TrajectoryStore.open(path)
    assert any(damage.file.endswith(name) and "link" in damage.what for damage in verify_store(path))
    # The link goes with the old build; what it leads to is somebody else's.
    build_store(path, make_clips([5]), overwrite=True)
    assert (tmp_path / "elsewhere" / name).exists()


def test_a_store_is_found_over_links(tmp_path: Path) -> None:
    path = build_store(tmp_path / "real" / "store", make_clips([9]))
    (tmp_path / "link").symlink_to(path)
    assert len(TrajectoryStore.open(tmp_path / "link")) == 8
    assert verify_store(tmp_path / "link") == []


WITHIN_A_GIBIBYTE = """
import resource, sys
from iltools_datasets import TrajectoryStore, verify_store
size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (size, size))
if sys.argv[2] == "verify":
    print(*(f"{damage.file}: {damage.what}" for damage in verify_store(sys.argv[1])), sep=chr(10))
else:
    TrajectoryStore.open(sys.argv[1], sys.argv[2])
"""


@pytest.mark.faults("file that is a hole")
@pytest.mark.parametrize("name", ["manifest.json", "names.json", "segments.i64", "meta.json"])
def test_a_file_that_is_one_large_hole(tmp_path: Path, name: str) -> None:
    path = tmp_path / "store"
    with StoreBuilder(path) as builder:
        builder.add(0, 0, {}, {"a": np.zeros((3, 1))})
    (victim,) = (file for file in path.rglob(name) if file.parent.name != "transitions")
    os.truncate(victim, 3 << 40)
    rewritten = name == "segments.i64"
    if rewritten:
        rewrite(path, lambda manifest: manifest.update(num_segments=(3 << 40) // 24))
    process = run_python(WITHIN_A_GIBIBYTE, path, "mmap")
    if name == "meta.json":  # not read when a store is opened
        assert process.returncode == 0, process.stderr
    else:
        assert last_line(process).startswith(f"iltools_datasets.errors.StoreCorruptError: {victim}"), process.stderr
    if not rewritten:  # which is as long as the manifest says, so it is read, hole or not; Ctrl-C ends it
        process = run_python(WITHIN_A_GIBIBYTE, path, "verify")
        assert process.returncode == 0, process.stderr
        assert f"{victim}: expected at most" in process.stdout or f"{victim}: the manifest: expected" in process.stdout


@pytest.mark.faults("file that is a hole")
def test_verify_does_not_take_the_manifests_word(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", make_clips([100]), concat={}, alias={})

    def lie(manifest: dict) -> None:
        for column in manifest["columns"]:
            rows = manifest["num_states" if column["kind"] == "state" else "num_transitions"]
            itemsize = np.dtype(column["dtype"]).itemsize
            column.update(shape=[1 << 40], bytes=(rows * itemsize) << 40, crc32c=[0])
        manifest["block_bytes"] = 1 << 62

    rewrite(path, lie)
    process = run_python(WITHIN_A_GIBIBYTE, path, "verify")
    assert process.returncode == 0, process.stderr
    assert len(re.findall(r"expected \d{14,} bytes, found \d{2,4}", process.stdout)) == 4


# What is taken for one's own.


@pytest.mark.faults("somebody else's directory")
@pytest.mark.parametrize("overwrite", [False, True])
def test_another_manifest_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"name": "a web page", "icons": []}))
    (tmp_path / "data-of-mine").mkdir()
    with pytest.raises(errors.StoreExistsError, match="is not a store's, so it is not replaced"):
        StoreBuilder(tmp_path, overwrite=overwrite)
    with pytest.raises(errors.StoreCorruptError):
        repair_store(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data-of-mine", "manifest.json"]


@pytest.mark.faults("somebody else's directory")
@pytest.mark.parametrize("name", ["zarr.json", ".zgroup"])
def test_no_store_is_built_into_an_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(errors.StoreExistsError, match="is a Zarr archive"):
        StoreBuilder(tmp_path, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.faults("somebody else's directory")
def test_an_archive_is_not_built_into_itself(tmp_path: Path) -> None:
    from iltools_datasets.archive import ArchiveReader, ArchiveWriter
    from iltools_datasets.ingest.from_archive import build_store as build

    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add("lab", "walk", "t", {"qpos": np.zeros((9, 3))})
    for inside in ("a.zarr", "a.zarr/store", "a.zarr/lab/store"):
        with pytest.raises(errors.IltoolsError, match=r"a\.zarr"):
            build(tmp_path / "a.zarr", tmp_path / inside, ["qpos"], overwrite=True)
    assert len(ArchiveReader(tmp_path / "a.zarr").trajectories) == 1
    assert not list(tmp_path.rglob("*.memmap"))


@pytest.mark.faults("somebody else's directory")
def test_a_directory_that_is_only_named_like_a_build_stays(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", make_clips([9]))
    mine = path / "data-0f8fad5b-d9cb-469f-a165-70867728950e"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    assert repair_store(path) == []
    build_store(path, make_clips([5]), overwrite=True)
    assert (mine / "thesis.tex").read_text() == "years of work"
    # A build's own, dead half-way, goes.
    shutil.rmtree(mine)
    (mine / "states").mkdir(parents=True)
    assert repair_store(path) == [mine]


@pytest.mark.faults("somebody else's directory")
@pytest.mark.parametrize("content", ["", "{", '{"crc32c": 1, "manifest": {}}'])
def test_a_damaged_store_of_ours_may_be_replaced(tmp_path: Path, content: str) -> None:
    path = build_store(tmp_path / "store", make_clips([9]))
    (path / "manifest.json").write_text(content)
    with pytest.raises(errors.StoreExistsError, match="overwrite=True"):
        StoreBuilder(path)
    build_store(path, make_clips([5]), overwrite=True)
    assert len(TrajectoryStore.open(path)) == 4
