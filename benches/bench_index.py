"""What must not grow with the number of rows: segment table only, no data."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import numpy as np
import pytest
from iltools_datasets import Segment, Segments, _core
from iltools_datasets import torchrl as ours
from race import Row, figure, show, timed

ROWS = (1_000_000, 10_000_000, 100_000_000, 346_000_000)


class Rows:
    """A storage of so many rows and no data."""

    ndim = 1
    device = None

    def __init__(self, count: int) -> None:
        self.shape = (count,)

    def __len__(self) -> int:
        return self.shape[0]


def segments(rows: int) -> Segments:
    clip = 1000
    return Segments.from_segments([Segment(0, k, k * clip, clip) for k in range(rows // clip)])


def test_first_sample_of_a_shuffle(record: Any) -> None:
    for rows in (ROWS[0], ROWS[-1]):
        spent = []
        for seed in range(9):
            sampler = ours.SamplerWithoutReplacement(seed=seed)
            start = time.perf_counter()
            index, _ = sampler.sample(Rows(rows), 256)
            spent.append((time.perf_counter() - start) * 1e3)
            assert len(np.unique(index.numpy())) == 256
        record(figure(f"first sample of a shuffle, {rows // 1_000_000} M rows", "cold", spent, 1, "ms"))
    size = len(json.dumps(sampler.state_dict())) / 1024
    record(figure("size of its state", f"{ROWS[-1] // 1_000_000} M rows", [size], 1, "KB"))


@pytest.mark.parametrize("sampler", ["SliceSampler", "EveryWindowSampler"])
def test_slice_index_does_not_grow(record: Any, sampler: str) -> None:
    tables = {rows: segments(rows) for rows in ROWS}

    def make(rows: int) -> Any:
        if sampler == "SliceSampler":
            made = ours.SliceSampler(slice_len=32, segments=tables[rows], cache_values=True)
        else:
            made = ours.EveryWindowSampler(32, segments=tables[rows])
        made.sample(Rows(rows), 4096 * 32)
        return made

    samplers = {rows: make(rows) for rows in ROWS}
    spent: dict[int, list[float]] = {rows: [] for rows in ROWS}
    for _ in range(9):
        for rows in ROWS:
            storage = Rows(rows)
            spent[rows].append(timed(lambda: samplers[rows].sample(storage, 4096 * 32), 5))  # noqa: B023
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
                1.5,
                "",
                False,
            )
        )


def test_shuffle_index(record: Any) -> None:
    """Nanoseconds per index, for the log; what it must stay under follows from the batches' targets."""
    shuffle = _core.EpochShuffle(1_000_000, 1)
    values = [timed(lambda: shuffle.next(32768), 20) / 32768 * 1e9 for _ in range(9)]
    record(figure("one index of a shuffle", "tight loop", values, 20, "ns"))
