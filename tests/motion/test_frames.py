"""Motion seen from the robot, along its heading and from the anchor, against scipy's rotations in float64."""

import numpy as np
import pytest
from iltools_datasets import StoreBuilder, TrajectoryStore
from iltools_datasets.errors import ArgumentError
from iltools_datasets.motion.lookup import MotionLookup

pytest.importorskip("scipy", reason="scipy is the oracle")

from motion_cases import BODIES, build, motion_attributes, moving, turn_between
from scipy.spatial.transform import Rotation

TORSO = BODIES.index("torso")
OFFSETS = np.array([0.1, 0.0, 0.3, -0.04])
ENVS = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(tmp_path_factory.mktemp("motion") / "store", (60, 40))


@pytest.fixture
def drawn(made):
    """Clips, times, the world's rows, and the anchor's poses at offset 0, in float64."""
    store, _ = made
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 2, ENVS)
    seconds = rng.uniform(0.1, np.array([59, 39])[clip] / 30 - 0.4)
    seconds[::4] = np.round(seconds[::4] * 30) / 30
    lookup = MotionLookup(store)
    world = lookup.at(clip, seconds, OFFSETS)
    now = lookup.at(clip, seconds)
    at = now["body_pos_w"][:, 0, TORSO].astype(np.float64)
    turned = rotations(now["body_quat_w"][:, 0, TORSO])
    robot_pos = rng.normal(0, 5, (ENVS, 3)).astype(np.float32)
    robot_quat = Rotation.random(ENVS, rng).as_quat(scalar_first=True).astype(np.float32)
    return clip, seconds, world, at, turned, robot_pos, robot_quat


def rotations(quaternions):
    return Rotation.from_quat(np.asarray(quaternions, dtype=np.float64).reshape(-1, 4), scalar_first=True)


def yaw(turn):
    forward = turn.apply([1.0, 0.0, 0.0])
    return np.arctan2(forward[..., 1], forward[..., 0])


def about_z(angles):
    return Rotation.from_rotvec(np.asarray(angles)[..., None] * [0, 0, 1])


def seen(world, turn, origin, place):
    """Turn rows [E, O, B, ...] of the world by one rotation per env about `origin` and put that to `place`."""
    positions, quaternions = world["body_pos_w"].astype(np.float64), world["body_quat_w"]
    shape = positions.shape[:3]
    repeated = Rotation.from_quat(np.repeat(turn.as_quat(), np.prod(shape[1:]), axis=0))
    spread = lambda points: np.broadcast_to(points[:, None, None], (*shape, 3)).reshape(-1, 3)  # noqa: E731
    moved = repeated.apply(positions.reshape(-1, 3) - spread(origin)) + spread(place)
    vectors = {
        key: repeated.apply(world[key].astype(np.float64).reshape(-1, 3)).reshape(*shape, 3)
        for key in ("body_lin_vel_w", "body_ang_vel_w")
    }
    turned = (repeated * rotations(quaternions)).as_quat(scalar_first=True)
    return {"body_pos_w": moved.reshape(*shape, 3), "body_quat_w": turned.reshape(*shape, 4), **vectors}


def check(found, wanted, world):
    scale = np.abs(wanted["body_pos_w"]).max() + np.abs(world["body_pos_w"]).max()
    np.testing.assert_allclose(found["body_pos_w"], wanted["body_pos_w"], atol=4e-7 * scale, rtol=0)
    assert turn_between(found["body_quat_w"], wanted["body_quat_w"]) < 1e-6
    for key in ("body_lin_vel_w", "body_ang_vel_w"):
        np.testing.assert_allclose(found[key], wanted[key], atol=2e-6, rtol=0)
    for key in ("joint_pos", "joint_vel", "speed", "yaw", "valid"):
        np.testing.assert_array_equal(found[key], world[key])


@pytest.mark.parametrize("heading", ["relative", "difference"])
@pytest.mark.parametrize("quat_order", ["wxyz", "xyzw"])
def test_from_the_robot(made, drawn, heading, quat_order):
    clip, seconds, world, at, turned, robot_pos, robot_quat = drawn
    lookup = MotionLookup(made[0], frame="robot", anchor="torso", heading=heading, quat_order=quat_order)
    given = robot_quat if quat_order == "wxyz" else robot_quat[:, [1, 2, 3, 0]]
    found = lookup.at(clip, seconds, OFFSETS, anchor_pos=robot_pos, anchor_quat=given)
    if quat_order == "xyzw":
        found["body_quat_w"] = found["body_quat_w"][..., [3, 0, 1, 2]]
    robot = rotations(robot_quat)
    angles = yaw(robot * turned.inv()) if heading == "relative" else yaw(robot) - yaw(turned)
    place = np.column_stack([robot_pos[:, :2], at[:, 2]])
    check(found, seen(world, about_z(angles), at, place), world)
    # Heights stay the reference's, to the bit, and so does what the anchor itself is at: the robot's place.
    np.testing.assert_array_equal(found["body_pos_w"][..., 2], world["body_pos_w"][..., 2])
    np.testing.assert_allclose(found["body_pos_w"][:, 1, TORSO, :2], robot_pos[:, :2], rtol=1e-6)


def test_along_the_heading(made, drawn):
    clip, seconds, world, at, turned, *_ = drawn
    found = MotionLookup(made[0], frame="heading", anchor="torso").at(clip, seconds, OFFSETS)
    origin = at * [1, 1, 0]
    check(found, seen(world, about_z(-yaw(turned)), origin, np.zeros((ENVS, 3))), world)
    # Now, the anchor stands at the origin and looks along x.
    np.testing.assert_array_equal(found["body_pos_w"][:, 1, TORSO, :2], 0)
    np.testing.assert_allclose(yaw(rotations(found["body_quat_w"][:, 1, TORSO])), 0, atol=1e-5)


def test_from_the_anchor_at_each_offset(made, drawn):
    clip, seconds, world, *_ = drawn
    found = MotionLookup(made[0], frame="anchor", anchor="torso").at(clip, seconds, OFFSETS)
    for column in range(len(OFFSETS)):
        then = {key: rows[:, [column]] for key, rows in world.items()}
        turn = rotations(then["body_quat_w"][:, 0, TORSO]).inv()
        origin = then["body_pos_w"][:, 0, TORSO].astype(np.float64)
        wanted = seen(then, turn, origin, np.zeros((ENVS, 3)))
        check({key: rows[:, [column]] for key, rows in found.items()}, wanted, then)
    np.testing.assert_array_equal(found["body_pos_w"][:, :, TORSO], 0)


def test_the_root_of_a_generalised_position(tmp_path):
    rng = np.random.default_rng(0)
    clip = moving(30, 1)
    qpos = np.concatenate([clip["body_pos_w"][:, 0], clip["body_quat_w"][:, 0], clip["joint_pos"]], axis=1)
    qvel = rng.normal(size=(30, 11)).astype(np.float32)
    with StoreBuilder(tmp_path / "store", attributes={"motion": {"fps": 30}}) as builder:
        builder.add(0, 0, {"qpos": qpos, "qvel": qvel})
    store = TrajectoryStore.open(tmp_path / "store")
    seconds = np.array([0.1, 0.25, 0.5])
    found = MotionLookup(store, frame="heading").at(np.zeros(3, int), seconds)
    world = MotionLookup(store).at(np.zeros(3, int), seconds)
    back = about_z(-yaw(rotations(world["qpos"][:, 0, 3:7])))
    np.testing.assert_array_equal(found["qpos"][:, 0, :2], 0)
    np.testing.assert_array_equal(found["qpos"][:, 0, [2, *range(7, 12)]], world["qpos"][:, 0, [2, *range(7, 12)]])
    wanted = (back * rotations(world["qpos"][:, 0, 3:7])).as_quat(scalar_first=True)
    assert turn_between(found["qpos"][:, 0, 3:7], wanted) < 1e-6
    np.testing.assert_allclose(found["qvel"][:, 0, :3], back.apply(world["qvel"][:, 0, :3]), atol=1e-6)
    # The angular velocity of a free joint is in its body's own frame: nothing turns it.
    np.testing.assert_array_equal(found["qvel"][:, 0, 3:], world["qvel"][:, 0, 3:])


def test_without_a_heading_nothing_turns(tmp_path):
    clip = moving(10, 0)
    # The torso looks straight up, so its x axis has no horizontal part.
    clip["body_quat_w"][:, TORSO] = [np.sqrt(0.5), 0, -np.sqrt(0.5), 0]
    with StoreBuilder(tmp_path / "store", attributes=motion_attributes()) as builder:
        builder.add(0, 0, clip)
    store = TrajectoryStore.open(tmp_path / "store")
    found = MotionLookup(store, frame="heading", anchor="torso").at([0], [0.1])
    np.testing.assert_array_equal(found["body_quat_w"][0, 0], clip["body_quat_w"][3])
    for heading in ("relative", "difference"):
        lookup = MotionLookup(store, frame="robot", anchor="torso", heading=heading)
        # The same attitude: relative to it the robot does look somewhere, the difference of headings is not there.
        pose = {"anchor_pos": [[1.0, 2.0, 3.0]], "anchor_quat": clip["body_quat_w"][:1, TORSO]}
        found = lookup.at([0], [0.1], **pose)
        np.testing.assert_allclose(found["body_quat_w"][0, 0], clip["body_quat_w"][3], atol=1e-6)


def test_poses_that_are_not_finite_are_that_envs_alone(made):
    lookup = MotionLookup(made[0], frame="robot", anchor="torso")
    pos, quat = np.zeros((4, 3), np.float32), np.tile(np.float32([1, 0, 0, 0]), (4, 1))
    pos[1, 2], quat[2, 1] = np.nan, np.inf
    found = lookup.at(np.zeros(4, int), np.full(4, 0.55), OFFSETS, anchor_pos=pos, anchor_quat=quat)
    for key in ("body_pos_w", "body_quat_w"):
        broken = np.isnan(found[key].reshape(4, -1)).any(axis=1)
        assert broken.tolist() == ([False, True, True, False] if key == "body_pos_w" else [False, False, True, False])
    np.testing.assert_array_equal(found["body_pos_w"][0], found["body_pos_w"][3])
    assert np.isfinite(found["joint_pos"]).all()


def test_origins_are_added_in_the_world(made):
    store, _ = made
    rng = np.random.default_rng(0)
    origins = rng.normal(0, 10, (5, 3)).astype(np.float32)
    clip, seconds = np.zeros(5, int), np.array([0.1, 0.15, 0.2, 0.25, 0.5])
    lookup = MotionLookup(store)
    found, world = lookup.at(clip, seconds, OFFSETS, env_origins=origins), lookup.at(clip, seconds, OFFSETS)
    moved = world["body_pos_w"] + origins[:, None, None]
    np.testing.assert_array_equal(found["body_pos_w"], moved)
    for key in ("body_quat_w", "body_lin_vel_w", "joint_pos"):
        np.testing.assert_array_equal(found[key], world[key])
    with pytest.raises(ArgumentError, match="env_origins"):
        MotionLookup(store, frame="heading", anchor="torso").at(clip, seconds, env_origins=origins)


@pytest.mark.parametrize(
    ("poses", "words"),
    [
        ({}, "needs anchor_pos"),
        ({"anchor_pos": np.zeros((2, 3))}, "needs anchor_pos and anchor_quat"),
        ({"anchor_pos": np.zeros((2, 4)), "anchor_quat": np.zeros((2, 4))}, r"anchor_pos: expected numbers \[2, 3\]"),
        ({"anchor_pos": np.zeros((2, 3)), "anchor_quat": np.zeros((3, 4))}, r"anchor_quat: expected numbers \[2, 4\]"),
        ({"anchor_pos": np.zeros((2, 3)), "anchor_quat": np.zeros((2, 4), "U1")}, "anchor_quat"),
    ],
)
def test_bad_poses(made, poses, words):
    lookup = MotionLookup(made[0], frame="robot", anchor="torso")
    with pytest.raises(ArgumentError, match=words):
        lookup.at([0, 0], [0.1, 0.2], **poses)
