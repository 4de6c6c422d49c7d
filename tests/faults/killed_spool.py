"""Kill an ExpertMemmapBuilder at every call it makes over an older store. Run by test_training_state.py.

`same layout`: one spool, which the store adopts. `new layout`: a trajectory breaks "next is the following observation",
so two spools are read once more. What is there afterwards is the old store or the new one, and the next build is clean.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from fault_tools import Mode, arm
from iltools_datasets import TrajectoryStore, verify_store
from iltools_datasets.replay_memmap import ExpertMemmapBuilder, build_trajectory_td


def build(path: Path, lengths: list[int], what: str) -> None:
    """Write trajectories of these lengths."""
    with ExpertMemmapBuilder(path, 100, overwrite=True) as builder:
        for number, length in enumerate(lengths):
            states = torch.arange(number, number + length + 1.0)[:, None].repeat(1, 3)
            following = states[:-1] if what == "new layout" and number == 1 else states[1:]
            builder.add_trajectory(0, number, build_trajectory_td(states[:-1], states[:-1], following))


def found(path: Path) -> list[int]:
    """Return the lengths of what is there, whole and sound."""
    store = TrajectoryStore.open(path)
    assert verify_store(path) == []
    observation = torch.from_numpy(store.gather(range(len(store)), ["observation"])["observation"])
    lengths = store.segments.length.tolist()
    expected = torch.cat([torch.arange(number, number + length) for number, length in enumerate(lengths)])
    assert torch.equal(observation, expected[:, None].repeat(1, 3).float())
    return lengths


def kill_at_every_call(path: Path, what: str) -> int:
    """Kill at the calls of a build of one kind; return how many there are."""
    old, new = [3, 5], [4, 2, 6]
    build(path, old, "same layout")
    at = 0
    while True:
        at += 1
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            # Begins by removing what the one before left. Torn: half of a write, anything else has just happened.
            arm(path, at, Mode.KILL_TORN, report_fd=write_end)
            build(path, new, what)
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as report:
            name = report.read().strip()
        os.waitpid(child, 0)
        if not name:
            break
        assert found(path) in (old, new), name
        if found(path) == new:
            build(path, old, "same layout")
    assert found(path) == new
    assert {entry.name[:5] for entry in path.iterdir()} == {"manif", ".lock", "data-"}
    assert len(list(path.iterdir())) == 3
    return at - 1


def main() -> None:
    """Print the number of calls of each kind of build."""
    place = Path(sys.argv[1])
    place.mkdir()
    for what in ("same layout", "new layout"):
        print(kill_at_every_call(place / what, what), flush=True)


if __name__ == "__main__":
    main()
