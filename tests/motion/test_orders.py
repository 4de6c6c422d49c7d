"""Which order a quaternion is in, and which body is the root, by what the motion shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.motion.orders import ORDERS, Evidence, find_evidence, other_order, uprightness
from iltools_datasets.motion.root import bodies_at, body_named_root, find_root_body
from motions import angular_velocity, as_xyzw, product, turn, walk


def stored(order: str, seed: int = 0) -> np.ndarray:
    rotation = walk(seed=seed)["rotation"]
    return rotation if order == "wxyz" else as_xyzw(rotation)


def test_a_robot_that_turns_and_stands_tells_wxyz_from_xyzw() -> None:
    evidence = find_evidence(stored("wxyz"))
    assert evidence.up["wxyz"] > 0.95
    assert evidence.up["xyzw"] < 0.3
    assert "as xyzw the root lies or hangs upside down" in evidence.against("xyzw")
    assert evidence.against("wxyz") is None
    assert [evidence.best(order) for order in ORDERS] == ["wxyz", "wxyz"]


def test_by_posture_alone_a_robot_that_hardly_turns_tells_nothing() -> None:
    rotation = turn(2, np.linspace(0, 0.3, 50))
    assert find_evidence(as_xyzw(rotation)).against("wxyz") is None  # a half turn about z is upright, too


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("frame", ["world", "body"])
@pytest.mark.parametrize("scale", [1.0, 57.3], ids=["rad", "degrees"])
def test_velocities_tell_both_ways_round(order: str, frame: str, scale: float) -> None:
    rotation = turn(2, 0.3 * np.sin(np.linspace(0, 9, 90)))
    rotation = product(rotation, turn(0, 0.2 * np.cos(np.linspace(0, 7, 90))))
    angular = angular_velocity(rotation, 30.0)
    if frame == "body":
        inverse = rotation * [1, -1, -1, -1]
        as_quaternion = np.concatenate([np.zeros((90, 1)), angular], axis=1)
        angular = product(product(inverse, as_quaternion), rotation)[:, 1:]
    quaternion = rotation if order == "wxyz" else as_xyzw(rotation)
    evidence = find_evidence(quaternion, quaternion, angular * scale, frame=frame)
    assert evidence.along[order] > 0.95
    assert evidence.against(order) is None
    assert "turns against its own angular velocities" in evidence.against(other_order(order))


def test_velocities_count_more_than_posture() -> None:
    """A robot that crawls all the time, whose other reading happens to stand."""
    crawling = Evidence({"wxyz": 0.1, "xyzw": 0.95}, {"wxyz": 0.98, "xyzw": 0.0})
    assert crawling.against("wxyz") is None
    assert Evidence({"wxyz": 0.1, "xyzw": 0.95}, {"wxyz": None, "xyzw": None}).against("wxyz") is not None


@pytest.mark.parametrize("states", [0, 1, 2, 3])
def test_short_clips_and_clips_that_stand_still(states: int) -> None:
    rotation = np.tile([1.0, 0, 0, 0], (states, 1))
    evidence = find_evidence(rotation, rotation, np.zeros((states, 3)))
    assert evidence.along == {"wxyz": None, "xyzw": None}
    assert evidence.against("wxyz") is None


def test_a_value_that_is_none_speaks_neither_way() -> None:
    rotation = stored("wxyz")
    angular = angular_velocity(rotation, 50.0)
    angular[7], rotation[30] = np.nan, np.nan
    assert find_evidence(rotation, rotation, angular).along["wxyz"] > 0.95


@given(st.floats(-3, 3), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
def test_how_upright(yaw: float, pitch: float, roll: float) -> None:
    scipy_rotation = pytest.importorskip("scipy.spatial.transform", reason="scipy is the oracle").Rotation
    rotation = scipy_rotation.from_euler("zyx", [yaw, pitch, roll])
    quaternion = np.tile(rotation.as_quat(scalar_first=True), (3, 1))
    assert uprightness(quaternion) == pytest.approx(rotation.apply([0, 0, 1])[2], abs=1e-9)


# The root


def bodies(frames: int = 20) -> np.ndarray:
    """A world that stands still, a foot, and a pelvis that walks."""
    time = np.linspace(0, 1, frames)[:, None]
    world = np.zeros((frames, 3))
    foot = np.concatenate([time, 0 * time + 0.2, 0 * time], axis=1)
    pelvis = np.concatenate([time, 0 * time, 0 * time + 0.8], axis=1)
    return np.stack([world, foot, pelvis], axis=1)


def test_the_root_is_where_it_is_known_to_be() -> None:
    positions = bodies()
    assert find_root_body(positions, ["pelvis", "a", "b"], positions[:, 2]) == 2
    assert bodies_at(positions, positions[:, 2] + 1e-5) == [2]
    assert bodies_at(positions, positions[:, 2] + 0.5) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["world", "left_foot", "pelvis"], 2),
        (["world", "left_foot", "base_link"], 2),
        (["world", "Base", "foot"], 1),
        (["world", "foot", "trunk"], 2),
        (["robot/world", "robot/foot", "robot/pelvis"], 2),
        (["world", "left_foot", "torso_link"], 2),
        (["a", "b", "c"], 1),  # none of the names says it: the first that moves
        (None, 1),
        (["pelvis", "pelvis", "x"], 1),  # not one of them
    ],
)
def test_else_its_name_says_it_else_it_is_the_first_that_moves(names: list[str] | None, expected: int) -> None:
    assert find_root_body(bodies(), names) == expected


def test_nothing_moves() -> None:
    assert find_root_body(np.zeros((5, 3, 3)), None) == 0
    assert find_root_body(np.zeros((0, 3, 3)), None) == 0
    assert body_named_root(None) is None
