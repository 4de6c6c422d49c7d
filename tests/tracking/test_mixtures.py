"""Several stores as one: their shares, their clips by name, and what they must agree in."""

from __future__ import annotations

import numpy as np
import pytest
from iltools_datasets import StoreBuilder, TrajectoryStore
from iltools_datasets.errors import ArgumentError, SchemaError
from iltools_datasets.motion.lookup import MotionLookup
from iltools_datasets.tracking import Adaptive, MotionSampler
from tracking_cases import World, time_store

pytestmark = pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")
CONTROL_DT = 0.2
BODIES = ("hand", "foot", "head")


@pytest.fixture
def stores(small_store, tmp_path):
    return {"walks": small_store, "runs": time_store(tmp_path / "runs", [3.0, 9.0], fps=20.0)}


def share_of_walks(sampler):
    return sampler.probabilities()[sampler.coverage().bin_clip < 4].sum()


def test_stores_have_their_shares(stores):
    sampler = MotionSampler(stores, 2000, CONTROL_DT, weights={"walks": 3, "runs": 1}, adaptive=None)
    assert sampler.clip_names == [*(f"walks/made/clip{k}" for k in range(4)), "runs/made/clip0", "runs/made/clip1"]
    assert share_of_walks(sampler) == pytest.approx(0.75)
    sampler.reset()
    assert abs((sampler.clip < 4).sum() - 1500) <= 20
    # By time within a store.
    of_clips = np.bincount(sampler.coverage().bin_clip, sampler.probabilities())
    assert of_clips[5] == pytest.approx(3 * of_clips[4])
    without = MotionSampler(stores, 1, CONTROL_DT)
    assert share_of_walks(without) == pytest.approx(14 / 26)
    by_clip = MotionSampler(stores, 1, CONTROL_DT, adaptive=Adaptive(base="clip"))
    assert share_of_walks(by_clip) == pytest.approx(3 / 5)


def test_a_lookup_goes_to_the_env_s_store(stores):
    sampler = MotionSampler(stores, 300, CONTROL_DT, offsets=[0, 2])
    sampler.reset()
    sampler.step()
    found = sampler.lookup()
    rate = np.where(sampler.clip < 4, 10, 20)[:, None]
    ends = np.array([4.0, 2.6, 0.1, 7.4, 3.0, 9.0])[sampler.clip][:, None]
    seconds = sampler.time[:, None] + CONTROL_DT * np.array([0, 2])
    np.testing.assert_allclose(found["at"][..., 0], rate * np.clip(seconds, 0, ends), atol=1e-4)
    np.testing.assert_array_equal(found["valid"], seconds < ends + 1e-7)
    out = {"at": np.empty((300, 2, 1), dtype=np.float32)}
    assert sampler.lookup(out=out)["at"] is out["at"]
    np.testing.assert_array_equal(out["at"], found["at"])
    both = sampler.lookup_at([[0, 5], [4, 1]], 1.0)
    assert both["at"][..., 0, 0].tolist() == [[10, 20], [20, 10]]
    out["at"][:] = 7
    with pytest.raises(ArgumentError, match="out: key 'at'"):
        sampler.lookup(out={"at": out["at"][:, :1]})
    assert (out["at"] == 7).all()


def test_weights_act_at_the_next_sync_and_zero_takes_out(stores):
    sampler = MotionSampler(stores, 500, CONTROL_DT, weights={"walks": 1, "runs": 1})
    world = World(sampler, 40)
    world.run(24, lambda _, bins: np.full(len(bins), 0.1))
    before = sampler.probabilities()
    sampler.set_weights({"walks": 1, "runs": 0})
    sampler.set_clip_weights({"walks/made/clip3": 0.0})
    np.testing.assert_array_equal(sampler.probabilities(), before)
    sampler.sync()
    chance = np.bincount(sampler.coverage().bin_clip, sampler.probabilities())
    assert (chance[[3, 4, 5]] == 0).all()
    for _ in range(30):
        sampler.reset()
        assert set(sampler.clip) == {0, 1}
    left_out = sampler.coverage().left_out
    assert left_out == {
        "walks/made/clip2": "is shorter than a control step",
        **dict.fromkeys(("walks/made/clip3", "runs/made/clip0", "runs/made/clip1"), "has weight 0"),
    }
    sampler.set_weights({"walks": 0.2, "runs": 0.8})
    sampler.set_clip_weights(np.ones(6))
    sampler.sync()
    assert 0.05 < share_of_walks(sampler) < 0.95
    for weights in ({"walks": 1}, {"walks": 0, "runs": 0}, {"walks": 1, "runs": -1}, {"walks": 1, "runs": np.nan}, 3):
        with pytest.raises(ArgumentError, match="weights"):
            sampler.set_weights(weights)
    with pytest.raises(ArgumentError, match="store 'walks' has no clip"):
        sampler.set_clip_weights([0, 0, 1, 0, 1, 1])


def test_a_mixture_resumes(stores):
    def made():
        return MotionSampler(stores, 100, CONTROL_DT, weights={"walks": 3, "runs": 1})

    sampler = made()
    World(sampler, 40).run(30, lambda _, bins: np.full(len(bins), 0.1))
    sampler.set_weights({"walks": 1, "runs": 9})
    other = made()
    other.load_state_dict(sampler.state_dict())
    for each in (sampler, other):
        each.sync()
        each.set_clip_weights({"runs/made/clip0": 5.0})
        each.sync()
        each.reset()
    np.testing.assert_array_equal(sampler.probabilities(), other.probabilities())
    np.testing.assert_array_equal(sampler.time, other.time)


def body_store(path, bodies=BODIES, joints=("hip", "knee"), dtype=np.float32, key="body_pos_w"):
    rng = np.random.default_rng(0)
    clip = rng.normal(size=(30, 3, 3))
    columns = [BODIES.index(body) for body in bodies]
    states = {key: clip[:, columns].astype(dtype), "joint_pos": np.zeros((30, 2), dtype=dtype)}
    told = {"fps": 10.0, "body_names": list(bodies), "joint_names": list(joints)}
    with StoreBuilder(path, attributes={"motion": told}) as builder:
        builder.add(0, 0, states, {"action": np.zeros((29, 1), dtype=np.float32)})
    return TrajectoryStore.open(path)


def test_orders_of_bodies_may_differ(tmp_path):
    one, other = body_store(tmp_path / "one"), body_store(tmp_path / "other", ("foot", "head", "hand"), ("knee", "hip"))
    sampler = MotionSampler({"one": one, "other": other}, 2, CONTROL_DT)
    sampler.reset(clip=[0, 1], time=1.0)
    found = sampler.lookup()["body_pos_w"]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], MotionLookup(one).at([0], [1.0])["body_pos_w"][0])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"bodies": ("hand", "foot", "head"), "joints": ("hip", "ankle")}, "disagree in joint names"),
        ({"dtype": np.float64}, "disagree in rows of"),
        ({"key": "body_positions"}, "disagree in keys"),
    ],
)
def test_stores_that_disagree_are_both_named(tmp_path, changes, match):
    one, other = body_store(tmp_path / "one"), body_store(tmp_path / "other", **changes)
    with pytest.raises(SchemaError, match=f"stores 'first' and 'second' {match}"):
        MotionSampler({"first": one, "second": other}, 2, CONTROL_DT)


def test_kinds_that_disagree_are_refused(tmp_path):
    stores = {}
    for name, kind in (("first", "joint"), ("second", "angle")):
        with StoreBuilder(tmp_path / name, attributes={"motion": {"fps": 10.0, "kinds": {"at": kind}}}) as builder:
            builder.add(0, 0, {"at": np.zeros((30, 1), np.float32)}, {"action": np.zeros((29, 1), np.float32)})
        stores[name] = TrajectoryStore.open(tmp_path / name)
    with pytest.raises(SchemaError, match="stores 'first' and 'second' disagree in kinds of 'at'"):
        MotionSampler(stores, 2, CONTROL_DT)
    assert MotionSampler(stores, 2, CONTROL_DT, kinds={"at": "joint"}).keys == ["at"]
