"""The first batch after the page cache was dropped: a fresh process each time, over files nobody else has mapped."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from iltools_datasets import TrajectoryStore
from race import Row, show

FIRST_BATCH = """
import os, sys, time
from pathlib import Path
kind, path = sys.argv[1], Path(sys.argv[2])
import torch
from tensordict import TensorDict
from torchrl.data import SamplerWithoutReplacement, TensorDictReplayBuffer, TensorStorage
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter
from iltools_datasets import TrajectoryStore
from iltools_datasets.torchrl import SamplerWithoutReplacement as Ours, TrajectoryStorage
for file in path.rglob("*.memmap"):
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
if kind == "ours":
    storage, sampler = TrajectoryStorage(TrajectoryStore.open(path)), Ours(seed=0)
else:
    storage, sampler = TensorStorage(TensorDict.load_memmap(path)), SamplerWithoutReplacement()
buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, writer=ImmutableDatasetWriter())
start = time.perf_counter()
batch = buffer.sample(4096)
assert len(batch) == 4096
print(time.perf_counter() - start)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "posix_fadvise"), reason="needs posix_fadvise")
def test_first_batch_from_disk(record: Any, store: TrajectoryStore, transitions: Any, data_dir: Path) -> None:
    paths = {"ours": data_dir / "cold-ours", "peer": data_dir / "cold-peer"}
    for path in paths.values():
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(store.path, paths["ours"])
    transitions.memmap(paths["peer"], copy_existing=True)
    spent: dict[str, list[float]] = {kind: [] for kind in paths}
    for _ in range(5):
        for kind, path in paths.items():
            command = [sys.executable, "-c", FIRST_BATCH, kind, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            spent[kind].append(float(done.stdout.split()[-1]))
    ratios = [peer / ours for ours, peer in zip(spent["ours"], spent["peer"], strict=True)]
    middle = {kind: show(statistics.median(values)) for kind, values in spent.items()}
    record(
        Row(
            "first batch of 4096, page cache dropped",
            "cold, first call",
            middle["ours"],
            middle["peer"],
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            1,
        ),
        gated=False,
    )
    for path in paths.values():
        shutil.rmtree(path)
