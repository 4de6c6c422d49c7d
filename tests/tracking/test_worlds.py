"""What adaptive starts do in worlds whose laws of failing are known: 200 clips, 6,500 bins."""

from __future__ import annotations

import numpy as np
import pytest
from iltools_datasets.tracking import Adaptive, MotionSampler
from tracking_cases import BINS, World, time_store

CONTROL_DT, LONGEST = 0.25, 40
# These worlds are watched from their first start, long before every clip had one.
pytestmark = pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")


def started(store, num_envs, adaptive, seed=0):
    return World(MotionSampler(store, num_envs, CONTROL_DT, adaptive=adaptive, seed=seed), LONGEST, seed)


@pytest.fixture(scope="module")
def law():
    """2 % of the bins are hard, two of these impossible, and the rest is easy."""
    hard = np.random.default_rng(1).choice(BINS, 132, replace=False)
    law = np.full(BINS, 0.01)
    law[hard[2:]], law[hard[:2]] = 0.4, 1.0
    return law, hard[2:], hard[:2]


@pytest.fixture(scope="module")
def uniform_share(world_store, law):
    """The share of all visits that each bin has with uniform starts."""
    world = started(world_store, 4096, None)
    world.run(3000, lambda _, bins: law[0][bins])
    return world.visits / world.visits.sum()


@pytest.mark.parametrize(("num_envs", "steps"), [(64, 20_000), (512, 3000), (4096, 3000)])
def test_hard_bins_are_practised_and_impossible_ones_do_not_stop_it(world_store, law, uniform_share, num_envs, steps):
    fails, hard, impossible = law
    world = started(world_store, num_envs, Adaptive())
    world.run(steps // 10, lambda _, bins: fails[bins])
    world.visits[:] = 0
    world.run(steps, lambda _, bins: fails[bins])
    share = world.visits / world.visits.sum()
    assert share[hard].sum() >= 2.5 * uniform_share[hard].sum()
    assert share[impossible].sum() <= 0.005
    if num_envs == 4096:
        ratio = share / uniform_share
        assert ratio.min() >= 0.08
        assert (ratio >= 0.25).mean() >= 0.99


def practising(bins, fade, learns=0.02):
    """A law by which passes make a bin easier, and the passes of others make it forgotten."""
    skill = np.zeros(bins)
    seen = np.zeros(bins)
    difficulty = np.where(np.random.default_rng(2).random(bins) < 0.1, 0.9, 0.2)

    def failing(visits, at):
        nonlocal skill
        new = visits - seen
        passes = new * CONTROL_DT
        skill = skill * (1 - fade * passes.sum() / bins) + passes
        seen[:] = visits
        return (difficulty * np.exp(-learns * skill))[at]

    return failing, lambda: float((difficulty * np.exp(-learns * skill)).mean())


@pytest.mark.parametrize(
    ("bins", "num_envs", "passes", "most"),
    [
        (650, 410, 1500, 0.5),
        (650, 51, 400, 1.0),
        pytest.param(BINS, 4096, 1500, 0.5, marks=pytest.mark.long),
        pytest.param(BINS, 512, 1500, 1.0, marks=pytest.mark.long),
    ],
)
def test_what_fades_is_kept_up(tmp_path, bins, num_envs, passes, most):
    """Envs are to bins as 4,096 and 512 to 6,500, as many passes of each bin."""
    store = time_store(tmp_path / "store", [32.0, 33.0] * (bins // 65))
    left = {}
    for name, adaptive in (("uniform", None), ("adaptive", Adaptive())):
        world = started(store, num_envs, adaptive)
        failing, mean = practising(bins, fade=0.004)
        world.run(round(passes * bins / CONTROL_DT / num_envs), failing)
        left[name] = mean()
    assert left["adaptive"] <= most * left["uniform"]


def test_clips_that_are_hard_as_a_whole_are_found_in_five_passes(world_store):
    coverage = MotionSampler(world_store, 1, CONTROL_DT).coverage()
    hard = np.isin(coverage.bin_clip, np.random.default_rng(3).choice(200, 4, replace=False))
    fails = np.where(hard, 0.5, 0.01)
    share = {}
    for name, adaptive in (("uniform", None), ("adaptive", Adaptive())):
        world = started(world_store, 512, adaptive)
        world.run(round(5 * BINS / CONTROL_DT / 512), lambda _, bins: fails[bins])
        share[name] = world.visits[hard].sum() / world.visits.sum()
        assert world.sampler.coverage().never("visited")[0] == []
    assert share["adaptive"] >= 5 * share["uniform"]
