"""What is wrong with a call is said before anything is written, booked or moved."""

from __future__ import annotations

import re

import numpy as np
import pytest
from iltools_datasets.errors import (
    ArgumentError,
    IltoolsError,
    MissingKeyError,
    NotAnIntegerError,
    OutOfRangeError,
    SchemaError,
)
from iltools_datasets.tracking import Adaptive, MotionSampler
from tracking_cases import time_store

CONTROL_DT = 0.2
NAN = float("nan")


@pytest.fixture(scope="module")
def motion_store(tmp_path_factory):
    """Bodies, joints, rotations: what frames and names are for."""
    pytest.importorskip("scipy", reason="makes the motion")
    from motion_cases import build

    return build(tmp_path_factory.mktemp("bodies") / "store", (60, 90))[0]


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"num_envs": 0}, ArgumentError, "num_envs: expected an integer of at least 1"),
        ({"num_envs": 2.0}, NotAnIntegerError, "num_envs"),
        ({"control_dt": 0.0}, ArgumentError, "control_dt: expected a positive number of seconds, found 0.0"),
        ({"control_dt": -0.02}, ArgumentError, "control_dt"),
        ({"control_dt": NAN}, ArgumentError, "control_dt"),
        ({"control_dt": "fast"}, ArgumentError, "control_dt"),
        ({"control_dt": True}, ArgumentError, "control_dt"),
        ({"control_dt": 10.0}, IltoolsError, "bin_s is 1"),
        ({"offsets": []}, ArgumentError, "offsets: expected finite numbers"),
        ({"offsets": [0, NAN]}, ArgumentError, "offsets"),
        ({"offsets": [[0]]}, ArgumentError, "offsets"),
        ({"offsets": ["now"]}, ArgumentError, "offsets"),
        ({"keys": ["no"]}, MissingKeyError, "no key 'no'"),
        ({"keys": []}, ArgumentError, "keys"),
        ({"keys": ["valid"]}, ArgumentError, "keys"),
        ({"bodies": ["pelvis"]}, ArgumentError, "bodies"),
        ({"joints": ["no"]}, ArgumentError, "joints"),
        ({"joints": [1]}, ArgumentError, "joints"),
        ({"anchor": "pelvis"}, IltoolsError, "anchor|bodies"),
        ({"frame": "robot"}, ArgumentError, "anchor"),
        ({"frame": "moon"}, ArgumentError, "frame: expected one of"),
        ({"heading": "north"}, ArgumentError, "heading: expected one of"),
        ({"quat_order": "zyxw"}, ArgumentError, "quat_order"),
        ({"boundary": "wrap"}, ArgumentError, "boundary"),
        ({"fps": 0}, ArgumentError, "fps"),
        ({"fps": NAN}, ArgumentError, "fps"),
        ({"fps": [10, 10]}, ArgumentError, "fps: expected a number or one for each of 4 clips"),
        ({"fps": {"no": 10}}, ArgumentError, "fps: no store 'no'"),
        ({"kinds": {"at": "quaternion"}}, SchemaError, "a quaternion of 1 columns; 4 are needed"),
        ({"kinds": {"no": "joint"}}, MissingKeyError, "no key 'no'"),
        ({"start": "middle"}, ArgumentError, "start: expected 'frame' or 'time'"),
        ({"adaptive": 0.1}, ArgumentError, "adaptive: expected an Adaptive or None"),
        ({"seed": -1}, ArgumentError, "seed"),
        ({"seed": 2**64}, ArgumentError, "seed"),
        ({"rank": 2, "world_size": 2}, ArgumentError, "rank 2 of world_size 2"),
        ({"as_": "jax"}, ArgumentError, "as_: expected one of"),
        ({"pin_memory": True}, ArgumentError, "pin_memory and device are for"),
        ({"device": "cpu"}, ArgumentError, "pin_memory and device are for"),
        ({"env_origins": np.zeros((2, 3))}, ArgumentError, r"env_origins: expected finite numbers \[4, 3\]"),
        ({"env_origins": np.full((4, 3), NAN)}, ArgumentError, "env_origins"),
        ({"weights": {"": 1.0}}, ArgumentError, "weights: there is one store"),
        ({"clip_weights": [1, 1, 1]}, ArgumentError, r"clip_weights: expected \[4\]"),
        ({"clip_weights": [1, 1, 1, NAN]}, ArgumentError, "clip_weights: expected finite numbers"),
        ({"clip_weights": [1, 1, 1, -1]}, ArgumentError, "none negative"),
        ({"clip_weights": [0, 0, 0, 0]}, ArgumentError, "not all zero"),
        ({"clip_weights": [0, 0, 1, 0]}, ArgumentError, "no clip that can be started in"),
        ({"clip_weights": {"made/clip9": 1}}, ArgumentError, "'made/clip9': no clip of this name"),
        ({"store": {}}, ArgumentError, "store: expected a TrajectoryStore"),
        ({"store": "path"}, ArgumentError, "store: expected a TrajectoryStore"),
    ],
)
def test_wrong_samplers(small_store, changes, error, match):
    arguments = {"store": small_store, "num_envs": 4, "control_dt": CONTROL_DT, **changes}
    with pytest.raises(error, match=match):
        MotionSampler(**arguments)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"bin_s": 0}, "bin_s: expected a number above 0, found 0"),
        ({"bin_s": NAN}, "bin_s"),
        ({"uniform": 1.5}, "uniform: expected a number of at least 0 and at most 1"),
        ({"uniform": -0.1}, "uniform"),
        ({"cap": 0.5}, "cap: expected a number of at least 1"),
        ({"cap": True}, "cap"),
        ({"prior": -1}, "prior"),
        ({"half_life": 100}, "half_life: expected two numbers"),
        ({"half_life": (100, 0)}, "half_life: expected a number above 0"),
        ({"look_back": (0, 0.8)}, "look_back"),
        ({"look_back": (4, 1.5)}, "look_back"),
        ({"look_back": (4.5, 0.8)}, "look_back"),
        ({"statistic": "mean"}, "statistic: expected one of"),
        ({"base": "frame"}, "base: expected one of"),
        ({"score": 3}, "score: expected a function"),
    ],
)
def test_wrong_schemes(changes, match):
    with pytest.raises(ArgumentError, match=match):
        Adaptive(**changes)


def unchanged(sampler, error, match, call):
    before = sampler.state_dict()
    with pytest.raises(error, match=match):
        call()
    for name, value in sampler.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([4],), OutOfRangeError, r"env 4 is outside \[0, 4\)"),
        (([0, -1],), OutOfRangeError, "env -1 is outside"),
        (([2, 1, 2],), ArgumentError, "env 2 is there twice"),
        (([0.0],), NotAnIntegerError, "env"),
        ((np.ones(3, dtype=bool),), ArgumentError, r"expected a mask \[4\]"),
        (([[0]],), IltoolsError, "env"),
        ((None, [True]), ArgumentError, "terminated: expected one for each of 4 envs"),
        (([0, 1], [True]), ArgumentError, "terminated: expected one for each of 2 envs"),
        (([0, 1], np.ones(4, dtype=bool)), ArgumentError, "terminated"),
        (([0, 1], [1, 0]), ArgumentError, "terminated: expected bools"),
    ],
)
def test_wrong_resets(small_store, arguments, error, match):
    sampler = MotionSampler(small_store, 4, CONTROL_DT)
    sampler.reset()
    sampler.step()
    unchanged(sampler, error, match, lambda: sampler.reset(*arguments))
    unchanged(sampler, error, match, lambda: sampler.reset(*arguments, clip=0))
    unchanged(sampler, error, match, lambda: sampler.report_failures(*arguments))


@pytest.mark.parametrize(
    ("places", "error", "match"),
    [
        ({"time": 1.0}, ArgumentError, "time: is a time of clip="),
        ({"clip": 4}, OutOfRangeError, r"clip 4 is outside \[0, 4\)"),
        ({"clip": [0, 1, -1, 0]}, OutOfRangeError, "clip -1"),
        ({"clip": [0, 1]}, ArgumentError, "clip and time: expected one or 4"),
        ({"clip": 0.0}, NotAnIntegerError, "clip"),
        ({"clip": 0, "time": [0.0, 1.0, 2.0, 4.1]}, OutOfRangeError, "4.1 s is outside clip 0 of 4.0"),
        ({"clip": 0, "time": -0.1}, OutOfRangeError, "-0.1 s is outside"),
        ({"clip": 0, "time": NAN}, OutOfRangeError, "nan s is outside"),
        ({"clip": 0, "time": [1.0]}, ArgumentError, "clip and time"),
    ],
)
def test_wrong_places(small_store, places, error, match):
    sampler = MotionSampler(small_store, 4, CONTROL_DT)
    sampler.reset()
    sampler.step()
    unchanged(sampler, error, match, lambda: sampler.reset(None, np.ones(4, dtype=bool), **places))


def test_nobody_stands_anywhere_before_the_first_reset(small_store):
    sampler = MotionSampler(small_store, 4, CONTROL_DT)
    for call in (sampler.step, sampler.lookup, sampler.report_failures):
        unchanged(sampler, ArgumentError, "env 0 stands nowhere yet: reset it first", call)
    sampler.reset([0, 1, 3])
    unchanged(sampler, ArgumentError, "env 2 stands nowhere yet", sampler.step)
    unchanged(sampler, ArgumentError, "env 2", lambda: sampler.reset([1, 2], [True, True]))
    assert sampler.lookup(env_ids=[3, 1])["valid"].all()


@pytest.mark.parametrize(
    ("score", "match"),
    [
        (lambda failures, passes, base: base[1:], r"score: expected \[14\]"),
        (lambda failures, passes, base: base * NAN, "finite"),
        (lambda failures, passes, base: -base, "not negative"),
        (lambda failures, passes, base: None, "score"),
        (lambda failures, passes, base: "hard", "score"),
    ],
)
def test_wrong_scores(small_store, score, match):
    sampler = MotionSampler(small_store, 4, CONTROL_DT, adaptive=Adaptive(score=score))
    sampler.reset()
    sampler.step()
    unchanged(sampler, ArgumentError, match, sampler.sync)


def test_wrong_weights(small_store):
    sampler = MotionSampler(small_store, 4, CONTROL_DT)
    for weights in ([1, 1, 1], [1, 1, 1, NAN], [0, 0, 0, 0], [0, 0, 1, 0], {"made/clip9": 1}, "all", None):
        unchanged(sampler, ArgumentError, "clip_weights", lambda weights=weights: sampler.set_clip_weights(weights))
    unchanged(sampler, ArgumentError, "weights: there is one store", lambda: sampler.set_weights({"": 1}))


def wrong_lookups(sampler, arguments, error, match):
    """Neither outputs nor anything else is touched."""
    out = {key: np.full((4, 1, *sampler._mixture.row(key)[0]), 7, sampler._mixture.row(key)[1]) for key in sampler.keys}
    given = {"out": out, **arguments}
    unchanged(sampler, error, match, lambda: sampler.lookup(**given))
    assert all((array == 7).all() for array in out.values())


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"offsets": []}, ArgumentError, "offsets"),
        ({"offsets": [NAN]}, ArgumentError, "offsets"),
        ({"keys": ["no"]}, MissingKeyError, "no key 'no'"),
        ({"anchor_pos": np.zeros((4, 2))}, ArgumentError, r"anchor_pos: expected numbers \[4, 3\]"),
        ({"anchor_quat": np.zeros((3, 4))}, ArgumentError, r"anchor_quat: expected numbers \[4, 4\]"),
        ({"anchor_pos": None}, ArgumentError, "frame='robot' needs anchor_pos and anchor_quat"),
        ({"anchor_pos": "here"}, ArgumentError, "anchor_pos"),
        ({"env_ids": [4]}, OutOfRangeError, "env 4"),
        ({"out": {}}, MissingKeyError, "out: no array for key"),
        ({"out": {"joint_pos": np.zeros((4, 2, 5), np.float32)}, "keys": ["joint_pos"]}, ArgumentError, "out"),
        ({"out": {"joint_pos": np.zeros((4, 1, 5), np.float64)}, "keys": ["joint_pos"]}, TypeError, "float"),
        (
            {"out": {"joint_pos": np.zeros((4, 1, 10), np.float32)[..., ::2]}, "keys": ["joint_pos"]},
            ArgumentError,
            "out",
        ),
    ],
)
def test_wrong_lookups(motion_store, arguments, error, match):
    sampler = MotionSampler(motion_store, 4, CONTROL_DT, anchor="torso", frame="robot")
    sampler.reset()
    poses = {"anchor_pos": np.zeros((4, 3)), "anchor_quat": np.tile([1.0, 0, 0, 0], (4, 1))}
    wrong_lookups(sampler, {**poses, **arguments}, error, match)


def test_a_pose_that_is_no_number_is_that_env_s_alone(motion_store):
    sampler = MotionSampler(motion_store, 4, CONTROL_DT, anchor="torso", frame="robot")
    sampler.reset()
    places, turns = np.zeros((4, 3)), np.tile([1.0, 0, 0, 0], (4, 1))
    wanted = sampler.lookup(anchor_pos=places, anchor_quat=turns)
    places[2] = NAN
    found = sampler.lookup(anchor_pos=places, anchor_quat=turns)
    assert np.isnan(found["body_pos_w"][2, ..., :2]).all()  # heights are the reference's, whoever the robot is
    for key, rows in wanted.items():
        np.testing.assert_array_equal(found[key][[0, 1, 3]], rows[[0, 1, 3]])


def test_outside_is_an_error_where_that_was_asked_for(small_store):
    sampler = MotionSampler(small_store, 4, CONTROL_DT, boundary="error")
    sampler.reset()
    out = {"at": np.full((4, 1, 1), 7, dtype=np.float32)}
    with pytest.raises(OutOfRangeError, match="is outside clip"):
        sampler.lookup(offsets=[100], out=out)
    assert (out["at"] == 7).all()


@pytest.mark.parametrize(
    ("clip", "time", "error"),
    [
        (4, 0.0, OutOfRangeError),
        (-1, 0.0, OutOfRangeError),
        (0.5, 0.0, NotAnIntegerError),
        (0, NAN, ArgumentError),
        ([0, 1], [0.0, 1.0, 2.0], ArgumentError),
    ],
)
@pytest.mark.parametrize("where", [{}, {"as_": "torch", "device": "cpu"}], ids=["host", "device"])
def test_wrong_places_to_look_at(small_store, clip, time, error, where):
    if where:
        pytest.importorskip("torch", reason="needs the torch extra")
    with pytest.raises(error):
        MotionSampler(small_store, 4, CONTROL_DT, **where).lookup_at(clip, time)


def test_the_env_that_stands_nowhere_is_named_by_its_id(small_store):
    motion = MotionSampler(small_store, 5, CONTROL_DT)
    motion.reset([0, 1, 3])
    with pytest.raises(ArgumentError, match="env 4 stands nowhere"):
        motion.lookup(env_ids=[3, 4])


def test_bins_shorter_than_frames_are_refused(tmp_path):
    store = time_store(tmp_path / "store", [4.0], fps=2.0)
    with pytest.raises(ArgumentError, match=re.escape("bin_s is 0.3, less than the time between two frames")):
        MotionSampler(store, 1, CONTROL_DT, adaptive=Adaptive(bin_s=0.3))
    with pytest.raises(ArgumentError, match="at least one and less than"):
        MotionSampler(time_store(tmp_path / "short", [0.1]), 1, CONTROL_DT)
