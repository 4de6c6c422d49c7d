"""A run that was cut and resumed is the uncut one; a state of something else, or a damaged one, is refused."""

from __future__ import annotations

import json

import google_crc32c
import numpy as np
import pytest
from iltools_datasets.errors import StateError
from iltools_datasets.tracking import Adaptive, MotionSampler
from tracking_cases import World, time_store

pytestmark = pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")
CONTROL_DT = 0.2


def made(store, **options):
    return MotionSampler(store, options.pop("num_envs", 60), CONTROL_DT, **options)


def follow(sampler, steps, rng, per_sync=24, first=0):
    """Everything that is seen of a run: where envs stand, what is drawn from, what was covered."""
    seen = []
    for step in range(first, first + steps):
        fell = rng.random(sampler.num_envs) < 0.03
        over = sampler.step() | fell
        sampler.reset(over, fell)
        seen.append(np.concatenate([sampler.clip, sampler.time]))
        if step % per_sync == per_sync - 1:
            sampler.sync()
            seen.append(sampler.probabilities())
        if step % 40 == 39:
            with sampler.paused():
                sampler.reset([0])
    coverage = sampler.coverage()
    return [*seen, coverage.visits, coverage.failures, coverage.starts, coverage.completions]


SETTINGS = {
    "adaptive": {},
    "turns": {"adaptive": None},
    "any time": {"start": "time", "seed": 2**64 - 1},
    "score": {"adaptive": Adaptive(score=lambda failures, passes, base: base * (1 + failures) / (1 + passes))},
    "counts": {"adaptive": Adaptive(statistic="count", half_life=None, cap=None, base="clip")},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("cut", [0, 1, 47, 48, 130])
def test_a_run_cut_anywhere_goes_on_as_the_uncut_one(small_store, name, cut, tmp_path):
    whole, first = made(small_store, **SETTINGS[name]), made(small_store, **SETTINGS[name])
    whole.reset()
    first.reset()
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    wanted = follow(whole, 200, one)
    weights = [1, 0.5, 2, 0.1]
    follow(first, cut, other)
    first.dumps(tmp_path / "state.npz")
    second = made(small_store, **SETTINGS[name])
    second.loads(tmp_path / "state.npz")
    found = follow(second, 200 - cut, other, first=cut)
    for mine, theirs in zip(reversed(found), reversed(wanted), strict=False):
        np.testing.assert_array_equal(mine, theirs)
    for sampler in (whole, second):
        sampler.set_clip_weights(weights)
    # Weights that were set count from the next sync on, in a resumed run, too.
    third = made(small_store, **SETTINGS[name])
    third.load_state_dict(second.state_dict())
    np.testing.assert_array_equal(third.probabilities(), whole.probabilities())
    for sampler in (whole, third):
        sampler.sync()
    np.testing.assert_array_equal(third.probabilities(), whole.probabilities())
    assert whole.probabilities()[0] < wanted[-5][0] or name == "turns"


@pytest.fixture
def state(small_store):
    sampler = made(small_store)
    sampler.reset()
    follow(sampler, 50, np.random.default_rng(0))
    return sampler.state_dict()


def refused(store, state, match, **options):
    sampler = made(store, **options)
    sampler.reset()
    before = sampler.state_dict()
    with pytest.raises(StateError, match=match):
        sampler.load_state_dict(state)
    for name, value in sampler.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_one_flipped_bit_is_refused_wherever_it_is(small_store, state):
    rng = np.random.default_rng(0)
    for name, value in state.items():
        if isinstance(value, str):
            for place in rng.integers(0, len(value), 30):
                damaged = value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
                refused(small_store, {**state, name: damaged}, "state of MotionSampler")
            continue
        for place in rng.integers(0, value.nbytes, 3) if value.nbytes else ():
            damaged = value.copy()
            damaged.view(np.uint8)[place] ^= 1 << rng.integers(8)
            refused(small_store, {**state, name: damaged}, f"{name}: is not what was saved")


def test_a_state_of_something_else_is_refused(small_store, state, tmp_path):
    again = time_store(tmp_path / "store", [4.0, 2.6, 0.1, 7.4])
    refused(again, state, "of another sampler: expected stores")
    for options, match in (
        ({"seed": 1}, "expected seed 1, found 0"),
        ({"num_envs": 61}, "expected num_envs 61"),
        ({"adaptive": Adaptive(bin_s=0.5)}, "expected adaptive"),
        ({"adaptive": None}, "expected adaptive"),
        ({"adaptive": Adaptive(score=lambda *_: 1)}, "expected adaptive"),
        ({"start": "time"}, "expected start"),
        ({"fps": 20.0}, "of other clips: fps differs"),
    ):
        refused(small_store, state, match, **options)
    for value, match in (
        (None, "expected a mapping, found NoneType"),
        ({}, "expected a text under 'about'"),
        ({**state, "more": np.zeros(2)}, "expected arrays"),
        ({name: value for name, value in state.items() if name != "passes"}, "expected arrays"),
        ({**state, "passes": list(state["passes"])}, "passes: expected an array"),
        ({**state, "passes": state["passes"].astype(object)}, "passes: expected an array"),
    ):
        refused(small_store, value, match)


def resealed(state, **changes):
    """A state with something else in it, and digests that fit."""
    from iltools_datasets.tracking import checkpoint

    arrays, about = checkpoint.opened(state)
    about = {name: value for name, value in about.items() if name != "digests"}
    return checkpoint.sealed(
        {**arrays, **{name: value for name, value in changes.items() if name in arrays}},
        {**about, **{name: value for name, value in changes.items() if name not in arrays}},
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"clip": np.full(60, 4)}, "env 0: clip 4"),
        ({"clip": np.full(60, -2)}, "env 0: clip -2"),
        ({"clip": np.zeros(59, dtype=np.int64)}, "of 60 envs are needed"),
        ({"start": np.full(60, np.nan)}, "start NaN"),
        ({"start": np.full(60, 1e9)}, "start 1000000000"),
        ({"steps": np.full(60, -1)}, "step -1"),
        ({"passes": np.full(14, -1.0)}, "finite numbers that are not negative"),
        ({"passes": np.zeros(3)}, "passes and failures of 14 bins"),
        ({"failures": np.full(14, np.inf)}, "finite numbers that are not negative"),
        ({"since": np.full(56, -1)}, "counts since the last sync"),
        ({"totals": np.zeros(55, dtype=np.int64)}, "counts: 4 numbers for each of 14 bins"),
        ({"masses": np.zeros(4)}, "positive weight"),
        ({"next_masses": np.full(4, np.nan)}, "weights of 4 clips"),
        ({"scores": np.full(14, -1.0)}, "scores"),
        ({"clip_weights": np.zeros(4)}, "clip_weights"),
        ({"drawn": [-1, 0]}, "cannot be"),
        ({"drawn": [2**60, 0]}, "too many"),
        ({"drawn": None}, "cannot be"),
        ({"syncs": "x"}, "cannot be"),
        ({"weights": {"a": 1}}, "weights: there is one store"),
        ({"passes": np.full(14, 3.0)}, "its table is not the one"),
        ({"kind": "other"}, None),
    ],
)
def test_what_cannot_be_is_refused(small_store, state, changes, match):
    if match is not None:
        refused(small_store, resealed(state, **changes), match)
        return
    text = json.dumps({**json.loads(state["about"][8:]), **changes})
    refused(
        small_store, {**state, "about": f"{google_crc32c.value(text.encode()):08x}{text}"}, "expected kind and version"
    )


def test_files_that_are_no_states_are_refused(small_store, state, tmp_path):
    sampler = made(small_store)
    with pytest.raises(StateError, match="there is no saved state"):
        sampler.loads(tmp_path / "none.npz")
    (tmp_path / "text").write_text("state")
    np.savez(tmp_path / "pickled.npz", about=np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "other.npz", about=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text", "pickled.npz", "other.npz", "array.npy"):
        with pytest.raises(StateError):
            sampler.loads(tmp_path / name)
    sampler.load_state_dict(state)
    sampler.dumps(tmp_path / "state.npz")
    whole = (tmp_path / "state.npz").read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:end])
        with pytest.raises(StateError):
            sampler.loads(tmp_path / "cut.npz")


def test_a_flipped_bit_in_a_file_is_refused_or_in_nothing_that_counts(small_store, state, tmp_path):
    sampler = made(small_store)
    sampler.load_state_dict(state)
    sampler.dumps(tmp_path / "state.npz")
    whole = bytearray((tmp_path / "state.npz").read_bytes())
    rng, found = np.random.default_rng(0), 0
    for place in rng.integers(0, len(whole), 150):
        whole[place] ^= 4
        (tmp_path / "damaged.npz").write_bytes(whole)
        try:
            sampler.loads(tmp_path / "damaged.npz")
        except StateError:
            found += 1
        whole[place] ^= 4
        for name, value in sampler.state_dict().items():
            np.testing.assert_array_equal(value, state[name])
    assert found > 60  # times and attributes of the files within are nobody's


def test_a_state_is_small(world_store):
    world = World(MotionSampler(world_store, 4096, CONTROL_DT), 50)
    world.run(60, lambda _, bins: np.full(len(bins), 0.05))
    state = world.sampler.state_dict()
    of_envs = sum(state.pop(name).nbytes for name in ("clip", "start", "steps"))
    of_clips = sum(state.pop(name).nbytes for name in ("last", "fps", "clip_weights", "masses", "next_masses"))
    assert of_envs <= 48 * 4096
    assert of_clips <= 48 * 200
    assert sum(array.nbytes for name, array in state.items() if name != "about") <= 48 * 6500


def test_what_ranks_share_is_loaded_by_another_world(world_store):
    """Saved right after a sync: the same table for any number of ranks, and the turns go on where they were."""
    whole = made(world_store, num_envs=600)
    whole.reset()
    follow(whole, 48, np.random.default_rng(0))
    state = whole.state_dict()
    for rank in range(2):
        part = made(world_store, num_envs=300, rank=rank, world_size=2)
        part.load_state_dict(state)
        np.testing.assert_array_equal(part.probabilities(), whole.probabilities())
        assert (part.clip == -1).all()
    one = made(world_store, num_envs=1000, adaptive=None)
    one.reset()
    one.sync()
    turns = one.coverage().starts
    for rank in range(2):
        part = made(world_store, num_envs=2500, rank=rank, world_size=2, adaptive=None)
        part.load_state_dict(one.state_dict())
        part.reset()
        turns = turns + part.coverage().starts - one.coverage().starts
    assert turns.sum() == 6000
    assert turns.max() == 1
    alone = made(world_store, num_envs=5)
    alone.load_state_dict(state, envs=False)
    np.testing.assert_array_equal(alone.coverage().visits, whole.coverage().visits)
    whole.step()
    with pytest.raises(StateError, match=r"save right after sync\(\)"):
        made(world_store, rank=1, world_size=2).load_state_dict(whole.state_dict())
    part = made(world_store, num_envs=300, rank=1, world_size=2)
    other = made(world_store, num_envs=300, rank=0, world_size=2).state_dict()
    with pytest.raises(StateError, match="expected rank 1"):
        part.load_state_dict(other)
