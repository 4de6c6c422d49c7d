"""What each process of `torchrun` does in the tests: draw a part of an epoch, save, or go on from what was saved.

`torchrun --nproc-per-node N train.py STORE OUT BATCH_SIZE ROUNDS [STATES]` writes `OUT/rank<r>.json`: for each kind of
sampler the rows drawn, step by step, and the state after them. Rounds of 0 mean until the epoch is over.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from iltools_datasets import TrajectoryStore
from iltools_datasets.ranks import shared_seed, torch_rank
from iltools_datasets.replay_manager import ExpertReplayManager
from iltools_datasets.torchrl import (
    EveryWindowSampler,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
    TrajectoryStorage,
)
from torchrl.data import ImmutableDatasetWriter

WINDOW = 2
KINDS = ("transitions", "windows", "manager")


def buffer_of(kind: str, store: TrajectoryStore, batch_size: int, seed: int) -> TensorDictReplayBuffer:
    if kind == "manager":
        options = {"sample_batch_size": batch_size, "prefetch": 2}
        return ExpertReplayManager.from_store(store, **options, seed=seed, **torch_rank()).buffer
    sampler: Any
    if kind == "windows":
        sampler = EveryWindowSampler(WINDOW, seed=seed, **torch_rank())
    else:
        sampler = SamplerWithoutReplacement(seed=seed, **torch_rank())
    return TensorDictReplayBuffer(
        storage=TrajectoryStorage(store),
        sampler=sampler,
        writer=ImmutableDatasetWriter(),
        batch_size=batch_size,
        prefetch=2,
    )


def draw(rb: TensorDictReplayBuffer, rounds: int) -> list[list[int]]:
    drawn: list[list[int]] = []
    over = False
    while len(drawn) < rounds if rounds else not over:
        drawn.append(rb.sample()["index"].reshape(-1).tolist())
        over = rb.sampler.ran_out or len(drawn) == 1000
        steps = [None] * dist.get_world_size()
        dist.all_gather_object(steps, (len(drawn), over))
        assert len(set(steps)) == 1, steps
    return drawn


def main(store: str, out: str, batch_size: str, rounds: str, states: str | None = None) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(1000 + dist.get_rank())  # so the seed is the same only because it is shared
    seed = shared_seed()
    saved = None if states is None else json.loads(Path(states).read_text())
    results: dict[str, Any] = {"seed": seed}
    for kind in KINDS:
        rb = buffer_of(kind, TrajectoryStore.open(store), int(batch_size), seed)
        if saved is not None:
            rb.sampler.load_state_dict(saved[kind]["state"])
        # The manager's sampler never runs out.
        count = int(rounds) or (0 if kind != "manager" else 6)
        results[kind] = {"drawn": draw(rb, count), "state": rb.sampler.state_dict()}
    (Path(out) / f"rank{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo of torch 2.7 hangs now and then where a group is destroyed, without anything of ours


if __name__ == "__main__":
    main(*sys.argv[1:])
