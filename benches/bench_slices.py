"""Slices of trajectories against TorchRL's slice samplers, and TorchRL's own benchmark workloads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchrl.data as peer
from iltools_datasets import TrajectoryStore
from iltools_datasets import torchrl as ours
from race import asked, race, situations
from tensordict import TensorDict
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter


def check(batch: Any, transitions: Any) -> None:
    """Rows are what their indices say, and slices are runs of one trajectory."""
    expected = transitions[batch["index"].reshape(-1)]
    assert torch.equal(batch["observation"], expected["observation"])
    assert torch.equal(batch["next", "observation"], expected["next", "observation"])


@pytest.mark.parametrize("situation", situations("after a rest", "after a torch op"))
@pytest.mark.parametrize(
    ("slices", "length", "cached", "target"),
    [(64, 32, True, 8), (256, 4, True, 10), (4096, 32, True, 10), (4096, 32, False, 10)],
)
def test_slices(
    record: Any,
    store: TrajectoryStore,
    peer_storage: Any,
    transitions: Any,
    situation: str,
    slices: int,
    length: int,
    cached: bool,
    target: float,
) -> None:
    mine = ours.TensorDictReplayBuffer(
        storage=ours.TrajectoryStorage(store),
        sampler=ours.SliceSampler(slice_len=length, cache_values=cached),
        writer=ImmutableDatasetWriter(),
        batch_size=slices * length,
    )
    other = peer.TensorDictReplayBuffer(
        storage=peer_storage,
        sampler=peer.SliceSampler(slice_len=length, end_key=("next", "done"), cache_values=cached),
        writer=ImmutableDatasetWriter(),
        batch_size=slices * length,
    )
    batch, expected = mine.sample(), other.sample()
    check(batch, transitions)
    assert set(batch.keys(True, True)) == set(expected.keys(True, True))
    rows = batch["index"].reshape(slices, length)
    assert (rows.diff(dim=1) == 1).all()
    assert batch["next", "truncated"].reshape(slices, length)[:, -1].all()
    boundaries = "cached" if cached else "not cached"
    name = f"slices {slices} x {length}, boundaries {boundaries}"
    # As in `bench_sampling.test_our_buffer`.
    gated = situation == "tight loop" or slices == 4096 or (length == 32 and situation == "after a torch op")
    record(lambda: race(name, situation, mine.sample, other.sample, asked(target, situation), rounds=7), gated)


@pytest.fixture(scope="module")
def pixels(data_dir: Path, quick: bool) -> Iterator[tuple[Any, Any]]:
    """TorchRL's own benchmark data: rows of (5,) f32 and (3, 32, 32) uint8, in TorchRL's storage and in ours."""
    count = 100_000 if quick else 1_000_000
    scratch = data_dir / "pixels"
    shutil.rmtree(scratch, ignore_errors=True)
    storages = []
    for kind, name in ((peer.LazyMemmapStorage, "peer"), (ours.LazyMemmapStorage, "ours")):
        storage = kind(count, scratch_dir=scratch / name)
        for start in range(0, count, 50_000):
            index = torch.arange(start, start + 50_000)
            done = ((index + 1) % 1000 == 0).unsqueeze(1)
            rows = {
                "obs": index.float().unsqueeze(1).expand(-1, 5).contiguous(),
                "pixels": (index % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous(),
                "next": {"done": done},
            }
            storage.set(range(start, start + 50_000), TensorDict(rows, [50_000]))
        storages.append(storage)
    yield storages[0], storages[1]
    shutil.rmtree(scratch, ignore_errors=True)


def workload(module: Any, kind: str) -> tuple[Any, int]:
    if kind == "256 rows":
        return module.SamplerWithoutReplacement(), 256
    num_slices, length = (8, 32) if kind == "8 slices of 32" else (256, 4)
    return module.SliceSampler(num_slices=num_slices, end_key=("next", "done"), cache_values=True), num_slices * length


@pytest.mark.parametrize("situation", situations())
@pytest.mark.parametrize("kind", ["256 rows", "8 slices of 32", "256 slices of 4"])
def test_torchrls_own_workloads(record: Any, pixels: tuple[Any, Any], kind: str, situation: str) -> None:
    theirs, mine = pixels
    sampler, size = workload(peer, kind)
    other = peer.TensorDictReplayBuffer(storage=theirs, sampler=sampler, batch_size=size)
    sampler, size = workload(ours, kind)
    changed = ours.TensorDictReplayBuffer(storage=mine, sampler=sampler, batch_size=size)
    batch = changed.sample()
    index = batch["index"].reshape(-1)
    assert torch.equal(batch["obs"][:, 0].long(), index)
    assert torch.equal(batch["pixels"][:, 0, 0, 0].long(), index % 251)
    assert set(batch.keys(True, True)) >= {"obs", "pixels", ("next", "done")}
    record(
        lambda: race(
            f"TorchRL's workload: {kind}, imports changed", situation, changed.sample, other.sample, 1, rounds=7
        )
    )
