"""`TensorDictReplayBuffer.sample()`: TorchRL's buffer over our storage, our buffer, and batches made ahead."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import time
from typing import Any

import numpy as np
import pytest
import torch
import torchrl.data as peer
from iltools_datasets import TrajectoryStore
from iltools_datasets import torchrl as ours
from race import Row, asked, race, show, situations, timed
from tensordict import TensorDict
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

BATCHES = (256, 4096, 32768)


def buffer(kind: Any, storage: Any, sampler: Any, **options: Any) -> Any:
    return kind(storage=storage, sampler=sampler, writer=ImmutableDatasetWriter(), **options)


def theirs(peer_storage: Any, **options: Any) -> Any:
    return buffer(peer.TensorDictReplayBuffer, peer_storage, peer.SamplerWithoutReplacement(), **options)


def check(batch: Any, transitions: Any, told: Any = ()) -> None:
    """The batch is what its indices say, bit for bit, but for what the sampler has told of it."""
    expected = transitions[batch["index"].reshape(-1)]
    for key in set(expected.keys(True, True)) - set(told):
        assert torch.equal(batch[key], expected[key]), key


@pytest.mark.parametrize("situation", situations("after a torch op"))
@pytest.mark.parametrize(("size", "target"), list(zip(BATCHES, (5, 7, 7), strict=True)))
def test_torchrl_buffer_unchanged(
    record: Any, store: TrajectoryStore, peer_storage: Any, transitions: Any, size: int, target: float, situation: str
) -> None:
    mine = buffer(peer.TensorDictReplayBuffer, ours.TrajectoryStorage(store), ours.SamplerWithoutReplacement())
    other = theirs(peer_storage)
    check(mine.sample(size), transitions)
    name = f"TorchRL's buffer, our storage and sampler, {size}"
    wanted = asked(target, situation)
    # What TorchRL's buffer takes around any storage is more than a fifth of its time at 256; of `--quick` data a tight
    # loop of 32,768 finds much in the caches, which is the peer's gain.
    gated = size == 4096 or (size == 32768 and situation != "tight loop")
    record(lambda: race(name, situation, lambda: mine.sample(size), lambda: other.sample(size), wanted), gated)
    check(mine.sample(size), transitions)


@pytest.mark.parametrize("situation", situations("after a rest", "after a torch op"))
@pytest.mark.parametrize(("size", "target"), list(zip(BATCHES, (6, 8, 7), strict=True)))
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
    wanted = asked(target, situation)
    # After a rest, what memory and interpreter take that find nothing in the caches is most of a small batch.
    kept = {256: ["tight loop"], 4096: ["tight loop", "after a torch op"], 32768: ["after a rest", "after a torch op"]}
    gated = situation in kept[size]
    measure = functools.partial(race, f"mgr.buffer, {size}", situation, mgr.buffer.sample)
    record(lambda: measure(lambda: other.sample(size), wanted), gated)
    check(mgr.buffer.sample(), transitions)
    benchmark.pedantic(mgr.buffer.sample, rounds=20, warmup_rounds=2)


@pytest.mark.parametrize("situation", situations("after a torch op"))
def test_only_the_import_changed(
    record: Any, peer_storage: Any, transitions: Any, situation: str, tmp_path: Any
) -> None:
    storage = ours.LazyMemmapStorage(len(transitions), scratch_dir=tmp_path / "scratch")
    mine = peer.TensorDictReplayBuffer(storage=storage, sampler=peer.RandomSampler())
    mine.extend(transitions)
    other = buffer(peer.TensorDictReplayBuffer, peer_storage, peer.RandomSampler())
    check(mine.sample(4096).exclude("index_generation"), transitions)
    name = "LazyMemmapStorage, import changed, RandomSampler, 4096"
    wanted = 3.5 if situation == "after a torch op" else asked(4.5, situation)
    record(lambda: race(name, situation, lambda: mine.sample(4096), lambda: other.sample(4096), wanted))


def waits(take: Any, step: Any, count: int) -> np.ndarray:
    """Seconds that a loop waits for each batch, after a few to get going. What is no longer needed goes meanwhile."""
    waited, batch = [], None
    for _ in range(count + 5):
        before = batch
        start = time.perf_counter()
        batch = take()
        waited.append(time.perf_counter() - start)
        step(batch)
        del before
    return np.array(waited[5:])


def busy(span: float, sizes: set[int]) -> Any:
    """A step that takes `span` seconds on one core; batches must be of one of the sizes."""
    # Larger ones go to both cores, and threads of the BLAS library spin on the other one between them.
    matrix = np.ones((48, 48), np.float32)

    def step(batch: Any) -> None:
        end = time.perf_counter() + span
        while time.perf_counter() < end:
            matrix @ matrix
        assert len(batch["index"]) in sizes

    return step


def null(store: TrajectoryStore, size: int) -> Any:
    """The least that stands for taking a batch: arrays that lie ready, one of the index among them, as tensors in one
    TensorDict."""
    rng = np.random.default_rng(0)
    ready = []
    for _ in range(8):
        index = rng.integers(0, len(store), size)
        ready.append({str(key): array for key, array in store.gather(index).items()} | {"index": index})
    batches = itertools.cycle(ready)

    def take() -> TensorDict:
        return TensorDict({key: torch.from_numpy(array) for key, array in next(batches).items()}, [size])

    return take


@pytest.mark.parametrize("longer_than", ["our", "TorchRL's"])
@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize("of", ["rows", "slices of 32"])
def test_waiting_for_a_batch_made_ahead(
    record: Any,
    store: TrajectoryStore,
    peer_storage: Any,
    transitions: Any,
    of: str,
    size: int,
    longer_than: str,
    quick: bool,
) -> None:
    """What a loop waits beside a step that is longer than the gather, by half.

    Ours, made ahead, has one thread; TorchRL's way has as many as torch.
    """
    kind, storage = ours.TensorDictReplayBuffer, ours.TrajectoryStorage(store)

    def sampler(module: Any, **seed: int) -> Any:
        if of == "rows":
            return module.SamplerWithoutReplacement(**seed)
        return module.SliceSampler(slice_len=32, end_key=("next", "done"), cache_values=True, **seed)

    mine = buffer(kind, storage, sampler(ours, seed=0), batch_size=size, prefetch=2)
    other = buffer(peer.TensorDictReplayBuffer, peer_storage, sampler(peer), batch_size=size, prefetch=2)
    one_thread = ours.TrajectoryStorage(TrajectoryStore.open(store.path, num_threads=1))
    plain = {
        "our": buffer(kind, one_thread, sampler(ours)),
        "TorchRL's": buffer(peer.TensorDictReplayBuffer, peer_storage, sampler(peer)),
    }
    gather = functools.partial(plain[longer_than].sample, size)
    timed(gather, 10)
    step = busy(1.5 * min(timed(gather, 10) for _ in range(5)), {size, len(store) % size})
    least = null(store, size)

    rounds, per_round = (3, 50) if quick else (5, 200)
    named, situation = f"wait for {size}, {of}, made ahead", f"step > {longer_than} gather"
    sides = np.empty(0)

    def measure() -> Row:
        nonlocal sides
        found = []
        for _ in range(rounds):
            found.append([waits(take, step, per_round) for take in (mine.sample, least, other.sample)])
            # Its threads still make batches, which are nobody's wait.
            concurrent.futures.wait(other._prefetch_queue)
        sides = np.array(found).swapaxes(0, 1)
        shares = np.median(sides[0], axis=1) / np.median(sides[1], axis=1)
        ours_p50, least_p50 = np.median(sides[:2].reshape(2, -1), axis=1)
        share = (float(ours_p50 / least_p50), float(shares.min()), float(shares.max()))
        workload = f"{named}, p50 ÷ tensors of arrays that lie ready"
        return Row(workload, situation, show(ours_p50), show(least_p50), *share, 1.5, "x", False)

    record(measure, gated=of == "rows" and size < 32768)
    check(mine.sample(), transitions, told=[] if of == "rows" else [("next", "done")])
    for percent in (50, 99):
        mine_at, _, torchrl_at = np.percentile(sides.reshape(3, -1), percent, axis=1)
        ratios = np.divide(*np.percentile(sides[[2, 0]], percent, axis=2))
        ratio = (float(torchrl_at / mine_at), float(ratios.min()), float(ratios.max()))
        workload = f"{named}, p{percent}, against TorchRL's prefetch"
        record(Row(workload, situation, show(mine_at), show(torchrl_at), *ratio, 10), gated=False)
