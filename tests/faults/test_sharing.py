"""One store in many processes and threads: no deadlock, the right rows, one copy in memory."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from fault_tools import SUPPORT, WATCHDOG_SECONDS
from iltools_datasets import StoreBuilder, TrajectoryStore, _core
from stores import build_store, make_clips

METHODS = ["fork", "spawn", "forkserver"]
MOMENTS = ["before", "after", "during"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("shared") / "store", make_clips([20_000, 30_001, 15_000]))


def run(scenario: str, *arguments: object) -> None:
    """Run a scenario of sharing.py; a deadlock ends with TimeoutExpired."""
    process = subprocess.run(
        [sys.executable, Path(__file__).with_name("sharing.py"), scenario, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.faults("fork after a gather")
@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("method", METHODS)
def test_a_handle_in_worker_processes(path: Path, method: str, when: str) -> None:
    run("pool", method, when, path)


@pytest.mark.faults("fork after a gather")
@pytest.mark.parametrize("when", MOMENTS)
def test_an_inherited_handle(path: Path, when: str) -> None:
    run("inherited", when, path)


@pytest.mark.faults("fork after a gather")
@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS)
def test_torch_in_other_processes(path: Path, method: str) -> None:
    """Workers of a DataLoader, a prefetching buffer that goes on in a child, and the documented example."""
    pytest.importorskip("torchrl", reason="needs the torch extra")
    run("torch_processes", method, path)


@pytest.mark.faults("killed worker")
def test_a_killed_worker(tmp_path: Path) -> None:
    run("killed_worker", build_store(tmp_path / "store", make_clips([20_000, 30_001])))


def test_threads_share_a_store_and_a_sampler(path: Path) -> None:
    run("threads", path)


def test_no_thread_at_import() -> None:
    code = (
        "import os; import numpy; before = len(os.listdir('/proc/self/task'))\n"
        "import iltools_datasets._core, iltools_datasets.store.trajectory_store\n"
        "assert len(os.listdir('/proc/self/task')) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WATCHDOG_SECONDS)


def _read_everything(path: Path, connection: Connection) -> None:
    store = TrajectoryStore.open(path)
    for begin in range(0, len(store), 4096):
        store.gather(np.arange(begin, min(begin + 4096, len(store))))
    _core.release_memory()
    connection.send("read")
    connection.recv()  # all have read: now the pages are shared by all
    connection.send((_kilobytes("/proc/self/smaps", path), _kilobytes("/proc/self/smaps_rollup", None)))
    connection.recv()


def _kilobytes(file: str, path: Path | None) -> dict[str, int]:
    """Return the sums of Rss, Pss and Anonymous over the maps of files below a path, or over all maps."""
    sums = {"Rss": 0, "Pss": 0, "Anonymous": 0}
    counts = path is None
    for line in Path(file).read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            counts = path is None or str(path) in line
        elif counts and name[:-1] in sums:
            sums[name[:-1]] += int(values[0])
    return sums


def test_many_readers_share_one_page_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight processes that read all of a store: together they hold it in memory once."""
    clip = np.random.default_rng(0).standard_normal((2**16, 256), dtype=np.float32)
    path = tmp_path / "store"
    with StoreBuilder(path) as builder:
        builder.add(0, 0, {"observation": clip})
    size = clip.nbytes // 1024
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(8)]
    readers = [context.Process(target=_read_everything, args=(path, theirs)) for _, theirs in pipes]
    for reader in readers:
        reader.start()
    ours = [connection for connection, _ in pipes]
    for connection in ours:
        assert connection.recv() == "read"
    for connection in ours:
        connection.send("report")
    reports = [connection.recv() for connection in ours]
    for connection in ours:
        connection.send("end")
    for reader in readers:
        reader.join()
        assert reader.exitcode == 0
    of_store = [report[0] for report in reports]
    sums = {name: sum(each[name] for each in of_store) for name in of_store[0]}
    most = max(report[1]["Anonymous"] for report in reports)
    with capsys.disabled():
        print(f"\n8 readers of a store of {size} kB: kB of its maps {sums}; anonymous kB of a process at most {most}")
    assert all(each["Anonymous"] == 0 for each in of_store)
    assert sum(each["Pss"] for each in of_store) <= 1.1 * size
    assert sum(each["Rss"] for each in of_store) >= 7 * size
