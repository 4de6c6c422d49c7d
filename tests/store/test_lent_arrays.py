"""Arrays of a caller's that others write to meanwhile, and outputs that lie over what is read."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from iltools_datasets import StoreBuilder, TrajectoryStore, _core, verify_store


@pytest.mark.faults("array written to meanwhile")
def test_what_is_written_to_while_it_is_added_is_stored_as_it_was_or_as_it_became(tmp_path: Path) -> None:
    rows = np.ones((4096, 1024), np.uint8)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            np.subtract(3, rows, out=rows)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with StoreBuilder(tmp_path) as build:
            for traj in range(4):
                build.add(0, traj, states={"q": rows})
    finally:
        done.set()
        writer.join()
    assert verify_store(tmp_path) == []
    store = TrajectoryStore.open(tmp_path)
    assert set(np.unique(store.gather(np.arange(len(store)), ["q"])["q"])) <= {1, 2}


@pytest.mark.faults("output over the input")
@pytest.mark.parametrize("shift", [0, 1, 7, -7])
def test_an_output_over_what_is_read_is_refused(shift: int) -> None:
    memory = np.arange(64.0)
    columns = [np.arange(16.0)[:, None], memory[16:32, None]]
    index = np.arange(8)[::-1].copy()
    place = 16 + (shift if shift >= 0 else 8 + shift)
    before = memory.copy()
    outs = [np.empty((8, 1)), memory[place : place + 8, None]]
    with pytest.raises(ValueError, match=r"out\[1\]: shares memory with columns\[1\]"):
        _core.gather(columns, index, out=outs)
    with pytest.raises(ValueError, match=r"out\[0\]: shares memory with columns\[1\]"):
        _core.gather(columns, index, out=outs[::-1])
    np.testing.assert_array_equal(memory, before)


def test_an_output_beside_what_is_read_is_none_over_it() -> None:
    memory = np.arange(64.0)
    index = np.arange(8)[::-1].copy()
    for place in (8, 32):
        _core.gather([memory[16:32, None]], index, out=[memory[place : place + 8, None]])
        np.testing.assert_array_equal(memory[place : place + 8], np.arange(16.0, 24)[::-1])
    empty = np.empty((16, 0))
    assert _core.gather([empty], index, out=[empty[:8]])[0].shape == (8, 0)
