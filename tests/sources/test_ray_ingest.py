"""Two nodes of a Ray cluster read files of an S3 server; processes and nodes that are killed change nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="needs the ray extra")

from iltools_datasets.archive import ArchiveReader  # noqa: E402
from iltools_datasets.cli import main  # noqa: E402
from iltools_datasets.errors import SourceError, StorageError  # noqa: E402
from iltools_datasets.sources import export, open_sources  # noqa: E402
from iltools_datasets.sources.cluster import ingest  # noqa: E402
from object_server import ObjectServer, serving  # noqa: E402
from raw_clips import files_of, write_clips  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning")]
WATCHDOG_SECONDS = 120
HOW = ["--files-per-task", "2", "--keep-going", "--json"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def cluster(server: ObjectServer) -> Iterator[Any]:
    """Two nodes of one core; their processes inherit where the server is."""
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**settings, "include_dashboard": False})
    try:
        cluster.second = cluster.add_node(**settings)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def task_processes(node: Any) -> list[int]:
    """Processes of a node that run a task now, by what Ray calls them."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                parent = (directory / "stat").read_text().rpartition(") ")[2].split()[1]
                is_task = (directory / "cmdline").read_bytes().startswith(b"ray::write_shard")
            except OSError:
                continue
            if is_task and int(parent) == raylet:
                found.append(int(directory.name))
    return found


@pytest.mark.parametrize("how", ["process", "node"])
def test_what_is_killed_in_the_middle_is_read_again(
    server: ObjectServer, cluster: Any, tmp_path: Path, how: str
) -> None:
    root = write_clips(tmp_path / "raw", 24)
    export(open_sources([root]), tmp_path / "alone.zarr")
    url = server.upload(root, "raw")
    started, seen, go_on = threading.Event(), set(), threading.Event()

    def fault(method: str, key: str) -> None:
        """Keep two tasks, one of each node, in the middle of their files."""
        if method == "GET" and key.endswith(".npz") and not go_on.is_set():
            seen.add(key.split("/")[1])
            if len(seen) == 2:
                started.set()
            go_on.wait(WATCHDOG_SECONDS)

    server.fault = fault
    killed: list[int] = []

    def kill() -> None:
        try:
            if started.wait(WATCHDOG_SECONDS):
                killed.extend(task_processes(cluster.second))
                if how == "process":
                    os.kill(killed[0], signal.SIGKILL)
                else:
                    cluster.remove_node(cluster.second, allow_graceful=False)
        finally:
            go_on.set()

    killer = threading.Thread(target=kill)
    killer.start()
    report = ingest(url, server.url("a.zarr"), address=cluster.address, files_per_task=8)
    killer.join()
    assert len(killed) == 1
    assert report.num_trajectories == 24
    server.files().get(f"{server.bucket}/a.zarr", str(tmp_path / "a.zarr"), recursive=True)
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "alone.zarr")

    server.requests.clear()
    server.files().rm(f"{server.bucket}/a.zarr", recursive=True)
    ingest(url, server.url("a.zarr"), address=cluster.address, files_per_task=8)
    assert server.gets(".npz") == []
    with ArchiveReader(server.url("a.zarr")) as reader:
        assert len(reader.trajectories) == 24


def test_what_a_task_raises_is_raised_here(
    server: ObjectServer, cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_clips(tmp_path / "raw", 6)
    bad = root / "motion1" / "clip4.npz"
    bad.write_bytes(bad.read_bytes()[:100])
    url = server.upload(root, "raw")
    with pytest.raises(SourceError, match=f"{url}/motion1/clip4.npz"):
        ingest(url, server.url("a.zarr"), address=cluster.address, files_per_task=2)
    with pytest.raises(SystemExit, match="1"):
        main(["ingest", "--in", url, "--out", server.url("a.zarr"), "--ray", cluster.address, *HOW])
    document = json.loads(capsys.readouterr().out)
    assert document["num_clips"] == 5
    assert [failure["path"] for failure in document["failures"]] == ["motion1/clip4.npz"]
    server.fault = lambda method, key: ("403 Forbidden", "AccessDenied") if key.endswith("clip0.npz") else None
    with pytest.raises(StorageError, match=f"{url}/motion0/clip0.npz: access is refused"):
        ingest(f"{url}/motion0", server.url("b.zarr"), address=cluster.address, files_per_task=2)
