"""`TensorDictReplayBuffer.sample()`: TorchRL's buffer over our storage, our buffer, and batches made ahead."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
import torchrl.data as peer
from iltools_datasets import TrajectoryStore
from iltools_datasets import torchrl as ours
from race import SITUATIONS, Row, race, show
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

BATCHES = (256, 4096, 32768)


def buffer(kind: Any, storage: Any, sampler: Any, **options: Any) -> Any:
    return kind(storage=storage, sampler=sampler, writer=ImmutableDatasetWriter(), **options)


def theirs(peer_storage: Any, **options: Any) -> Any:
    return buffer(peer.TensorDictReplayBuffer, peer_storage, peer.SamplerWithoutReplacement(), **options)


def check(batch: Any, transitions: Any) -> None:
    """The batch is what its indices say, bit for bit."""
    expected = transitions[batch["index"]]
    for key in expected.keys(True, True):
        assert torch.equal(batch[key], expected[key]), key


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize(("size", "target"), list(zip(BATCHES, (2, 3, 3), strict=True)))
def test_torchrl_buffer_unchanged(
    record: Any, store: TrajectoryStore, peer_storage: Any, transitions: Any, size: int, target: float, situation: str
) -> None:
    mine = buffer(peer.TensorDictReplayBuffer, ours.TrajectoryStorage(store), ours.SamplerWithoutReplacement())
    other = theirs(peer_storage)
    check(mine.sample(size), transitions)
    name = f"TorchRL's buffer, our storage and sampler, {size}"
    record(lambda: race(name, situation, lambda: mine.sample(size), lambda: other.sample(size), target))
    check(mine.sample(size), transitions)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize(("size", "target"), list(zip(BATCHES, (4, 4, 3.5), strict=True)))
def test_our_buffer(
    benchmark: Any,
    record: Any,
    store: TrajectoryStore,
    peer_storage: Any,
    transitions: Any,
    size: int,
    target: float,
    situation: str,
) -> None:
    from iltools_datasets.replay_manager import ExpertReplayManager

    mgr = ExpertReplayManager.from_store(store)
    mgr.set_uniform_sampler(size)
    other = theirs(peer_storage)
    check(mgr.buffer.sample(), transitions)
    record(lambda: race(f"mgr.buffer, {size}", situation, mgr.buffer.sample, lambda: other.sample(size), target))
    check(mgr.buffer.sample(), transitions)
    benchmark.pedantic(mgr.buffer.sample, rounds=20, warmup_rounds=2)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_only_the_import_changed(
    record: Any, peer_storage: Any, transitions: Any, situation: str, tmp_path: Any
) -> None:
    storage = ours.LazyMemmapStorage(len(transitions), scratch_dir=tmp_path / "scratch")
    mine = peer.TensorDictReplayBuffer(storage=storage, sampler=peer.RandomSampler())
    mine.extend(transitions)
    other = buffer(peer.TensorDictReplayBuffer, peer_storage, peer.RandomSampler())
    check(mine.sample(4096).exclude("index_generation"), transitions)
    name = "LazyMemmapStorage, import changed, RandomSampler, 4096"
    record(lambda: race(name, situation, lambda: mine.sample(4096), lambda: other.sample(4096), 2.5))


def waits(rb: Any, step: Any, count: int) -> np.ndarray:
    """Seconds that a loop waits for each batch, after a few to get going."""
    waited = []
    for _ in range(count + 5):
        start = time.perf_counter()
        batch = rb.sample()
        waited.append(time.perf_counter() - start)
        step(batch)
    return np.array(waited[5:])


@pytest.mark.parametrize("size", BATCHES)
def test_waiting_for_a_batch_made_ahead(
    record: Any, store: TrajectoryStore, peer_storage: Any, transitions: Any, size: int, quick: bool
) -> None:
    mine = buffer(
        ours.TensorDictReplayBuffer,
        ours.TrajectoryStorage(store),
        ours.SamplerWithoutReplacement(),
        batch_size=size,
        prefetch=2,
    )
    other = theirs(peer_storage, batch_size=size, prefetch=2)
    # A step on one core that is longer than either gather.
    span = {256: 0.002, 4096: 0.008, 32768: 0.06}[size]

    def step(batch: Any) -> None:
        end = time.perf_counter() + span
        matrix = np.ones((96, 96), np.float32)
        while time.perf_counter() < end:
            matrix @ matrix
        assert len(batch["index"]) == size or len(batch["index"]) == len(store) % size

    count = 100 if quick else 300
    rounds = [(waits(mine, step, count // 3), waits(other, step, count // 3)) for _ in range(3)]
    ahead = np.concatenate([pair[0] for pair in rounds])
    threads = np.concatenate([pair[1] for pair in rounds])
    check(mine.sample(), transitions)
    for percent, limit in ((50, 100), (99, 1000)):
        values = [float(np.percentile(pair[0], percent)) * 1e6 for pair in rounds]
        value, theirs_value = (float(np.percentile(all_, percent)) for all_ in (ahead, threads))
        workload = f"wait per batch, prefetch=2, {size}, p{percent}"
        record(
            Row(
                workload,
                "step > gather",
                show(value),
                show(theirs_value),
                value * 1e6,
                min(values),
                max(values),
                limit,
                "µs",
                False,
            ),
            gated=False,
        )
        ratios = [float(np.percentile(b, percent) / np.percentile(a, percent)) for a, b in rounds]
        record(
            Row(
                f"{workload}, against TorchRL's",
                "step > gather",
                show(value),
                show(theirs_value),
                theirs_value / value,
                min(ratios),
                max(ratios),
                10,
            ),
            gated=False,
        )
