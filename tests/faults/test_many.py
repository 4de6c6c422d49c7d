"""A thousand columns, and twenty thousand clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fault_tools import run_python
from iltools_datasets import StoreBuilder, TrajectoryStore

MANY_COLUMNS = """
import resource, sys
import numpy as np
from iltools_datasets import StoreBuilder, TrajectoryStore, errors, verify_store

resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
path, count, states = sys.argv[1], 1100, 150
names = [f"c{number}" for number in range(count)]

def clip(k):
    rows = np.random.default_rng(k).standard_normal((count, states, 64), dtype=np.float32)
    return dict(zip(names, rows, strict=True))

def peak():
    # Not getrusage: its peak is that of the process this one was started from, where that one was larger.
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10

with StoreBuilder(path) as builder:
    for k in range(4):
        builder.add(0, k, clip(k))
print(peak())
index = np.array([0, 7, 3 * (states - 1) + 1, states - 2])
expected = [(0, 0), (0, 7), (3, 1), (0, states - 2)]
clips = {k: clip(k) for k, _ in expected}
for backend in ("pread", "mmap"):
    store = TrajectoryStore.open(path, backend)
    rows = store.gather(index)
    assert len(rows) == 2 * count
    for name in names:
        for next in (0, 1):
            found = rows[("next", name) if next else name]
            np.testing.assert_array_equal(found, [clips[k][name][row + next] for k, row in expected])
assert verify_store(path) == []

# A file that is not kept open is opened again: the same one, or an error. Those that are kept open stay what they were.
reader = TrajectoryStore.open(path, "pread")
with StoreBuilder(path, overwrite=True) as builder:
    builder.add(0, 0, clip(9))
np.testing.assert_array_equal(reader.gather(index, ["c0"])["c0"][1], clips[0]["c0"][7])
try:
    reader.gather(index)
    raise AssertionError("a file that is gone was read")
except errors.StoreChangedError as error:
    assert path in str(error), error
np.testing.assert_array_equal(TrajectoryStore.open(path, "pread").gather([3])["c1099"][0], clip(9)["c1099"][3])
"""


@pytest.mark.faults("many columns")
def test_eleven_hundred_columns(tmp_path: Path) -> None:
    process = run_python(MANY_COLUMNS, tmp_path / "store")
    assert process.returncode == 0, process.stderr
    clip_mb = 1100 * 150 * 64 * 4 / 2**20
    assert int(process.stdout) <= 150 + clip_mb, "MB"


@pytest.mark.faults("many clips")
def test_names_and_segments_of_many_clips(tmp_path: Path) -> None:
    """Made once however often they are asked for: what is counted is objects, not time."""
    rows = np.zeros((2, 1), np.float32)
    with StoreBuilder(tmp_path / "store") as builder:
        for k in range(20_000):
            builder.add(0, k, {"x": rows}, name=f"clip{k}")
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.trajectory_names is store.trajectory_names
    assert [store.trajectory_name(k) for k in range(20_000)] == [f"clip{k}" for k in range(20_000)]
    assert [store.segments[k].start for k in range(20_000)] == list(range(20_000))
    assert store.trajectory_name(-1) == "clip19999"
