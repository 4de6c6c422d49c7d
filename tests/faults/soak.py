"""A long run: memory, descriptors and threads of a process that draws batch after batch must stay where they are.

`make soak`, or `python tests/faults/soak.py --batches 1000000`. Batches come in turn from every backend, as rows and as
windows, small ones and ones above the parallel threshold, through the store and (where torch is installed) through a
prefetching replay buffer; now and then the store is opened again, verified, pickled and rebuilt under its readers.
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from iltools_datasets import TrajectoryStore, _core, verify_store
from stores import build_store, make_clips

LENGTHS = [3000, 500, 4001, 2]
SMALL, LARGE = 32, 40_000
WARM_UP = 0.1
"""Share of the batches after which what is in use counts as usual."""
ALLOWED_KILOBYTES = 32 * 1024
"""Growth of anonymous memory that is allowed. A leak of 64 bytes per batch would be twice that after a million."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds: anonymous resident memory in kB, open descriptors, threads."""

    anonymous: int
    descriptors: int
    threads: int


def usage() -> Usage:
    """Return what this process holds now, the memory that is kept for re-use left out."""
    gc.collect()
    _core.release_memory()
    status = Path("/proc/self/status").read_text()
    anonymous = int(status.partition("RssAnon:")[2].split()[0])
    return Usage(anonymous, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")))  # noqa: PTH208


def buffer_over(path: Path) -> Callable[[], object] | None:
    """Return a way to draw from a prefetching buffer, None without torch."""
    try:
        from iltools_datasets.torchrl import SamplerWithoutReplacement, TensorDictReplayBuffer, TrajectoryStorage
    except ImportError:
        return None
    buffer = TensorDictReplayBuffer(
        storage=TrajectoryStorage(TrajectoryStore.open(path)),
        sampler=SamplerWithoutReplacement(seed=0),
        batch_size=SMALL,
        prefetch=2,
    )
    return lambda: buffer.sample()


def batches(path: Path) -> Iterator[None]:
    """Draw batches for ever, one per step."""
    rng = np.random.default_rng(0)
    number = 0
    while True:
        build_store(path, make_clips(LENGTHS, seed=number), overwrite=True)
        stores = [TrajectoryStore.open(path, backend, num_threads=2) for backend in ("mmap", "ram", "pread")]
        drawn = _core.EpochShuffle(len(stores[0]), number)
        sample = buffer_over(path)
        # A rebuild after 50,000 batches; until then all kinds in turn.
        for _ in range(50_000):
            number += 1
            store = stores[number % 3]
            if number % 5000 == 0:
                large = store.gather(rng.integers(0, len(store), LARGE))
                assert len(large["observation"]) == LARGE
            elif number % 7 == 0:
                store.windows([0, 1, 2], [number % 100, 5, 0], 16, "mask")
            elif number % 8 == 0 and sample is not None:
                sample()
            else:
                store.gather(drawn.next(SMALL))
            if number % 2500 == 0:
                stores[number // 2500 % 3] = pickle.loads(pickle.dumps(store))
                stores.sort(key=lambda each: each.core.backend)
            if number % 25_000 == 0:
                assert verify_store(path) == []
            yield


def run(count: int, path: Path, say: Callable[[str], None]) -> tuple[Usage, Usage]:
    """Draw that many batches; return the usual usage and the largest after that."""
    begin = time.monotonic()
    usual: Usage | None = None
    peaks: list[Usage] = []
    for number, _ in enumerate(batches(path), start=1):
        if number % max(1, count // 50) == 0:
            now = usage()
            if number >= WARM_UP * count:
                usual = usual or now
                peaks.append(now)
            if number % max(1, count // 10) == 0:
                say(f"{number:9,} batches {time.monotonic() - begin:6.0f} s  {now}")
        if number == count:
            break
    assert usual is not None
    largest = Usage(
        max(peak.anonymous for peak in peaks),
        max(peak.descriptors for peak in peaks),
        max(peak.threads for peak in peaks),
    )
    return usual, largest


def within_bounds(usual: Usage, largest: Usage) -> bool:
    """Whether nothing has grown."""
    return (
        largest.anonymous <= usual.anonymous + ALLOWED_KILOBYTES
        and largest.descriptors <= usual.descriptors + 4
        and largest.threads <= usual.threads + 4
    )


def main() -> None:
    """Draw batches, print figures, exit with 1 if something has grown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        usual, largest = run(arguments.batches, Path(directory) / "store", print)
    print(f"usual   {usual}\nlargest {largest}")
    sys.exit(not within_bounds(usual, largest))


if __name__ == "__main__":
    main()
