"""Kill a process at every call with which it saves a checkpoint over an older one. Run by test_training_state.py.

The file calls are those below the checkpoint's directory; what is loaded afterwards must continue as the old checkpoint
does, or as the new one.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from fault_tools import Mode, arm
from iltools_datasets import TrajectoryStore
from iltools_datasets.torchrl import SamplerWithoutReplacement, TensorDictReplayBuffer, TrajectoryStorage


def buffer_over(store: Path) -> TensorDictReplayBuffer:
    """Return a buffer whose stream is the same every time."""
    return TensorDictReplayBuffer(
        storage=TrajectoryStorage(TrajectoryStore.open(store)), sampler=SamplerWithoutReplacement(seed=5), batch_size=7
    )


def stream(saved: Any, store: Path, checkpoint: Path) -> list[list[int]]:
    """Return what follows a checkpoint."""
    buffer = buffer_over(store)
    saved(buffer).loads(checkpoint)
    return [buffer.sample()["index"].tolist() for _ in range(4)]


def kill_at_every_call(store: Path, place: Path, what: str) -> int:
    """Kill what saves a "sampler" or a "buffer" at every call; return the number of calls."""

    def saved(buffer: TensorDictReplayBuffer) -> Any:
        return buffer if what == "buffer" else buffer.sampler

    place.mkdir(parents=True)
    buffer = buffer_over(store)
    buffer.sample()
    saved(buffer).dumps(place / "old")
    old = stream(saved, store, place / "old")
    for _ in range(5):
        buffer.sample()
    saved(buffer).dumps(place / "new")
    new = stream(saved, store, place / "new")
    assert old != new
    at = 0
    while True:
        at += 1
        for mode in (Mode.KILL_BEFORE, Mode.KILL_AFTER, Mode.KILL_TORN):
            checkpoint = place / "checkpoint"
            shutil.rmtree(checkpoint, ignore_errors=True)
            shutil.copytree(place / "old", checkpoint)
            read_end, write_end = os.pipe()
            child = os.fork()
            if child == 0:
                arm(checkpoint, at, mode, report_fd=write_end)
                saved(buffer).dumps(checkpoint)
                os._exit(0)
            os.close(write_end)
            with os.fdopen(read_end) as report:
                name = report.read().strip()
            os.waitpid(child, 0)
            found = stream(saved, store, checkpoint)
            if not name:
                assert found == new
                return at - 1
            assert found in (old, new), name


def main() -> None:
    """Kill at every call; print the number of calls of each kind of checkpoint."""
    store, place = Path(sys.argv[1]), Path(sys.argv[2])
    for what in ("sampler", "buffer"):
        print(kill_at_every_call(store, place / what, what), flush=True)


if __name__ == "__main__":
    main()
