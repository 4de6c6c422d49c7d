"""`TensorDictReplayBuffer.sample()`: TorchRL's buffer over our storage, our buffer, and batches made ahead."""

from __future__ import annotations

import concurrent.futures
import functools
import time
from typing import Any

import numpy as np
import pytest
import torch
import torchrl.data as peer
from iltools_datasets import TrajectoryStore
from iltools_datasets import torchrl as ours
from race import SITUATIONS, Row, race, show, timed
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


def busy(span: float, sizes: set[int]) -> Any:
    """A step that takes `span` seconds on one core; batches must be of one of the sizes."""
    matrix = np.ones((96, 96), np.float32)

    def step(batch: Any) -> None:
        end = time.perf_counter() + span
        while time.perf_counter() < end:
            matrix @ matrix
        assert len(batch["index"]) in sizes

    return step


@pytest.mark.parametrize("longer_than", ["our", "TorchRL's"])
@pytest.mark.parametrize("size", BATCHES)
def test_waiting_for_a_batch_made_ahead(
    record: Any,
    store: TrajectoryStore,
    peer_storage: Any,
    transitions: Any,
    size: int,
    longer_than: str,
    quick: bool,
) -> None:
    """What a loop waits beside a step that is longer than the gather, by half.

    Ours, made ahead, has one thread; TorchRL's way has as many as torch.
    """
    kind, storage = ours.TensorDictReplayBuffer, ours.TrajectoryStorage(store)
    mine = buffer(kind, storage, ours.SamplerWithoutReplacement(), batch_size=size, prefetch=2)
    other = theirs(peer_storage, batch_size=size, prefetch=2)
    one_thread = ours.TrajectoryStorage(TrajectoryStore.open(store.path, num_threads=1))
    plain = {"our": buffer(kind, one_thread, ours.SamplerWithoutReplacement()), "TorchRL's": theirs(peer_storage)}
    gather = functools.partial(plain[longer_than].sample, size)
    timed(gather, 10)
    step = busy(1.5 * min(timed(gather, 10) for _ in range(5)), {size, len(store) % size})

    rounds, per_round = (3, 50) if quick else (5, 200)
    pairs = []
    for _ in range(rounds):
        pairs.append((waits(mine, step, per_round), waits(other, step, per_round)))
        # Its threads still make batches, which are nobody's wait.
        concurrent.futures.wait(other._prefetch_queue)
    ahead, threads = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    check(mine.sample(), transitions)
    for percent, limit in ((50, 100), (99, 1000)):
        mine_at, theirs_at = (float(np.percentile(waited, percent)) for waited in (ahead, threads))
        values = [float(np.percentile(pair[0], percent)) * 1e6 for pair in pairs]
        ratios = [float(np.percentile(b, percent) / np.percentile(a, percent)) for a, b in pairs]
        workload, situation = f"wait per batch, prefetch=2, {size}, p{percent}", f"step > {longer_than} gather"
        shown = (show(mine_at), show(theirs_at))
        wait = (mine_at * 1e6, min(values), max(values))
        record(Row(workload, situation, *shown, *wait, limit, "µs", False), gated=False)
        ratio = (theirs_at / mine_at, min(ratios), max(ratios))
        record(Row(f"{workload}, against TorchRL's", situation, *shown, *ratio, 10), gated=False)
