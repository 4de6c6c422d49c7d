"""Kill who adds trajectories to a store at every call. Run by test_builds.py.

What is there afterwards is the store as it was or with what was added, and its files are those that were there before.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from fault_tools import Mode, arm
from iltools_datasets import StoreBuilder, TrajectoryStore, repair_store, verify_store

WIDTH = 5000  # of bytes: a column that is added to begins in the middle of a file's rows


def build(path: Path, clips: range, *, append: bool) -> None:
    """Write the trajectories of these numbers."""
    with StoreBuilder(path, append=append) as builder:
        for number in clips:
            states = np.arange(number, number + 20, dtype=np.uint8)[:, None].repeat(WIDTH, axis=1)
            builder.add(0, number, {"observation": states}, {"action": states[1:, :2]})


def found(path: Path) -> int:
    """Return how many trajectories are there, whole and sound."""
    store = TrajectoryStore.open(path)
    assert verify_store(path) == []
    for number in range(store.num_trajectories):
        rows = store.trajectory(number, ["observation"])["observation"]
        assert (rows == np.arange(number, number + 20)[:, None]).all()
    return store.num_trajectories


def files(path: Path) -> dict[Path, tuple[int, int, int]]:
    """Return what would show that somebody touched a file of the data."""
    stats = {file: file.stat() for file in path.rglob("data-*/**/*") if file.is_file()}
    return {file: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


def main() -> None:
    """Kill at every call; print the number of calls."""
    path = Path(sys.argv[1])
    build(path, range(3), append=False)
    build(path, range(3, 5), append=True)
    before = files(path)
    at = 0
    while True:
        at += 1
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            # Begins by removing what the one before left. Torn: half of a write, anything else has just happened.
            arm(path, at, Mode.KILL_TORN, report_fd=write_end)
            build(path, range(5, 7), append=True)
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as report:
            name = report.read().strip()
        os.waitpid(child, 0)
        count = found(path)
        assert before.items() <= files(path).items(), name
        if not name or count == 7:
            break
        assert count == 5, name
    # After the rename it is the new store, whoever is killed.
    repair_store(path)
    assert found(path) == 7
    assert len(list(path.iterdir())) == 5, "manifest, lock and three generations"
    print(at - 1)


if __name__ == "__main__":
    main()
