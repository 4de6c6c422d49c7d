"""Stores that somebody or something has damaged: what opening, reading and verifying them says."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_tools import OPEN_AND_READ, last_line, run_python, snapshot
from iltools_datasets import TrajectoryStore, _core, errors, verify_store
from manifests import rewrite
from stores import build_store, make_clips

BACKENDS = ["mmap", "ram", "pread"]
STATES = 2000
OBSERVATION_BYTES = STATES * 13 * 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return build_store(tmp_path / "store", make_clips([STATES]))


def column(path: Path, name: str = "observation") -> Path:
    """Return a column's file, made writable."""
    file = next(path.rglob(f"{name}.memmap"))
    file.chmod(0o644)
    return file


def resize(file: Path, length: int) -> None:
    with file.open("r+b") as opened:
        opened.truncate(length)


def assert_refused(path: Path, backend: str, error: str, words: str) -> None:
    """Open in a process of its own: it exits with 1, says what is wrong, and changes nothing."""
    before = snapshot(path)
    process = run_python(OPEN_AND_READ, path, backend)
    assert process.returncode == 1, process.stderr
    line = last_line(process)
    assert line.startswith(f"iltools_datasets.errors.{error}: {path}"), line
    assert re.search(words, line), line
    assert snapshot(path) == before


@pytest.mark.faults("column truncated")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_truncated_column(path: Path, backend: str) -> None:
    resize(column(path), 1000)
    assert_refused(
        path, backend, "StoreCorruptError", rf'"observation": expected {OBSERVATION_BYTES} bytes, found 1000'
    )


@pytest.mark.faults("column too long")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_column_that_is_too_long(path: Path, backend: str) -> None:
    resize(column(path), OBSERVATION_BYTES + 1)
    words = rf'"observation": expected {OBSERVATION_BYTES} bytes, found {OBSERVATION_BYTES + 1}'
    assert_refused(path, backend, "StoreCorruptError", words)


@pytest.mark.faults("column missing")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_column(path: Path, backend: str) -> None:
    column(path).unlink()
    assert_refused(path, backend, "StoreCorruptError", r'"observation" is missing')


@pytest.mark.faults("metadata cut")
@pytest.mark.parametrize("length", [0, 1, -1])
def test_a_cut_manifest(path: Path, length: int) -> None:
    manifest = path / "manifest.json"
    resize(manifest, length % manifest.stat().st_size)
    assert_refused(path, "mmap", "StoreCorruptError", r"manifest\.json")


@pytest.mark.faults("metadata cut")
def test_a_manifest_cut_anywhere(path: Path) -> None:
    manifest = path / "manifest.json"
    content = manifest.read_bytes()
    for length in range(len(content)):
        manifest.write_bytes(content[:length])
        with pytest.raises(errors.StoreCorruptError, match=re.escape(str(manifest))):
            TrajectoryStore.open(path)
        assert verify_store(path)[0].file == str(manifest)


@pytest.mark.faults("metadata cut")
@pytest.mark.parametrize("name", ["segments.i64", "names.json"])
@pytest.mark.parametrize("length", [0, 5])
def test_other_metadata_cut(path: Path, name: str, length: int) -> None:
    resize(next(path.rglob(name)), length)
    assert_refused(path, "mmap", "StoreCorruptError", re.escape(name))


def observation(manifest: dict[str, Any]) -> dict[str, Any]:
    return next(entry for entry in manifest["columns"] if entry["key"] == ["observation"])


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "shape": lambda manifest: observation(manifest).update(shape=[14]),
    "huge shape": lambda manifest: observation(manifest).update(shape=[2**35]),
    "overflowing shape": lambda manifest: observation(manifest).update(shape=[2**32, 2**32, 13]),
    "dtype": lambda manifest: observation(manifest).update(dtype="float64"),
    "shape and bytes": lambda manifest: observation(manifest).update(shape=[26], bytes=2 * OBSERVATION_BYTES),
    "huge, with bytes": lambda manifest: observation(manifest).update(
        shape=[2**25], bytes=2**27 * STATES, crc32c=[0] * (2**27 * STATES // manifest["block_bytes"])
    ),
    "rows": lambda manifest: manifest.update(num_states=STATES + 1),
    "segments": lambda manifest: manifest.update(num_segments=2**60),
    "key": lambda manifest: observation(manifest).update(key=["..", "..", "x"]),
    "uuid": lambda manifest: manifest.update(uuid="../../elsewhere"),
    "view": lambda manifest: manifest["views"][0].update(offset=2**63),
}


@pytest.mark.faults("metadata lies")
@pytest.mark.parametrize("lie", LIES)
def test_metadata_that_does_not_fit_the_files(path: Path, lie: str) -> None:
    rewrite(path, LIES[lie])
    before = snapshot(path)
    # One GiB of address space beyond what the interpreter has: a size believed without a check could not be had.
    process = run_python(
        "import resource, sys; from iltools_datasets import TrajectoryStore\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 2**30\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "TrajectoryStore.open(sys.argv[1], sys.argv[2])",
        path,
        "ram",
    )
    assert process.returncode == 1, process.stderr
    assert last_line(process).startswith("iltools_datasets.errors.StoreCorruptError: "), process.stderr
    assert str(path) in last_line(process)
    assert snapshot(path) == before


@pytest.mark.faults("bit flip")
def test_a_flipped_bit_is_named(tmp_path: Path) -> None:
    clip = make_clips([200_000])
    path = build_store(tmp_path / "store", clip)
    block_bytes = json.loads((path / "manifest.json").read_text())["manifest"]["block_bytes"]
    file = column(path)
    with file.open("r+b") as opened:
        opened.seek(2 * block_bytes + 12345)
        byte = opened.read(1)[0]
        opened.seek(-1, 1)
        opened.write(bytes([byte ^ 0x10]))
    pytest.importorskip("typer", reason="needs the cli extra")
    main = "import sys; from iltools_datasets.cli import main; main(sys.argv[1:])"
    process = run_python(main, "verify", path)
    assert process.returncode == 1
    assert '"observation", block 2: checksum' in process.stdout
    process = run_python(main, "verify", path, "--json")
    assert process.returncode == 1
    (damage,) = json.loads(process.stdout)["damages"]
    assert (damage["file"], damage["key"], damage["block"]) == (str(file), "observation", 2)


@pytest.mark.faults("bit flip")
def test_a_store_too_damaged_to_open_is_still_verified(path: Path) -> None:
    pytest.importorskip("typer", reason="needs the cli extra")
    resize(column(path), 1000)
    column(path, "action").unlink()
    main = "import sys; from iltools_datasets.cli import main; main(sys.argv[1:])"
    process = run_python(main, "verify", path, "--json")
    assert process.returncode == 1
    assert {damage["key"] for damage in json.loads(process.stdout)["damages"]} == {"observation", "action"}
    (path / "manifest.json").write_text("{}")
    process = run_python(main, "verify", path, "--json")
    assert process.returncode == 1
    assert "manifest" in json.loads(process.stdout)["damages"][0]["message"]
    assert run_python(main, "verify", path.with_name("nowhere")).returncode == 2


TRUNCATE_WHILE_OPEN = """
import os, sys
import numpy as np
from iltools_datasets import TrajectoryStore
store = TrajectoryStore.open(sys.argv[1], sys.argv[2])
before = store.gather(np.arange(len(store)))
os.truncate(sys.argv[3], 0)
after = store.gather(np.arange(len(store)))
assert all((before[key] == after[key]).all() for key in before)
"""


@pytest.mark.faults("truncated while mapped")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_truncated_while_open(path: Path, backend: str) -> None:
    process = run_python(TRUNCATE_WHILE_OPEN, path, backend, column(path))
    if backend == "mmap":
        assert process.returncode == -signal.SIGBUS
    elif backend == "pread":
        assert process.returncode == 1
        words = rf"StoreCorruptError: .*observation\.memmap: .*expected {OBSERVATION_BYTES} bytes, found 0"
        assert re.search(words, last_line(process)), process.stderr
    else:
        assert process.returncode == 0, process.stderr


@pytest.mark.faults("hostile keys")
@pytest.mark.parametrize("place", ["column", "directory"])
def test_links_are_not_followed(path: Path, tmp_path: Path, place: str) -> None:
    victim = column(path) if place == "column" else column(path).parent
    elsewhere = tmp_path / "elsewhere"
    victim.rename(elsewhere)
    victim.symlink_to(elsewhere)
    assert_refused(path, "mmap", "StoreCorruptError", "is a symbolic link")
    assert any("symbolic link" in damage.what for damage in verify_store(path))


@pytest.mark.faults("batch written into")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_a_copy(path: Path, backend: str) -> None:
    before = snapshot(path)
    store = TrajectoryStore.open(path, backend)
    index = np.arange(len(store))
    first = store.gather(index)
    kept = {key: array.copy() for key, array in first.items()}
    for array in first.values():
        array[...] = 0
    again = store.gather(index)
    for key, array in again.items():
        np.testing.assert_array_equal(array, kept[key])
    assert snapshot(path) == before


@pytest.mark.faults("batch written into")
def test_maps_and_files_are_read_only(path: Path) -> None:
    store = TrajectoryStore.open(path)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(store.data_dir) in line]
    assert maps
    assert all(line.split()[1].startswith("r--") for line in maps)
    assert all(file.stat().st_mode & 0o222 == 0 for file in store.data_dir.rglob("*.memmap"))


def test_verify_tells_its_progress_and_stops_for_it(path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_store(path, stop)
    assert len(seen) == 1
    with pytest.raises(KeyboardInterrupt):
        TrajectoryStore.open(path).verify(stop)
    assert _core.verify(str(path)) == []
