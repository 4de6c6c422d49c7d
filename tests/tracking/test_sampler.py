"""The loop: look-ups where envs stand, steps, ends, resets, pauses, and what comes as torch."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings

import numpy as np
import pytest
from iltools_datasets.motion.lookup import MotionLookup
from iltools_datasets.tracking import Adaptive, CoverageWarning, MotionSampler
from tracking_cases import bins_of

CONTROL_DT = 0.2


def test_a_lookup_is_that_of_the_motion_where_envs_stand(small_store):
    sampler = MotionSampler(small_store, 50, CONTROL_DT, offsets=[0, 1, -2, 0.5, 30, 1])
    sampler.reset()
    for _ in range(5):
        sampler.step()
        found = sampler.lookup()
        seconds = sampler.time[:, None] + CONTROL_DT * np.array([0, 1, -2, 0.5, 30, 1])
        ends = np.array([4.0, 2.6, 0.1, 7.4])[sampler.clip][:, None]
        np.testing.assert_allclose(found["at"][..., 0], 10 * np.clip(seconds, 0, ends), atol=1e-5)
        np.testing.assert_array_equal(found["valid"], (seconds > -1e-7) & (seconds < ends + 1e-7))
        direct = MotionLookup(small_store).at(sampler.clip, sampler.time, CONTROL_DT * sampler.offsets)
        np.testing.assert_array_equal(found["at"], direct["at"])
    some = sampler.lookup(offsets=[0, 2], keys=["at"], env_ids=[7, 3])
    np.testing.assert_array_equal(some["at"], sampler.lookup(offsets=[0, 2])["at"][[7, 3]])
    pairs = sampler.lookup_at(np.array([[0, 1], [3, 0]]), 1.0, offsets=[0, 1])
    np.testing.assert_array_equal(pairs["at"][..., 0], np.full((2, 2, 2), [10, 12]))


def test_time_does_not_accumulate(world_store):
    sampler = MotionSampler(world_store, 1, 0.02)
    sampler.reset(clip=199, time=0.3)
    for _ in range(5000):
        sampler.step()
    assert sampler.time[0] == 0.3 + 5000 * 0.02


def test_an_env_ends_behind_its_clip_and_stands_there(small_store):
    sampler = MotionSampler(small_store, 2, CONTROL_DT)
    sampler.reset(clip=[0, 1], time=[3.4, 2.4])
    ended = [sampler.step().tolist() for _ in range(5)]
    # Clip 0 ends at 4 s, which 3.4 + 3 steps is; the next step is behind. Clip 1 ends at 2.6.
    assert ended == [[False, False], [False, True], [False, True], [True, True], [True, True]]
    found = sampler.lookup()
    assert found["at"].ravel().tolist() == [40.0, 26.0]
    assert not found["valid"].any()
    coverage = sampler.coverage()
    # Steps at 3.4, 3.6, 3.8 and 4.0, and at 2.4 and 2.6: none is counted behind the end.
    assert coverage.of_clips(coverage.visits).tolist() == [4, 2, 0, 0]
    assert coverage.of_clips(coverage.completions).tolist() == [1, 1, 0, 0]
    assert coverage.never("completed")[0] == ["made/clip3"]
    sampler.reset(sampler.step())
    assert sampler.lookup()["valid"].all()


def test_failures_are_booked_where_envs_fell_before_they_move(small_store):
    sampler = MotionSampler(small_store, 4, CONTROL_DT)
    sampler.reset(clip=[0, 0, 3, 3], time=[0.5, 1.5, 5.5, 7.3])
    fell = bins_of(sampler)
    sampler.reset(np.array([True, True, False, True]), np.array([True, False, False, True]))
    failures = sampler.coverage().failures
    assert failures.sum() == 2
    assert failures[fell[0]] == failures[fell[3]] == 1
    sampler.reset([2], [True])
    assert sampler.coverage().failures[fell[2]] == 1
    sampler.reset(clip=[0, 0, 3, 3], time=0.5)
    sampler.report_failures([1])
    sampler.report_failures(np.array([True, False, False, False]), np.zeros(4, dtype=bool))
    assert sampler.coverage().failures[bins_of(sampler)[1]] == failures[bins_of(sampler)[1]] + 1


def test_a_pause_counts_nothing(small_store):
    sampler = MotionSampler(small_store, 30, CONTROL_DT)
    sampler.reset()
    sampler.step()
    before = repr(sampler.coverage())
    with sampler.paused(), sampler.paused():
        for _ in range(20):
            ended = sampler.step()
            sampler.report_failures()
            sampler.reset(ended, ended)
            sampler.reset([0], [True], clip=[1])
    assert repr(sampler.coverage()) == before
    sampler.step()
    assert repr(sampler.coverage()) != before


def test_coverage_says_what_was_seen(small_store):
    sampler = MotionSampler(small_store, 10, CONTROL_DT)
    sampler.reset(clip=[0] * 10, time=0.0)
    for _ in range(15):
        sampler.step()
    sampler.reset(np.arange(5), np.ones(5, dtype=bool), clip=[0] * 5, time=1.0)
    with pytest.warns(CoverageWarning, match=r"2 clips \('made/clip1', 'made/clip3'\) were never started"):
        sampler.sync()
    coverage = sampler.coverage()
    assert coverage.seconds == pytest.approx(30.0)
    assert coverage.epochs == pytest.approx(30 / 14)
    assert coverage.failure_rate == 5 / 15
    assert coverage.visits[:4].tolist() == [50, 50, 50, 0]
    assert coverage.failures[:4].tolist() == [0, 0, 0, 5]
    assert coverage.starts[:4].tolist() == [10, 5, 0, 0]
    clips, bins = coverage.never("visited")
    assert clips == ["made/clip1", "made/clip3"]
    assert bins.tolist() == list(range(3, len(coverage.visits)))
    assert coverage.left_out == {"made/clip2": "is shorter than a control step"}
    metrics = coverage.metrics()
    assert metrics["unseen_clips"] == 2
    assert 0 < metrics["entropy"] <= 1
    assert metrics["largest_share"] == sampler.probabilities().max()
    assert "never visited" in repr(coverage)
    sampler.sync()  # warned once


def test_a_clip_that_was_taken_out_is_not_missed(small_store):
    sampler = MotionSampler(small_store, 60, CONTROL_DT, clip_weights=[1, 0, 1, 1], adaptive=None)
    sampler.reset()
    sampler.sync()
    assert sampler.coverage().starts.sum() >= 3 * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.sync()
    assert "adaptive" in inspect.signature(MotionSampler).parameters


@pytest.mark.torch
def test_torch_and_tensordict(small_store):
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    tensordict = pytest.importorskip("tensordict", reason="needs the torch extra")
    arrays = MotionSampler(small_store, 6, CONTROL_DT, offsets=[0, 1])
    tensors = MotionSampler(small_store, 6, CONTROL_DT, offsets=[0, 1], as_="torch")
    nested = MotionSampler(small_store, 6, CONTROL_DT, offsets=[0, 1], as_="tensordict")
    done = torch.tensor([True, False, True, False, False, True])
    for sampler in (arrays, tensors, nested):
        sampler.reset()
        sampler.step()
        sampler.reset(done, done)
    assert isinstance(tensors.step(), torch.Tensor)
    for sampler in (arrays, nested):
        sampler.step()
    wanted = arrays.lookup()
    for found in (tensors.lookup(), nested.lookup()):
        for key, array in wanted.items():
            np.testing.assert_array_equal(found[key].numpy(), array)
    assert isinstance(nested.lookup(), tensordict.TensorDict)
    assert nested.lookup().batch_size == (6, 2)
    out = {"at": torch.zeros(6, 2, 1)}
    assert tensors.lookup(out=out)["at"] is out["at"]
    np.testing.assert_array_equal(out["at"].numpy(), wanted["at"])
    assert tensors.time.dtype == torch.float64


def test_outputs_that_are_given_are_filled(small_store):
    sampler = MotionSampler(small_store, 6, CONTROL_DT, offsets=[0, 1])
    sampler.reset()
    out = {"at": np.zeros((6, 2, 1), dtype=np.float32)}
    assert sampler.lookup(out=out)["at"] is out["at"]
    np.testing.assert_array_equal(out["at"], sampler.lookup()["at"])


def test_origins_are_added_to_positions_in_the_world(tmp_path):
    from iltools_datasets import StoreBuilder, TrajectoryStore

    with StoreBuilder(tmp_path / "store", attributes={"motion": {"fps": 10.0}}) as builder:
        at = np.arange(40, dtype=np.float32)[:, None] * [1, 0, 0]
        builder.add(0, 0, {"root_pos": at.astype(np.float32)}, {"action": at[:-1].astype(np.float32)})
    origins = np.arange(9.0).reshape(3, 3)
    sampler = MotionSampler(TrajectoryStore.open(tmp_path / "store"), 3, CONTROL_DT, env_origins=origins)
    sampler.reset(clip=0, time=[0.0, 1.0, 2.0])
    wanted = origins + np.outer([0, 10, 20], [1, 0, 0])
    np.testing.assert_array_equal(sampler.lookup()["root_pos"][:, 0], wanted)
    np.testing.assert_array_equal(sampler.lookup(env_ids=[2, 0])["root_pos"][:, 0], wanted[[2, 0]])


def test_neither_torch_nor_jax_is_needed(small_store):
    code = f"""
import sys
for name in ("torch", "tensordict", "jax"):
    sys.modules[name] = None
from iltools_datasets import TrajectoryStore
from iltools_datasets.tracking import MotionSampler
sampler = MotionSampler(TrajectoryStore.open({str(small_store.path)!r}), 3, 0.2)
sampler.reset(); sampler.step(); sampler.sync(); sampler.lookup(); sampler.state_dict(); sampler.coverage()
for wanted in ("torch", "tensordict"):
    try:
        MotionSampler(TrajectoryStore.open({str(small_store.path)!r}), 3, 0.2, as_=wanted)
    except ImportError as error:
        assert "iltools-datasets[torch]" in str(error)
    else:
        raise SystemExit("not refused")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert Adaptive().uniform == 0.1
