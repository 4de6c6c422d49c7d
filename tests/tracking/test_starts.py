"""Where envs start: the formulas in plain numpy, the floor, the cap, the turns, and what a start depends on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from iltools_datasets.tracking import Adaptive, MotionSampler
from tracking_cases import BINS, World, bins_of, time_store

pytestmark = pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")
CONTROL_DT = 0.2


def table(coverage, passes, failures, weights, cap=10.0, prior=2.0, uniform=0.1, look_back=(4, 0.8), statistic="rate"):
    """The probabilities of the design's five steps, N and F given, bin by bin; the cap by bisection."""
    clips = coverage.bin_clip
    rate_all = failures.sum() / passes.sum() if passes.sum() else 0.0
    score = np.zeros(len(clips))
    for clip in np.unique(clips):
        own = np.flatnonzero(clips == clip)
        n, f = passes[own].sum(), failures[own].sum()
        of_clip = (f + prior * rate_all) / (n + prior) if n + prior else 0.0
        with np.errstate(invalid="ignore"):
            rate = np.nan_to_num((failures[own] + prior * of_clip) / (passes[own] + prior))
        rate = rate if statistic == "rate" else failures[own] + prior * of_clip
        for place, bin_ in enumerate(own):
            score[bin_] = sum(look_back[1] ** k * rate[place + k] for k in range(look_back[0]) if place + k < len(rate))
    if not score.any():
        return weights
    low, high = 0.0, 1e12
    for _ in range(300):
        middle = np.sqrt(max(low, 1e-12) * high)
        made = np.minimum(middle * score, np.inf if cap is None else cap) @ weights
        low, high = (middle, high) if made < 1 else (low, middle)
    share = weights * np.minimum(high * score, np.inf if cap is None else cap)
    return (1 - uniform) * share + uniform * weights


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"cap": None, "prior": 0.0, "statistic": "count", "look_back": (1, 0.8)},
        {"cap": 1.5, "prior": 5.0, "look_back": (2, 0.5), "uniform": 0.3, "half_life": None},
        {"half_life": (3.0, 2.0), "base": "clip"},
    ],
)
def test_the_table_is_that_of_the_formulas(world_store, parameters):
    adaptive = Adaptive(**parameters)
    world = World(MotionSampler(world_store, 256, CONTROL_DT, adaptive=adaptive), longest=60)
    coverage = world.sampler.coverage()
    seconds = coverage.bin_end - coverage.bin_begin
    weights = seconds / seconds.sum()
    if adaptive.base == "clip":
        weights = seconds / np.bincount(coverage.bin_clip, seconds)[coverage.bin_clip] / 200
    passes, failures = np.zeros(len(weights)), np.zeros(len(weights))
    told = {name: value for name, value in parameters.items() if name not in ("half_life", "base")}
    law = np.random.default_rng(0).uniform(0, 0.3, len(weights))
    for _ in range(6):
        visits, fell = world.visits.copy(), world.failures.copy()
        world.run(24, lambda _, bins: law[bins])
        new = (world.visits - visits) / world.steps
        kept = 1.0
        if adaptive.half_life is not None:
            kept = 2.0 ** -min(new.sum() / (len(weights) * adaptive.half_life[0]), 1 / adaptive.half_life[1])
        passes, failures = kept * passes + new, kept * failures + world.failures - fell
        np.testing.assert_allclose(
            world.sampler.probabilities(), table(coverage, passes, failures, weights, **told), rtol=1e-9, atol=1e-15
        )
    assert failures.sum() > 30


@settings(max_examples=60)
@given(
    score=arrays(np.float64, 14, elements=st.floats(0, 1e12) | st.sampled_from([0.0, 1.0])),
    cap=st.floats(1, 12) | st.just(10.0),
    uniform=st.floats(0, 1),
    base=st.sampled_from(["time", "clip"]),
)
def test_floor_and_cap_hold_for_any_score(small_store, score, cap, uniform, base):
    adaptive = Adaptive(score=lambda failures, passes, base: score, cap=cap, uniform=uniform, base=base)
    sampler = MotionSampler(small_store, 2, CONTROL_DT, adaptive=adaptive)
    sampler.reset()
    score = score[: len(sampler.probabilities())]
    sampler.sync()
    weights, share = sampler._tracker.base, sampler._tracker.adaptive
    found = sampler.probabilities()
    assert (found >= uniform * weights).all()
    assert (share <= cap * weights).all()
    assert share.sum() == pytest.approx(1, abs=1e-9)
    assert found.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("num_envs", [1, 7, 512, 16_384])
def test_one_start_in_ten_takes_its_turn(world_store, num_envs):
    """All other starts fall into one bin, so that turns are seen."""
    only = np.zeros(6500)
    only[17] = 1.0
    adaptive = Adaptive(score=lambda failures, passes, base: only, cap=None)
    sampler = MotionSampler(world_store, num_envs, CONTROL_DT, adaptive=adaptive)
    sampler.sync()
    total, elsewhere = 0, 0
    while total < 2000 or total % 10:
        sampler.reset()
        elsewhere += int((bins_of(sampler) != 17).sum())
        total += num_envs
        if num_envs * 10 > 2000 and total >= 10 * num_envs:
            break
    assert abs(elsewhere - total / 10) <= 1


@pytest.mark.parametrize("world_size", [1, 3])
def test_all_bins_are_started_in_ten_times_as_many_resets(world_store, world_size):
    only = np.zeros(6500)
    only[0] = 1.0
    adaptive = Adaptive(score=lambda failures, passes, base: only)
    turns = np.zeros(6500, dtype=np.int64)
    for rank in range(world_size):
        sampler = MotionSampler(world_store, 1000, CONTROL_DT, adaptive=adaptive, rank=rank, world_size=world_size)
        sampler.sync(lambda counts: counts)
        for _ in range(65 // world_size):
            sampler.reset()
        sampler.reset(np.arange(1000 * (65 % world_size) // world_size + 10 if world_size > 1 else 0))
        turns += sampler.coverage().starts
    assert (turns > 0).all()


def test_bins_of_unequal_weight_have_their_turns_too(tmp_path):
    """The shortest bin is half of the longest or more, so nobody waits for more than a few rounds."""
    seconds = list(np.random.default_rng(0).uniform(0.6, 20, 100).round(1))
    sampler = MotionSampler(time_store(tmp_path / "store", seconds), 1000, CONTROL_DT, adaptive=None)
    bins = len(sampler.probabilities())
    for _ in range(3 * bins // 1000 + 1):
        sampler.reset()
    starts = sampler.coverage().starts
    assert (starts > 0).all()
    wanted = starts.sum() * sampler.probabilities()
    assert (np.abs(starts - wanted) <= 4).all()


def test_a_failure_raises_its_bin_and_those_before_it(world_store):
    """With equal passes, one more failure raises the score of its bin and of three before it, and a clip's a little."""
    scores = []
    for more in (0, 1):
        sampler = MotionSampler(world_store, 1, CONTROL_DT, adaptive=Adaptive(cap=None, uniform=0.0))
        coverage = sampler.coverage()
        own = np.flatnonzero(coverage.bin_clip == 150)
        counts = np.zeros((BINS, 4), dtype=np.int64)
        counts[:, 0] = 10 * np.round((coverage.bin_end - coverage.bin_begin) / CONTROL_DT)
        counts[::50, 1] = 1
        counts[own[20], 1] += more
        sampler.sync(lambda _, counts=counts: counts.ravel())
        share = sampler._tracker.adaptive / sampler._tracker.base
        scores.append(share)
    # Shares are in proportion to scores. What all of them make grew by this failure's scores; the rest is told by clips
    # that had nothing to do with it.
    ratio = scores[1] / scores[0]
    elsewhere = np.delete(ratio, own)
    assert np.ptp(elsewhere) < 0.01 * elsewhere.mean()
    ratio = ratio / elsewhere.min()
    assert (ratio[own[17:21]] > 1.5).all()
    others = np.delete(ratio[own], np.arange(17, 21))
    assert (others > 1.01).all()
    assert ratio[own[17:21]].min() > others.max()
    # Through the mean alone: no more than its share of one failure in 130.
    assert (np.delete(ratio, own) <= 1 + 1 / 130).all()


def test_a_start_depends_on_seed_rank_number_and_table_alone(world_store):
    def starts(order, **options):
        sampler = MotionSampler(world_store, 64, CONTROL_DT, seed=5, **options)
        for ids in order:
            sampler.reset(ids)
        return sampler.clip, sampler.time

    one = starts([range(64)])
    # Env by env, and with envs that start twice: the n-th start is the n-th start.
    for clip, time in (starts([[env] for env in range(64)]), starts([range(10), range(10, 64)])):
        np.testing.assert_array_equal(clip, one[0])
        np.testing.assert_array_equal(time, one[1])
    other = starts([range(64)], rank=1, world_size=2)
    assert (other[0] != one[0]).mean() > 0.9
    sampler = MotionSampler(world_store, 64, CONTROL_DT, seed=5)
    with sampler.paused():
        sampler.reset()
        assert (sampler.clip != one[0]).mean() > 0.9
    sampler.reset()
    np.testing.assert_array_equal(sampler.time, one[1])


@pytest.mark.parametrize("start", ["frame", "time"])
def test_starts_are_in_their_bins_and_a_step_before_the_end(small_store, start):
    sampler = MotionSampler(small_store, 3000, CONTROL_DT, start=start, adaptive=None)
    sampler.reset()
    assert set(sampler.clip) == {0, 1, 3}
    frames = sampler.time * 10
    assert (np.abs(frames - np.round(frames)) < 1e-9).all() == (start == "frame")
    ends = np.array([4.0, 2.6, 0.1, 7.4])[sampler.clip]
    assert (sampler.time + CONTROL_DT <= ends + 1e-6).all()
    assert sampler.time.max() > 7.0
    expected = 3000 * sampler.probabilities()
    counts = np.bincount(bins_of(sampler), minlength=len(expected))
    assert (np.abs(counts - expected) <= 1).all()  # by turns: each round is a whole one
    assert list(sampler.coverage().left_out) == ["made/clip2"]
