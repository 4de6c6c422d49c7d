"""Draws in the workers of a torch DataLoader: `python loader_workers.py METHOD STORE` checks what comes out.

A script, as spawned workers import what they are given.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from iltools_datasets import EnvAssignment, TrajectoryStore
from iltools_datasets import torchrl as ours
from iltools_datasets.replay_manager import ExpertReplayManager
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

WORKERS, SIZE, BATCHES = 3, 12, 6
Batch = tuple[str, int, list[int]]


class Streams(IterableDataset):
    """Some batches, or an epoch, of each buffer, with the worker's number."""

    def __init__(self, buffers: dict[str, Any]) -> None:
        self.buffers = buffers

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info().id
        for name, rb in self.buffers.items():
            if "epoch" in name:
                yield from ((name, worker, rows(batch)) for batch in rb)
            else:
                yield from ((name, worker, rows(rb.sample())) for _ in range(BATCHES))


def rows(batch: Any) -> list[int]:
    return batch["index"].reshape(-1).tolist()


def buffers_over(store: TrajectoryStore) -> dict[str, Any]:
    """Buffers by name; "epoch" ends with one, "with" draws with replacement, "seeded" has a stream of its own."""

    def over(sampler: Any, **options: Any) -> Any:
        storage = ours.TrajectoryStorage(store)
        return ours.TensorDictReplayBuffer(
            storage=storage, sampler=sampler, writer=ImmutableDatasetWriter(), batch_size=SIZE, **options
        )

    def managed(**options: Any) -> Any:
        return ExpertReplayManager.from_store(store, sample_batch_size=SIZE, **options).buffer

    return {
        "with": over(ours.RandomSampler()),
        "with, a generator": over(ours.RandomSampler(), generator=torch.Generator().manual_seed(3)),
        "with, seeded": over(ours.RandomSampler(seed=1)),
        "with, prefetching": over(ours.RandomSampler(seed=2), prefetch=2),
        "with, slices": over(ours.SliceSampler(slice_len=2)),
        "with, slices, seeded": over(ours.SliceSampler(slice_len=2, seed=5)),
        "with, manager": managed(seed=4),
        "epoch": over(ours.SamplerWithoutReplacement()),
        "epoch, a generator": over(ours.SamplerWithoutReplacement(), generator=torch.Generator().manual_seed(3)),
        "epoch, seeded": over(ours.SamplerWithoutReplacement(seed=1), prefetch=2),
        "epoch, windows": over(ours.EveryWindowSampler(2)),
        "epoch, manager": managed(),
        "epoch, manager, seeded": managed(seed=1),
    }


def load(buffers: dict[str, Any], method: str, **options: Any) -> list[Batch]:
    loader = DataLoader(
        Streams(buffers), batch_size=None, num_workers=WORKERS, multiprocessing_context=method, **options
    )
    return list(loader)


def of(batches: list[Batch], name: str, worker: int) -> list[list[int]]:
    return [index for found, at, index in batches if (found, at) == (name, worker)]


def check(batches: list[Batch], before: dict[str, Counter[int]], store: TrajectoryStore, windows: int) -> None:
    """Nothing was drawn twice; epochs came whole, or what `before` had left of them."""
    for name, drawn in before.items():
        each = [of(batches, name, worker) for worker in range(WORKERS)]
        if "epoch" not in name:
            every = [tuple(index) for worker in each for index in worker]
            assert len(set(every)) == WORKERS * BATCHES, name
            continue
        seen = Counter(row for worker in each for index in worker for row in index)
        if "windows" in name:
            assert sum(seen.values()) == 2 * windows, name
            pairs = [index[i : i + 2] for worker in each for index in worker for i in range(0, len(index), 2)]
            assert len({tuple(pair) for pair in pairs}) == windows, name
        elif "manager" in name:
            # Exact batches go on into the next epoch.
            assert set(seen) >= set(range(len(store))) - set(drawn), name
            assert max(seen.values()) <= 2, name
        else:
            rest = Counter(range(len(store))) - (drawn if "seeded" in name else Counter())
            assert seen == rest, (name, seen - rest, rest - seen)
        lengths = [sum(map(len, worker)) for worker in each]
        assert max(lengths) - min(lengths) <= SIZE, name


def main(method: str, path: Path) -> None:
    """Draw in workers what was and what was not sampled before, twice."""
    store = TrajectoryStore.open(path)
    windows = ours.EveryWindowSampler(2).num_windows(ours.TrajectoryStorage(store))
    fresh, used = buffers_over(store), buffers_over(store)
    drawn = {name: Counter(rows(rb.sample())) for name, rb in used.items()}
    both = {**{f"fresh {name}": rb for name, rb in fresh.items()}, **{f"used {name}": rb for name, rb in used.items()}}
    march, steps = marching(store)
    before = {**{f"fresh {name}": Counter() for name in fresh}, **{f"used {name}": drawn[name] for name in used}}
    multiprocessing.set_forkserver_preload(["loader_workers"])  # once for all workers, as fork has it
    passes = [load({**both, "march": march}, method) for _ in range(2)]
    for batches in passes:
        check(batches, before, store, windows)
        # A loader's workers take the steps of a march in turn.
        assert [of(batches, "march", worker) for worker in range(WORKERS)] == [
            steps[worker::WORKERS] for worker in range(WORKERS)
        ]
    for name in before:
        first, second = ([of(batches, name, worker) for worker in range(WORKERS)] for batches in passes)
        # A seed fixes the stream; without one each pass over a loader is another.
        assert (first == second) == ("seeded" in name or "prefetching" in name or "with, manager" in name), name
    print("drawn in workers by", method)


def marching(store: TrajectoryStore) -> tuple[Any, list[list[int]]]:
    """A buffer that marches through assignments, and the rows of its steps, the first one left out."""
    mgr, plain = ExpertReplayManager.from_store(store), ExpertReplayManager.from_store(store)
    for each in (mgr, plain):
        each.set_assignment([EnvAssignment(0, k % 3, 5 * k) for k in range(4)])
        each.buffer.sample()
    return mgr.buffer, [rows(plain.buffer.sample()) for _ in range(WORKERS * BATCHES)]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
