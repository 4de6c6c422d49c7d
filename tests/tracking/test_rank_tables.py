"""Ranks hold the same table as one that saw everything, however the events were split and in whatever order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from iltools_datasets.errors import ArgumentError
from iltools_datasets.ranks import jax_sum
from iltools_datasets.tracking import Adaptive, MotionSampler
from tracking_cases import BINS

pytestmark = pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")
CONTROL_DT = 0.2


def together(samplers):
    """Sync ranks that live in one process: each gets the sum of all."""
    total = sum(sampler._tracker.since() for sampler in samplers)
    for sampler in samplers:
        sampler.sync(lambda counts: np.copyto(counts, total))


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("score", [None, lambda failures, passes, base: failures**2 / (1 + passes)])
def test_ranks_and_one_hold_the_same_table(world_store, world_size, score):
    adaptive = Adaptive(score=score)
    rng = np.random.default_rng(0)
    alone = MotionSampler(world_store, 240, CONTROL_DT, adaptive=adaptive)
    each = 240 // world_size
    ranks = [
        MotionSampler(world_store, each, CONTROL_DT, adaptive=adaptive, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(4):
        clip = rng.integers(0, 200, 240)
        time = rng.uniform(0, 4.0, 240)
        falls = rng.random((6, 240)) < 0.1
        alone.reset(clip=clip, time=time)
        for fell in falls:
            alone.report_failures(fell)
            alone.step()
        order = rng.permutation(240)
        for rank, sampler in enumerate(ranks):
            own = order[rank * each : (rank + 1) * each]
            sampler.reset(clip=clip[own], time=time[own])
            for fell in falls:
                sampler.report_failures(fell[own])
                sampler.step()
        alone.sync()
        together(ranks)
        for sampler in ranks:
            np.testing.assert_array_equal(sampler.probabilities(), alone.probabilities())
            np.testing.assert_array_equal(sampler.coverage().visits, alone.coverage().visits)
            np.testing.assert_array_equal(sampler.coverage().failures, alone.coverage().failures)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_take_their_turns_in_one_order(world_store, world_size):
    turns = np.zeros(BINS, dtype=np.int64)
    for rank in range(world_size):
        sampler = MotionSampler(world_store, 10, CONTROL_DT, adaptive=None, rank=rank, world_size=world_size)
        for start in range(0, len(range(rank, BINS, world_size)), 10):
            sampler.reset(range(min(10, len(range(rank, BINS, world_size)) - start)))
        turns += sampler.coverage().starts
    assert (turns == 1).all()


def test_a_sum_that_cannot_be_is_refused_before_anything_changes(small_store):
    sampler = MotionSampler(small_store, 4, CONTROL_DT, rank=1, world_size=2)
    sampler.reset()
    sampler.step()
    before = sampler.state_dict()

    def fails(counts):
        raise ConnectionError("a rank is gone")

    with pytest.raises(ConnectionError, match="a rank is gone"):
        sampler.sync(fails)
    for all_reduce, match in (
        (None, "is needed to sum the counts of 2 ranks"),
        (lambda counts: counts[:-1], r"expected integers \[56\]"),
        (lambda counts: counts * 1.0, "found float64"),
        (lambda counts: counts - 1, "below this rank's own counts"),
        (lambda counts: counts // 2, "below this rank's own counts"),
    ):
        with pytest.raises(ArgumentError, match=match):
            sampler.sync(all_reduce)
    for name, value in sampler.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.jax
def test_jax_sums_more_than_32_bits_hold():
    pytest.importorskip("jax", reason="needs the jax extra")
    counts = np.array([0, 1, 2**31, 2**40 + 12345, 2**62], dtype=np.int64)
    np.testing.assert_array_equal(jax_sum()(counts), counts)


TRAIN = """
import sys
import numpy as np
import torch.distributed as dist
from iltools_datasets import TrajectoryStore
from iltools_datasets.ranks import torch_rank, torch_sum
from iltools_datasets.tracking import MotionSampler

dist.init_process_group("gloo")
sampler = MotionSampler(TrajectoryStore.open(sys.argv[1]), 30, 0.2, **torch_rank())
rng = np.random.default_rng(dist.get_rank())
sampler.reset()
all_reduce = torch_sum()
for step in range(48):
    fell = rng.random(30) < 0.05
    over = sampler.step() | fell
    sampler.reset(over, fell)
    if step % 24 == 23:
        sampler.sync(all_reduce)
np.save(f"{sys.argv[2]}/table{dist.get_rank()}.npy", sampler.probabilities())
np.save(f"{sys.argv[2]}/visits{dist.get_rank()}.npy", sampler.coverage().visits)
dist.destroy_process_group()
"""


@pytest.mark.torch
def test_processes_of_torch_hold_the_same_table(small_store, tmp_path):
    pytest.importorskip("torch", reason="needs the torch extra")
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    torchrun = Path(sys.executable).parent / "torchrun"
    command = [torchrun, "--standalone", "--nproc-per-node=2", script, small_store.path, tmp_path]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    one, other = (np.load(tmp_path / f"table{rank}.npy") for rank in range(2))
    np.testing.assert_array_equal(one, other)
    visits = np.load(tmp_path / "visits0.npy")
    np.testing.assert_array_equal(visits, np.load(tmp_path / "visits1.npy"))
    assert 2 * 30 * 48 * 0.9 < visits.sum() <= 2 * 30 * 48
