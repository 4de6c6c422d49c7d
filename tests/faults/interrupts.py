"""A long native call, interrupted by a real SIGINT. Run by test_interrupts.py in a process of its own.

Prints the seconds from the signal to the KeyboardInterrupt, or that the call was over before the signal came.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from iltools_datasets import StoreBuilder, TrajectoryStore, verify_store

STATES, LARGE = 2048, 16 << 30
"""Rows and bytes of a column that takes seconds to read. It is a hole in a file, so it needs no disk."""


def make_large(path: Path) -> None:
    """Make a store with a column of 16 GiB that nobody has written: checksums are wrong, everything else is right."""
    from manifests import rewrite

    with StoreBuilder(path) as builder:
        builder.add(0, 0, {"observation": np.zeros((STATES, 1), np.float32)})
    file = next(path.rglob("observation.memmap"))
    file.chmod(0o644)
    os.truncate(file, LARGE)

    def grow(manifest: dict) -> None:
        blocks = LARGE // manifest["block_bytes"]
        manifest["columns"][0].update(shape=[LARGE // STATES // 4], bytes=LARGE, crc32c=[0] * blocks)

    rewrite(path, grow)


def gather(path: Path, backend: str) -> Callable[[], object]:
    """Copy two million rows of half a kilobyte."""
    with StoreBuilder(path) as builder:
        builder.add(0, 0, {"observation": np.zeros((5000, 128), np.float32)})
    store = TrajectoryStore.open(path, backend)
    index = np.random.default_rng(0).integers(0, len(store), 2_000_000)
    return lambda: store.gather(index, ["observation", ("next", "observation")])


def verify(path: Path) -> Callable[[], object]:
    """Read 16 GiB."""
    make_large(path)
    return lambda: verify_store(path)


def open_in_memory(path: Path) -> Callable[[], object]:
    """Read 16 GiB into memory."""
    make_large(path)
    return lambda: TrajectoryStore.open(path, "ram")


def build(path: Path) -> Callable[[], object]:
    """Write a trajectory of 2 GiB."""
    rows = np.zeros((2**11, 2**20), np.uint8)

    def write() -> None:
        with StoreBuilder(path) as builder:
            builder.add(0, 0, {"observation": rows})

    return write


def main() -> None:
    """Interrupt the call that the command line names, a tenth of a second after it has begun."""
    calls = {
        "gather": lambda path: gather(path, "mmap"),
        "gather from files": lambda path: gather(path, "pread"),
        "verify": verify,
        "open in memory": open_in_memory,
        "build": build,
    }
    # A shell has its background jobs ignore it, and so would this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    call = calls[sys.argv[1]](Path(sys.argv[2]))
    caller = os.getpid()
    read_end, write_end = os.pipe()
    # From outside, as a terminal does it: a thread of this process would have to wait for the interpreter.
    if os.fork() == 0:
        time.sleep(0.1)
        os.write(write_end, json.dumps(time.monotonic()).encode())
        os.kill(caller, signal.SIGINT)
        os._exit(0)
    try:
        call()
        print(json.dumps(None))
        os.wait()
    except KeyboardInterrupt:
        print(json.dumps(time.monotonic() - json.loads(os.read(read_end, 100))))


if __name__ == "__main__":
    main()
