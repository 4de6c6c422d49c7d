"""Builds that fail, are killed, meet each other, their readers or a full disk."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_tools import compile_failing_calls, last_line, run_python, snapshot
from iltools_datasets import StoreBuilder, TrajectoryStore, errors, repair_store, verify_store
from stores import build_store, expected_columns, make_clips


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"LD_PRELOAD": str(compile_failing_calls(tmp_path_factory.mktemp("preload")))}


@pytest.mark.faults("killed build")
@pytest.mark.parametrize(("adopted", "kills", "points"), [(False, 150, 100), (True, 205, 125)])
def test_builds_killed_at_every_call(
    preload: dict[str, str], tmp_path: Path, adopted: bool, kills: int, points: int
) -> None:
    """As many kills as one rebuild and one first build have calls, half-way or after, and some random ones.

    A kill before a call leaves what one after the call before it leaves; `make kill-loop` has all three.
    """
    code = (
        "import sys; from pathlib import Path; from fault_tools import Mode; from kill_loop import run\n"
        "kills, adopted = int(sys.argv[2]), sys.argv[3] == 'True'\n"
        "print(len(run(kills, 1, Path(sys.argv[1]), adopted=adopted, modes=[Mode.KILL_TORN])))"
    )
    process = run_python(code, tmp_path / "place", kills, adopted, **preload)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > points, "fewer points than the build is known to have"


@pytest.mark.faults("killed build")
def test_additions_killed_at_every_call(preload: dict[str, str], tmp_path: Path) -> None:
    code = "import killed_addition; killed_addition.main()"
    process = run_python(code, tmp_path / "store", **preload)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 30, "fewer points than adding is known to have"


@pytest.mark.faults("killed build")
def test_a_killed_first_build_can_be_repaired(tmp_path: Path) -> None:
    process = run_python(
        "import os, sys, signal; import numpy as np; from iltools_datasets import StoreBuilder\n"
        "builder = StoreBuilder(sys.argv[1])\n"
        "builder.add(0, 0, {'x': np.zeros((2**20, 1))})\n"
        "os.kill(os.getpid(), signal.SIGKILL)",
        tmp_path / "store",
    )
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(errors.StoreNotFoundError):
        TrajectoryStore.open(tmp_path / "store")
    removed = repair_store(tmp_path / "store")
    assert len(removed) == 2
    assert list((tmp_path / "store").iterdir()) == []
    with pytest.raises(errors.StoreNotFoundError):
        repair_store(tmp_path / "store")


@pytest.mark.faults("killed build")
def test_repair_leaves_everything_else(tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="needs the cli extra")
    path = build_store(tmp_path / "store", make_clips([50]))
    (path / "notes.txt").write_text("mine")
    (path / "data-of-mine").mkdir()
    before = {**snapshot(path), ".lock": None}  # which holds the pid of the last holder
    (path / "data-0f8fad5b-d9cb-469f-a165-70867728950e" / "states").mkdir(parents=True)
    (path / "manifest.json.new").write_text("half")
    main = "import sys; from iltools_datasets.cli import main; main(sys.argv[1:])"
    process = run_python(main, "repair", path, "--json")
    assert process.returncode == 0, process.stderr
    assert len(json.loads(process.stdout)["removed"]) == 2
    assert {**snapshot(path), ".lock": None} == before
    builder = StoreBuilder(path, overwrite=True)
    process = run_python(main, "repair", path)
    assert process.returncode == 2
    assert str(os.getpid()) in process.stderr
    builder.abort()


# A full disk, for real and at every single call.

BUILD_ON_FULL_DISK = """
import errno, json, os, sys
import numpy as np
from pathlib import Path
from stores import build_store, expected_columns, make_clips
from fault_tools import snapshot
from iltools_datasets import StoreBuilder, TrajectoryStore, verify_store
path = Path(sys.argv[1]) / "store"
if sys.argv[2] == "over a store":
    build_store(path, make_clips([100]))
before = snapshot(path) if path.exists() else None
free = os.statvfs(sys.argv[1]).f_bavail
raised = None
try:
    with StoreBuilder(path, overwrite=True) as builder:
        for number in range(64):
            try:
                builder.add(0, number, {"x": np.ones((1000, 128), np.float32)})
            except OSError as error:
                if sys.argv[3] == "give up":
                    raise
                raised = error
            except ValueError as error:
                assert "this build is over" in str(error)
except OSError as error:
    raised = error
except ValueError as error:
    assert "this build is over" in str(error)
assert raised.errno == errno.ENOSPC and str(path) in str(raised), raised
assert (snapshot(path) if path.exists() else None) == before
assert os.statvfs(sys.argv[1]).f_bavail == free
if before:
    assert len(TrajectoryStore.open(path)) == 99 and verify_store(path) == []
build_store(path, make_clips([100]), overwrite=True)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> tuple[tuple[str, ...], Path]:
    """A command prefix that runs a process with a file system of 4 MiB of its own, which ends with it."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"'
    prefix = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(place))
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    return prefix, place


@pytest.mark.faults("disk full")
@pytest.mark.parametrize("stubborn", ["give up", "go on"])
@pytest.mark.parametrize("there", ["over a store", "nothing there"])
def test_a_full_disk(small_disk: tuple[tuple[str, ...], Path], there: str, stubborn: str) -> None:
    prefix, place = small_disk
    process = run_python(BUILD_ON_FULL_DISK, place, there, stubborn, prefix=prefix)
    assert process.returncode == 0, process.stderr


FAIL_AT_EVERY_CALL_OF_A_FIRST_BUILD = """
import os, sys
from pathlib import Path
from stores import build_store, make_clips
from fault_tools import Mode, arm
from iltools_datasets import TrajectoryStore
path, code, at = Path(sys.argv[1]), int(sys.argv[2]), 0
while True:
    at += 1
    read_end, write_end = os.pipe()
    arm(path, at, Mode.FAIL, error=code, report_fd=write_end)
    raised = None
    try:
        build_store(path, make_clips([9, 9]))
    except OSError as error:
        raised = error
    arm(Path("/"), 10**9, Mode.FAIL)
    os.close(write_end)
    name = os.read(read_end, 4096).decode().strip()
    os.close(read_end)
    if not name:
        break
    if raised is not None and not (path / "manifest.json").exists():
        assert raised.errno == code, name
        assert not path.exists(), name
        continue
    assert name.startswith("fsync"), name  # of the directory, after the rename: the store stands
    assert len(TrajectoryStore.open(path)) == 16
    for entry in sorted(path.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    path.rmdir()
assert len(TrajectoryStore.open(path)) == 16
print(at - 1)
"""


@pytest.mark.faults("disk full")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_first_build_that_fails_leaves_nothing(preload: dict[str, str], tmp_path: Path, code: int) -> None:
    process = run_python(FAIL_AT_EVERY_CALL_OF_A_FIRST_BUILD, tmp_path / "store", code, **preload)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 40


FAIL_AT_EVERY_CALL = """
import errno, sys
from pathlib import Path
from stores import build_store, make_clips
from fault_tools import Mode, arm, snapshot
from iltools_datasets import TrajectoryStore
path = Path(sys.argv[1])
code = int(sys.argv[2])
build_store(path, make_clips([30, 20]))
before, uuid = snapshot(path), TrajectoryStore.open(path).uuid
names, failed, at = [], 0, 1
while True:
    import os
    read_end, write_end = os.pipe()
    arm(path, at, Mode.FAIL, error=code, report_fd=write_end)
    raised = None
    try:
        build_store(path, make_clips([9, 9]), overwrite=True)
    except OSError as error:
        raised = error
    arm(Path("/"), 10**9, Mode.FAIL)
    os.close(write_end)
    name = os.read(read_end, 4096).decode().strip()
    os.close(read_end)
    if not name:
        break
    now = TrajectoryStore.open(path)
    if now.uuid == uuid:
        # The lock file holds the pid of the last builder, which is this one.
        held = {**before, ".lock": None}
        # Where removal itself is what fails, something of the failed build stays until the next one.
        if not name.startswith(("unlink", "rmdir")):
            assert {**snapshot(path), ".lock": None} == held, name
        # mkdir of a directory that is there fails anyway.
        assert raised is not None and raised.errno == code or name.startswith("mkdir "), (name, raised)
        failed += 1
    else:
        # The rename has happened: the new store stands, whatever failed afterwards.
        assert len(now) == 16, name
        build_store(path, make_clips([30, 20]), overwrite=True)
        before, uuid = snapshot(path), TrajectoryStore.open(path).uuid
    names.append(name)
    at += 1
assert len(TrajectoryStore.open(path)) == 16
assert {entry.name for entry in path.iterdir()} == {"manifest.json", ".lock", TrajectoryStore.open(path).data_dir.name}
print(failed, len(names))
"""


@pytest.mark.faults("disk full")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_single_call_may_fail(preload: dict[str, str], tmp_path: Path, code: int) -> None:
    process = run_python(FAIL_AT_EVERY_CALL, tmp_path / "store", code, **preload)
    assert process.returncode == 0, process.stderr
    failed, calls = map(int, process.stdout.split())
    assert failed > 40
    assert calls > failed


# Builders and readers at the same time.


def _rebuild(path: Path, stop: multiprocessing.synchronize.Event) -> None:
    generation = 0
    while not stop.is_set():
        generation += 1
        build_store(path, make_clips([40 + generation % 2] * 3, seed=generation % 2), overwrite=True)


@pytest.mark.faults("reader during builds")
@pytest.mark.parametrize("backend", ["mmap", "ram", "pread"])
def test_readers_see_whole_stores(tmp_path: Path, backend: str) -> None:
    path = build_store(tmp_path / "store", make_clips([40] * 3, seed=0))
    expected = {
        len(columns["action"]): columns
        for columns in (expected_columns(make_clips([40 + parity] * 3, seed=parity)) for parity in (0, 1))
    }
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    builder = context.Process(target=_rebuild, args=(path, stop))
    builder.start()
    try:
        seen, uuids, previous = set(), set(), None
        while len(uuids) < 60:
            store = TrajectoryStore.open(path, backend)
            rows = store.gather(np.arange(len(store)))
            for key, column in expected[len(store)].items():
                np.testing.assert_array_equal(rows[key], column)
            if previous is not None:  # an older snapshot, whose files are gone by now
                rows = previous.gather(np.arange(len(previous)))
                np.testing.assert_array_equal(rows["action"], expected[len(previous)]["action"])
            seen.add(len(store))
            uuids.add(store.uuid)
            previous = store
            assert verify_store(path) == []
            assert builder.is_alive()
    finally:
        stop.set()
        builder.join(60)
    assert builder.exitcode == 0
    assert seen == set(expected)


HOLD_A_BUILD = """
import sys
from iltools_datasets import StoreBuilder
builder = StoreBuilder(sys.argv[1], overwrite=True)
print("building", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_builder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    builder = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_BUILD, tmp_path / "store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert builder.stdout is not None
    assert builder.stdout.readline() == "building\n"
    yield builder
    builder.kill()
    builder.communicate()


@pytest.mark.faults("two builders")
def test_the_second_builder_is_told_who_builds(tmp_path: Path, other_builder: subprocess.Popen[str]) -> None:
    code = "import sys; from iltools_datasets import StoreBuilder; StoreBuilder(sys.argv[1], overwrite=True)"
    process = run_python(code, tmp_path / "store")
    assert process.returncode == 1
    assert re.search(rf"StoreBusyError: .*store.* process {other_builder.pid}$", last_line(process)), process.stderr
    other_builder.kill()
    other_builder.wait()
    build_store(tmp_path / "store", make_clips([4]))
    assert len(list((tmp_path / "store").glob("data-*"))) == 1


@pytest.mark.faults("two builders")
def test_a_forked_copy_of_a_builder_touches_nothing(tmp_path: Path) -> None:
    clips = make_clips([30, 20])
    with StoreBuilder(tmp_path / "store") as builder:
        builder.add(0, 0, {"qpos": clips[0]["qpos"]})
        child = os.fork()
        if child == 0:
            try:
                builder.add(0, 1, {"qpos": clips[1]["qpos"]})
            except ValueError:
                builder.abort()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        builder.add(0, 1, {"qpos": clips[1]["qpos"]})
    store = TrajectoryStore.open(tmp_path / "store")
    rows = np.concatenate([clip["qpos"][:-1] for clip in clips])
    np.testing.assert_array_equal(store.gather(np.arange(48))["qpos"], rows)


@pytest.mark.faults("smaller store over a larger")
def test_nothing_of_a_larger_store_shows_through(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", make_clips([500, 400]))
    before = snapshot(path)
    code = "import sys; from iltools_datasets import StoreBuilder; StoreBuilder(sys.argv[1])"
    process = run_python(code, path)
    assert process.returncode == 1
    assert re.search(r"StoreExistsError: .*overwrite=True", last_line(process))
    assert {**snapshot(path), ".lock": None} == {**before, ".lock": None}
    small = make_clips([7], seed=3)
    build_store(path, small, overwrite=True)
    store = TrajectoryStore.open(path)
    rows = store.gather(np.arange(len(store)))
    assert len(store) == 6
    for key, column in expected_columns(small).items():
        np.testing.assert_array_equal(rows[key], column)
    assert len(list(path.glob("data-*"))) == 1


@pytest.mark.faults("rebuild under a reader")
@pytest.mark.parametrize("backend", ["mmap", "ram", "pread"])
def test_an_open_reader_keeps_its_snapshot(tmp_path: Path, backend: str) -> None:
    old, new = make_clips([300]), make_clips([200], seed=1)
    path = build_store(tmp_path / "store", old)
    reader = TrajectoryStore.open(path, backend)
    build_store(path, new, overwrite=True)
    rows = reader.gather(np.arange(len(reader)))
    for key, column in expected_columns(old).items():
        np.testing.assert_array_equal(rows[key], column)
    assert len(TrajectoryStore.open(path, backend)) == 199
    with pytest.raises(errors.StoreChangedError):
        reader.verify()


@pytest.mark.faults("stale handle")
def test_a_stale_handle_is_refused(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", make_clips([300]))
    uuid = TrajectoryStore.open(path).uuid
    (tmp_path / "handle").write_bytes(pickle.dumps(TrajectoryStore.open(path)))
    build_store(path, make_clips([300]), overwrite=True)
    before = snapshot(path)
    process = run_python("import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))", tmp_path / "handle")
    assert process.returncode == 1
    line = last_line(process)
    assert "StoreChangedError" in line
    assert str(path) in line
    assert uuid in line
    assert snapshot(path) == before


# What a build refuses.


def assert_build_refused(path: Path, second: str, error: str, words: str) -> None:
    """Add a first trajectory and then a second one in a process of its own: exit code 1, and no directory is left."""
    process = run_python(
        "import sys; import numpy as np; from iltools_datasets import StoreBuilder\n"
        "with StoreBuilder(sys.argv[1]) as builder:\n"
        "    builder.add(0, 0, {'x': np.zeros((3, 8))}, {'a': np.zeros((2, 1))}, name='walk/0')\n"
        f"    builder.add({second})",
        path,
    )
    assert process.returncode == 1
    assert re.search(rf"{error}: .*{words}", last_line(process)), process.stderr
    assert not path.exists()


@pytest.mark.faults("key missing later")
def test_a_key_that_is_missing_later(tmp_path: Path) -> None:
    second = "0, 1, {'x': np.zeros((3, 8))}, name='walk/1'"
    assert_build_refused(tmp_path / "store", second, "SchemaError", r"trajectory 1 \(walk/1\).*\"a\" is missing")


@pytest.mark.faults("other width")
def test_another_width(tmp_path: Path) -> None:
    second = "0, 1, {'x': np.zeros((3, 1))}, {'a': np.zeros((2, 1))}, name='walk/1'"
    words = r"trajectory 1 \(walk/1\).*\"x\".*\[8\].*\[1\]"
    assert_build_refused(tmp_path / "store", second, "SchemaError", words)


@pytest.mark.faults("duplicate ids")
def test_the_same_ids_twice(tmp_path: Path) -> None:
    second = "0, 0, {'x': np.zeros((3, 8))}, {'a': np.zeros((2, 1))}, name='walk/1'"
    assert_build_refused(tmp_path / "store", second, "DuplicateTrajectoryError", r"task 0, trajectory 0 \(walk/1\)")


HOSTILE = ["shape", "device", "_type", "../x", "a/b", "a\0b", "k" * 300, "..", "", "x.memmap", "meta.json"]


@pytest.mark.faults("hostile keys")
@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_keys(tmp_path: Path, key: str) -> None:
    process = run_python(
        "import json, sys; import numpy as np; from iltools_datasets import StoreBuilder\n"
        "with StoreBuilder(sys.argv[1]) as builder:\n"
        "    builder.add(0, 0, {json.loads(sys.argv[2]): np.zeros((3, 1))})",
        tmp_path / "place" / "store",
        json.dumps(key),
    )
    assert process.returncode == 1
    assert "SchemaError: task 0, trajectory 0: key " in last_line(process), process.stderr
    assert not (tmp_path / "place" / "store").exists()
    assert not list(tmp_path.rglob("*.memmap"))


@pytest.mark.faults("hostile keys")
def test_case_twins(tmp_path: Path) -> None:
    with pytest.raises(errors.SchemaError, match="told apart"), StoreBuilder(tmp_path / "store") as builder:
        builder.add(0, 0, {"Obs": np.zeros((3, 1)), "obs": np.zeros((3, 1))})
    assert not (tmp_path / "store").exists()


def test_attributes_no_reader_could_parse(tmp_path: Path) -> None:
    nested: object = 1
    for _ in range(126):
        nested = [nested]
    path = build_store(tmp_path / "store", make_clips([5]))
    uuid = TrajectoryStore.open(path).uuid
    with pytest.raises(ValueError, match="recursion"):
        build_store(path, make_clips([5]), overwrite=True, attributes={"deep": nested})
    assert TrajectoryStore.open(path).uuid == uuid
