"""4,096 cursors that fail by a known law, cut at random places: starts, times and tables go on as they were."""

from __future__ import annotations

import numpy as np
import pytest
from iltools_datasets.tracking import MotionSampler
from tracking_cases import BINS

pytestmark = pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")
NUM_ENVS, STEPS, STEPS_PER_SYNC, CONTROL_DT = 4096, 120, 24, 0.25


@pytest.fixture(scope="module")
def law(world_store):
    """How likely a step in each bin fails, and where bins begin if clips lie a million seconds apart."""
    coverage = MotionSampler(world_store, 1, CONTROL_DT).coverage()
    fails = np.where(np.random.default_rng(1).random(BINS) < 0.02, 0.15, 0.003)
    return fails, coverage.bin_begin + 1e6 * coverage.bin_clip


class Run:
    """A loop whose sampler may be replaced by what it left on disk, at any step."""

    def __init__(self, made, seed=0):
        self.sampler, self.rng, self.step = made, np.random.default_rng(seed), 0
        self.stream = []
        self.sampler.reset()

    def replace(self, made, path):
        self.sampler.dumps(path)
        made.loads(path)
        self.sampler = made

    def go(self, law):
        fails, begins = law
        clip, time = (np.asarray(each) for each in (self.sampler.clip, self.sampler.time))
        self.stream += [clip, time]
        fell = self.rng.random(len(clip)) < fails[np.searchsorted(begins, time + 1e6 * clip + 1e-6, side="right") - 1]
        self.sampler.report_failures(fell)
        self.sampler.reset(np.asarray(self.sampler.step()) | fell)
        self.step += 1

    def sync(self, **how):
        self.sampler.sync(**how)
        self.stream.append(self.sampler.probabilities())


def run(made, law, cuts=(), path=None):
    """Let it run, with a new sampler (made of its number) at each of some steps."""
    run = Run(made(0))
    for step in range(STEPS):
        if step in cuts:
            run.replace(made(1 + step), path)
        run.go(law)
        if run.step % STEPS_PER_SYNC == 0:
            run.sync()
    coverage = run.sampler.coverage()
    counts = [coverage.visits, coverage.failures, coverage.starts, coverage.completions]
    return [*run.stream, *counts]


def same(one, other):
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope="module")
def uncut(world_store, law):
    return run(lambda _: MotionSampler(world_store, NUM_ENVS, CONTROL_DT), law)


@pytest.mark.parametrize("where", ["host", pytest.param("torch", marks=pytest.mark.torch),
                                   pytest.param("each in turn", marks=pytest.mark.torch)])  # fmt: skip
def test_a_run_cut_at_random_places_is_the_uncut_one(world_store, law, uncut, where, tmp_path, request):
    if where != "host":
        pytest.importorskip("torch", reason="needs the torch extra")
        request.getfixturevalue("one_thread")
    on_torch = {"as_": "torch", "device": "cpu"}
    cuts = np.sort(np.random.default_rng(2).choice(STEPS, 6, replace=False)).tolist()
    made = {
        "host": lambda _: MotionSampler(world_store, NUM_ENVS, CONTROL_DT),
        "torch": lambda _: MotionSampler(world_store, NUM_ENVS, CONTROL_DT, **on_torch),
        "each in turn": lambda n: MotionSampler(world_store, NUM_ENVS, CONTROL_DT, **(on_torch if n % 2 else {})),
    }[where]
    same(run(made, law, cuts, tmp_path / "state.npz"), uncut)
    # What was compared is a run in which much happened.
    visits, failures, starts, _ = uncut[-4:]
    assert visits.sum() == NUM_ENVS * STEPS
    assert min(failures.sum(), starts.sum() - NUM_ENVS) > 2000


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_that_are_cut_hold_one_table(world_store, law, world_size, tmp_path):
    def made(rank):
        return MotionSampler(world_store, NUM_ENVS // world_size, CONTROL_DT, rank=rank, world_size=world_size)

    def ranks(cuts):
        runs = [Run(made(rank), seed=rank) for rank in range(world_size)]
        for step in range(STEPS):
            for rank, each in enumerate(runs):
                if (rank, step) in cuts:
                    each.replace(made(rank), tmp_path / f"{rank}.npz")
                each.go(law)
            if runs[0].step % STEPS_PER_SYNC == 0:
                total = sum(each.sampler.state_dict()["since"].astype(np.int64) for each in runs)
                for each in runs:
                    each.sync(all_reduce=lambda _, total=total: total)
                tables = [each.stream[-1] for each in runs]
                same(tables[1:], tables[:1] * (world_size - 1))
        assert runs[0].sampler.coverage().visits.sum() == NUM_ENVS // world_size * world_size * STEPS
        return [part for each in runs for part in each.stream]

    rng = np.random.default_rng(3)
    cuts = {(int(rng.integers(world_size)), int(rng.integers(STEPS))) for _ in range(6)}
    same(ranks(cuts), ranks(()))
