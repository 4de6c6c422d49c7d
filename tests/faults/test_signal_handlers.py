"""Methods of a builder that a signal handler calls while another of its calls is under way: none of them hangs."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from fault_tools import run_python
from iltools_datasets import StoreBuilder, TrajectoryStore

OVER = "ArgumentError this build is over"
BUSY = "ValueError this build is in the middle of another call; from within it, only abort() is possible"


def printed(method: str, thread: str, directory: Path) -> list[str]:
    code = "from handlers import main; main()"
    process = run_python(code, method, thread, directory)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.faults("signal handler in a call")
@pytest.mark.parametrize("method", ["abort", "leave"])
@pytest.mark.parametrize("thread", ["same", "other"])
def test_a_handler_ends_the_build(tmp_path: Path, method: str, thread: str) -> None:
    # At once: when the handler goes on, the directory is gone. The call it interrupted says so.
    lines = printed(method, thread, tmp_path)
    assert [line for line in lines if not line.startswith("long")] == [f"{method} returned", "gone"]
    assert [line for line in lines if line.startswith("long")] == [f"long {OVER}"]


@pytest.mark.faults("signal handler in a call")
@pytest.mark.parametrize("method", ["publish", "add", "adopt"])
def test_another_call_from_a_handler_is_refused_and_the_first_goes_on(tmp_path: Path, method: str) -> None:
    assert printed(method, "same", tmp_path) == [f"{method} {BUSY}", "long returned"]


@pytest.mark.faults("signal handler in a call")
def test_another_thread_waits_for_its_turn(tmp_path: Path) -> None:
    with StoreBuilder(tmp_path / "store") as builder:
        rows = np.zeros((2000, 1 << 14), np.uint8)
        threads = [threading.Thread(target=builder.add, args=(0, k, {"x": rows + k})) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    store = TrajectoryStore.open(tmp_path / "store")
    assert sorted(store.segments.traj_id.tolist()) == list(range(6))
    for segment in store.segments:
        assert set(store.gather([segment.start, segment.start + 1998])["x"].ravel()) == {segment.traj_id}
