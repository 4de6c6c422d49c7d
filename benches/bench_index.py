"""What must not grow with the number of rows: segment table only, no data."""

from __future__ import annotations

import json
import statistics
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from iltools_datasets import Segments, _core
from iltools_datasets import torchrl as ours
from race import Row, figure, show, timed

ROWS = (1_000_000, 10_000_000, 100_000_000, 346_000_000)


class Rows(ours.TrajectoryStorage):
    """A storage of trajectories of 1,000 rows each, and no data."""

    ndim = 1
    device = None
    uuid = "none"
    _compilable = False

    def __init__(self, count: int) -> None:
        starts = np.arange(0, count, 1000)
        table = _core.SegmentTable(np.zeros_like(starts), np.arange(len(starts)), starts, np.full_like(starts, 1000))
        self.store = SimpleNamespace(
            segments=Segments(table), keys=[], core=None, num_threads=None, field_ids=lambda keys: []
        )
        self._known, self._plain_flags, self._bfloat16 = {}, {}, []
        self.count = count

    @property
    def shape(self) -> torch.Size:
        return torch.Size([self.count])

    def __len__(self) -> int:
        return self.count


def test_first_sample_of_a_shuffle(record: Any) -> None:
    for rows in (ROWS[0], ROWS[-1]):
        spent = []
        storage = Rows(rows)
        for seed in range(9):
            sampler = ours.SamplerWithoutReplacement(seed=seed)
            start = time.perf_counter()
            index, _ = sampler.sample(storage, 256)
            spent.append((time.perf_counter() - start) * 1e3)
            assert len(np.unique(index.numpy())) == 256
        record(figure(f"first sample of a shuffle, {rows // 1_000_000} M rows", "cold", spent, 0.1, "ms"))
    size = len(json.dumps(sampler.state_dict())) / 1024
    record(figure("size of its state", f"{ROWS[-1] // 1_000_000} M rows", [size], 0.5, "KB"))


@pytest.mark.parametrize("sampler", ["SliceSampler", "EveryWindowSampler"])
def test_slice_index_does_not_grow(record: Any, sampler: str) -> None:
    storages = {rows: Rows(rows) for rows in ROWS}

    def make(rows: int) -> Any:
        made = getattr(ours, sampler)(slice_len=32, truncated_key=None)
        index, _ = made.sample(storages[rows], 4096 * 32)
        slices = index[0].reshape(-1, 32)
        assert (slices.diff(dim=1) == 1).all()
        assert (slices[:, 0] // 1000 == slices[:, -1] // 1000).all()
        assert slices.max() < rows
        return made

    samplers = {rows: make(rows) for rows in ROWS}
    spent: dict[int, list[float]] = {rows: [] for rows in ROWS}
    for _ in range(9):
        for rows in ROWS:
            draw = partial(samplers[rows].sample, storages[rows], 4096 * 32)
            spent[rows].append(timed(draw, 5))
    least = spent[ROWS[0]]
    for rows in ROWS[1:]:
        ratios = [large / small for large, small in zip(spent[rows], least, strict=True)]
        record(
            Row(
                f"{sampler}, index of 4096 slices of 32, {rows // 1_000_000} M rows ÷ 1 M",
                "tight loop",
                show(statistics.median(spent[rows])),
                show(statistics.median(least)),
                statistics.median(ratios),
                min(ratios),
                max(ratios),
                1.3,
                "",
                False,
            ),
        )


def test_shuffle_index(record: Any) -> None:
    """Nanoseconds per index, for the log; what it must stay under follows from the batches' targets."""
    shuffle = _core.EpochShuffle(1_000_000, 1)
    values = [timed(lambda: shuffle.next(32768), 20) / 32768 * 1e9 for _ in range(9)]
    record(figure("one index of a shuffle", "tight loop", values, 20, "ns"))
