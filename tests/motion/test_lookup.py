"""Motion at any time against float64: frames bit for bit, what lies between to the stated accuracy, ends, bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets import StoreBuilder, TrajectoryStore, set_num_threads
from iltools_datasets.errors import ArgumentError, MissingKeyError, OutOfRangeError, SchemaError
from iltools_datasets.motion.lookup import MotionLookup

pytest.importorskip("scipy", reason="scipy is the oracle")

from motion_cases import BODIES, JOINTS, STATES, build, expected, motion_attributes, moving, place, turn_between

HELD = ("contact", "phase", "image", "action")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(tmp_path_factory.mktemp("motion") / "store")


def times(clips, count, seed, fps=30.0):
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, len(clips), count)
    length = np.array([len(arrays["speed"]) for arrays in clips])[clip]
    return clip, rng.uniform(0, length / fps)


@pytest.mark.parametrize("backend", ["mmap", "ram", "pread"])
def test_frames_come_bit_for_bit(made, backend):
    store, clips = made
    lookup = MotionLookup(TrajectoryStore.open(store.path, backend), [*STATES, *HELD])
    for number, arrays in enumerate(clips):
        states = len(arrays["speed"])
        for frame in {0, 1, states // 2, states - 2, states - 1}:
            found = lookup.at([number], [frame / 30], [0.0])
            assert found["valid"].all()
            for key in (*STATES, *HELD):
                row = min(frame, states - 2) if key == "action" else frame
                assert found[key].dtype == arrays[key].dtype
                assert found[key].tobytes() == arrays[key][row].tobytes(), (key, frame)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_what_lies_between(made, backend):
    store, clips = made
    lookup = MotionLookup(TrajectoryStore.open(store.path, backend), [*STATES, *HELD])
    clip, seconds = times(clips, 200, 1)
    offsets = np.array([0, 0.02, -0.05, 0.3])
    found = lookup.at(clip, seconds, offsets)
    for env, (number, start) in enumerate(zip(clip, seconds, strict=True)):
        arrays = clips[number]
        for column, offset in enumerate(offsets):
            frame, fraction, valid = place(len(arrays["speed"]), 30.0, start + offset)
            assert found["valid"][env, column] == valid
            for key, kind in STATES.items():
                value, wanted = found[key][env, column], expected(kind, arrays[key], frame, fraction)
                if kind == "quaternion":
                    assert turn_between(value, wanted) < 5e-7
                    assert np.abs(np.linalg.norm(value.astype(np.float64), axis=-1) - 1).max() < 3e-7
                    assert ((value * arrays[key][frame]).sum(axis=-1) > 0).all()
                elif kind == "angle":
                    apart = np.angle(np.exp(1j * (value - wanted)))
                    assert np.abs(apart).max() < 1e-6
                    assert (value <= np.float32(np.pi)).all()
                    assert (value > -np.float32(np.pi)).all()
                else:
                    # The fraction is a float32, too; that alone is 2e-8 of a frame.
                    wanted = expected(kind, arrays[key], frame, float(np.float32(fraction)))
                    first, second = (arrays[key][min(frame + at, len(arrays[key]) - 1)] for at in (0, 1))
                    ulp = np.spacing(np.max(np.abs([first, second, second - first]), axis=0))
                    assert (np.abs(value - wanted) <= ulp).all(), key
            for key in HELD:
                row = min(frame, len(arrays["speed"]) - 2) if key == "action" else frame
                np.testing.assert_array_equal(found[key][env, column], arrays[key][row])


def test_rotations_at_every_angle(tmp_path):
    # Pairs of frames from a billionth of a radian to nearly half a turn apart, each way round, of either sign.
    rng = np.random.default_rng(0)
    angles = np.concatenate([np.logspace(-9, 0, 60), np.linspace(1, np.pi - 1e-3, 40)])
    axes = rng.normal(size=(100, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    from scipy.spatial.transform import Rotation

    start = Rotation.random(100, rng)
    ends = Rotation.from_rotvec(axes * angles[:, None]) * start
    rows = np.stack([start.as_quat(scalar_first=True), ends.as_quat(scalar_first=True)]).astype(np.float32)
    rows[1, ::2] *= -1
    with StoreBuilder(tmp_path / "store") as builder:
        builder.add(0, 0, {"body_quat_w": rows})
    lookup = MotionLookup(TrajectoryStore.open(tmp_path / "store"), fps=1)
    for fraction in (1e-5, 0.1, 1 / 3, 0.5, 0.75, 0.999):
        value = lookup.at([0], [fraction])["body_quat_w"][0, 0]
        assert turn_between(value, expected("quaternion", rows, 0, np.float32(fraction))) < 5e-7
        assert np.abs(np.linalg.norm(value.astype(np.float64), axis=-1) - 1).max() < 3e-7


def test_either_sign_is_the_same_rotation(tmp_path):
    clip = moving(30, 0)
    flipped = {**clip, "body_quat_w": clip["body_quat_w"].copy()}
    flipped["body_quat_w"][::2] *= -1
    with StoreBuilder(tmp_path / "store", attributes=motion_attributes()) as builder:
        builder.add(0, 0, clip)
        builder.add(0, 1, flipped)
    lookup = MotionLookup(TrajectoryStore.open(tmp_path / "store"), ["body_quat_w"])
    seconds = np.linspace(0, 29 / 30, 100)
    one, other = (lookup.at(np.full(100, clip), seconds)["body_quat_w"] for clip in (0, 1))
    assert turn_between(one, other) < 5e-7


def test_offsets_in_any_order_are_the_same_rows(made):
    store, clips = made
    lookup = MotionLookup(store, [*STATES, *HELD])
    clip, seconds = times(clips, 50, 2)
    offsets = np.array([0.0, 0.1, -0.03, 0.1, 2.0, 0.02])
    together = lookup.at(clip, seconds, offsets)
    backwards = lookup.at(clip, seconds, offsets[::-1])
    for key, rows in together.items():
        np.testing.assert_array_equal(rows[:, ::-1], backwards[key])
        for column, offset in enumerate(offsets):
            np.testing.assert_array_equal(rows[:, [column]], lookup.at(clip, seconds, [offset])[key])


@pytest.mark.parametrize("frame", ["world", "robot", "heading", "anchor"])
def test_the_same_bits_on_any_number_of_threads_and_for_any_part(tmp_path, frame):
    store, clips = build(tmp_path / "store", (300, 200, 400))
    lookup = MotionLookup(store, frame=frame, anchor="torso", kinds={"yaw": "angle", "speed": "local"})
    clip, seconds = times(clips, 4000, 3)
    rng = np.random.default_rng(0)
    pose = (
        {"anchor_pos": rng.normal(size=(4000, 3)), "anchor_quat": rng.normal(size=(4000, 4))}
        if frame == "robot"
        else {}
    )
    offsets = np.arange(4) * 0.02
    try:
        set_num_threads(1)
        whole = lookup.at(clip, seconds, offsets, **pose)
        assert sum(rows.nbytes for rows in whole.values()) > 8 << 20  # written past the caches
        for threads in (2, 3):
            set_num_threads(threads)
            for key, rows in lookup.at(clip, seconds, offsets, **pose).items():
                np.testing.assert_array_equal(rows, whole[key])
    finally:
        set_num_threads(None)
    # Fewer envs are written to the caches, fewer bodies are picked one by one; the values are the same.
    some = rng.permutation(4000)[:70]
    part = lookup.at(
        clip[some], seconds[some], offsets, ["body_quat_w"], **{key: rows[some] for key, rows in pose.items()}
    )
    np.testing.assert_array_equal(part["body_quat_w"], whole["body_quat_w"][some])
    for names in (BODIES[::-1], BODIES[2:5], (*BODIES[:4], *BODIES[5:]), ("hand", "pelvis")):
        fewer = MotionLookup(store, frame=frame, anchor="torso", bodies=names)
        found = fewer.at(clip, seconds, offsets, **pose)
        at = [BODIES.index(name) for name in names]
        for key in ("body_pos_w", "body_quat_w", "body_lin_vel_w", "body_ang_vel_w"):
            np.testing.assert_array_equal(found[key], whole[key][:, :, at])


def test_joints_by_name(made, tmp_path):
    store, clips = made
    clip, seconds = times(clips, 40, 4)
    whole = MotionLookup(store).at(clip, seconds)
    fewer = MotionLookup(store, joints=["elbow", "hip"])
    assert fewer.joint_names == ("elbow", "hip")
    found = fewer.at(clip, seconds)
    for key in ("joint_pos", "joint_vel"):
        np.testing.assert_array_equal(found[key], whole[key][..., [4, 0]])
    for key in ("speed", "yaw", "body_pos_w"):
        np.testing.assert_array_equal(found[key], whole[key])


def test_joints_behind_a_root(tmp_path):
    rng = np.random.default_rng(0)
    qpos, qvel = rng.normal(size=(20, 12)).astype(np.float32), rng.normal(size=(20, 11)).astype(np.float32)
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    for names in (list(JOINTS), ["root", *JOINTS]):
        told = {"motion": {"fps": 30, "joint_names": names}}
        with StoreBuilder(tmp_path / "store", overwrite=True, attributes=told) as builder:
            builder.add(0, 0, {"qpos": qpos, "qvel": qvel})
        store = TrajectoryStore.open(tmp_path / "store")
        found = MotionLookup(store, joints=["waist", "hip"]).at([0, 0], [0.1, 0.25])
        whole = MotionLookup(store).at([0, 0], [0.1, 0.25])
        assert found["qpos"].shape == (2, 1, 9)
        np.testing.assert_array_equal(found["qpos"], whole["qpos"][..., [0, 1, 2, 3, 4, 5, 6, 10, 7]])
        np.testing.assert_array_equal(found["qvel"], whole["qvel"][..., [0, 1, 2, 3, 4, 5, 9, 6]])


def test_the_order_of_quaternions(made, tmp_path):
    store, clips = made
    clip, seconds = times(clips, 60, 5)
    seconds[::3] = np.round(seconds[::3] * 30) / 30
    told = MotionLookup(store, frame="heading", anchor="torso").at(clip, seconds)
    other = MotionLookup(store, frame="heading", anchor="torso", quat_order="xyzw").at(clip, seconds)
    np.testing.assert_array_equal(other["body_quat_w"], told["body_quat_w"][..., [1, 2, 3, 0]])
    # A store that says it holds xyzw gives the same rotations.
    attributes = motion_attributes()
    attributes["motion"]["quaternion_order"] = "xyzw"
    with StoreBuilder(tmp_path / "store", attributes=attributes) as builder:
        for number, arrays in enumerate(clips):
            rows = {key: arrays[key] for key in STATES}
            builder.add(0, number, {**rows, "body_quat_w": rows["body_quat_w"][..., [1, 2, 3, 0]]})
    stored = TrajectoryStore.open(tmp_path / "store")
    for order, expected_rows in (("wxyz", told), ("xyzw", other)):
        found = MotionLookup(stored, frame="heading", anchor="torso", quat_order=order).at(clip, seconds)
        for key, rows in expected_rows.items():
            # The dot product is summed in another order.
            np.testing.assert_allclose(found[key], rows, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(tmp_path, dtype):
    store, clips = build(tmp_path / "store", dtype=dtype)
    lookup = MotionLookup(store)
    clip, seconds = times(clips, 60, 6)
    found = lookup.at(clip, seconds)
    widened = np.float32 if dtype == np.float16 else np.float64
    for env, (number, start) in enumerate(zip(clip, seconds, strict=True)):
        frame, fraction, _ = place(len(clips[number]["speed"]), 30.0, start)
        for key in ("joint_pos", "body_lin_vel_w", "body_quat_w"):
            assert found[key].dtype == widened
            rows = clips[number][key].astype(widened)
            wanted = expected(STATES[key], rows, frame, fraction)
            # Rotations of half floats are not of unit length; scipy makes them so before it mixes them.
            half = 1e-4 if key == "body_quat_w" else 1e-6
            tolerance = half if dtype == np.float16 else 1e-7 if key == "body_quat_w" else 1e-12
            np.testing.assert_allclose(found[key][env, 0], wanted, atol=tolerance, rtol=0)
    frames = lookup.at([0, 3], [3 / 30, 11 / 30])
    for row, (number, frame) in enumerate(((0, 3), (3, 11))):
        np.testing.assert_array_equal(frames["body_pos_w"][row, 0], clips[number]["body_pos_w"][frame].astype(widened))


def test_beyond_the_ends_the_outermost_frames_are_held(made):
    store, clips = made
    lookup = MotionLookup(store, [*STATES, *HELD])
    found = lookup.at([1, 1], [0.1, 0.1], [-0.3, 0.0, 0.1, 0.2, 5.0])
    np.testing.assert_array_equal(found["valid"][0], [False, True, True, False, False])
    for key in STATES:
        np.testing.assert_array_equal(found[key][0, 0], clips[1][key][0])
        np.testing.assert_array_equal(found[key][0, 4], clips[1][key][-1])
    strict = MotionLookup(store, boundary="error")
    assert strict.at([1], [0.1], [0.0, 0.1])["valid"].all()
    out = {"speed": np.full((2, 1, 3), 7, np.float32)}
    with pytest.raises(OutOfRangeError, match=r"entry 1: 0\.4"):
        strict.at([1, 1], [0.1, 0.4], keys=["speed"], out=out)
    assert (out["speed"] == 7).all()


@given(
    st.integers(2, 400),
    st.sampled_from([24.0, 29.97, 30.0, 50.0, 59.94, 60.0, 100.0, 120.0]),
    st.sampled_from([0.005, 0.01, 0.02, 1 / 30, 1 / 60]),
    st.integers(-50, 40_000),
)
def test_the_rule_of_time_against_fractions(ruler, states, fps, control_dt, steps):
    from fractions import Fraction

    seconds = steps * control_dt
    position = Fraction(seconds) * Fraction(fps)
    found = ruler(states, fps).at([0], [seconds])
    where = float(found["joint_pos"][0, 0, 0])
    exact = min(max(position, 0), states - 1)
    assert abs(where - float(exact)) <= 1e-6 + np.spacing(np.float32(states))
    tolerance = Fraction(2, 10**6)
    if position < -tolerance or position > states - 1 + tolerance:
        assert not found["valid"][0, 0]
    elif 0 <= position <= states - 1:
        assert found["valid"][0, 0]
    # The held frame is the one before, never one after.
    assert int(found["phase"][0, 0, 0]) in {int(exact), int(exact + tolerance)}


@pytest.fixture(scope="module")
def ruler(tmp_path_factory):
    """A look-up of one clip in which the joint at frame i is i, for any length and rate."""
    root, kept = tmp_path_factory.mktemp("rulers"), {}

    def of(states, fps):
        if states not in kept:
            with StoreBuilder(root / str(states)) as builder:
                count = np.arange(states)
                builder.add(0, 0, {"joint_pos": count[:, None].astype(np.float32), "phase": count[:, None]})
            kept[states] = TrajectoryStore.open(root / str(states))
        return MotionLookup(kept[states], ["joint_pos", "phase"], fps=fps, kinds={"joint_pos": "joint"})

    return of


def test_rates_differ_between_clips(tmp_path):
    store, clips = build(tmp_path / "store", (40, 40), attributes=motion_attributes([30.0, 60.0]))
    lookup = MotionLookup(store)
    found = lookup.at([0, 1], [0.5, 0.5])
    np.testing.assert_array_equal(found["speed"][:, 0], [clips[0]["speed"][15], clips[1]["speed"][30]])
    assert MotionLookup(store, fps=10.0).at([1], [1.5])["speed"][0, 0].tobytes() == clips[1]["speed"][15].tobytes()


def test_nan_stays_where_it_is(tmp_path):
    clip = moving(10, 0)
    for key in ("joint_pos", "body_pos_w", "body_quat_w"):
        clip[key][4].flat[0] = np.nan
    with StoreBuilder(tmp_path / "store", attributes=motion_attributes()) as builder:
        builder.add(0, 0, clip)
    store = TrajectoryStore.open(tmp_path / "store")
    for frame in ("world", "heading", "anchor"):
        found = MotionLookup(store, frame=frame, anchor="torso").at([0, 0, 0], [3.5 / 30, 4.5 / 30, 5.5 / 30])
        broken = {key: np.isnan(rows[:, 0].reshape(3, -1)).sum(axis=1).tolist() for key, rows in found.items()}
        assert broken["joint_pos"] == [1, 1, 0]
        assert broken["body_quat_w"] == [4, 4, 0]
        assert max(broken["body_pos_w"]) <= 3
        assert broken["body_pos_w"][2] == broken["speed"][0] == 0


def test_shapes_and_outputs(made):
    store, clips = made
    lookup = MotionLookup(store, ["body_quat_w", "phase"])
    clip, seconds = times(clips, 12, 7)
    flat = lookup.at(clip, seconds, [0.0, 0.1])
    out = {"body_quat_w": np.empty((3, 4, 2, len(BODIES), 4), np.float32), "phase": np.empty((3, 4, 2), np.int64)}
    found = lookup.at(clip.reshape(3, 4), seconds.reshape(3, 4), [0.0, 0.1], out=out)
    for key, rows in out.items():
        assert found[key] is rows
        np.testing.assert_array_equal(rows.reshape(flat[key].shape), flat[key])
    assert flat["body_quat_w"].ctypes.data % 64 == 0
    single = lookup.at(int(clip[0]), float(seconds[0]))
    assert single["body_quat_w"].shape == (1, len(BODIES), 4)
    assert single["valid"].shape == (1,)
    np.testing.assert_array_equal(single["body_quat_w"][0], flat["body_quat_w"][0, 0])
    nothing = lookup.at(np.empty(0, int), np.empty(0))
    assert nothing["phase"].shape == (0, 1)
    np.testing.assert_array_equal(lookup.at(0, seconds, keys="phase")["phase"].shape, (12, 1))


def test_nested_keys(tmp_path):
    clip = moving(10, 0)
    with StoreBuilder(tmp_path / "store", attributes={"motion": {"fps": 30, "body_names": list(BODIES)}}) as builder:
        builder.add(0, 0, {("left", "body_pos_w"): clip["body_pos_w"], ("left", "body_quat_w"): clip["body_quat_w"]})
    lookup = MotionLookup(TrajectoryStore.open(tmp_path / "store"), frame="anchor", anchor="torso", bodies=["torso"])
    found = lookup.at([0], [0.05])
    np.testing.assert_allclose(found["left", "body_pos_w"], np.zeros((1, 1, 1, 3)), atol=1e-6)
    np.testing.assert_allclose(found["left", "body_quat_w"][0, 0, 0], [1, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"keys": ["joint_pos", "nothing"]}, MissingKeyError, "no key 'nothing'"),
        ({"keys": ["joint_pos", "joint_pos"]}, ArgumentError, "each once"),
        ({"keys": []}, ArgumentError, "at least one"),
        ({"keys": ["frame"]}, SchemaError, "'frame'"),
        ({"keys": [("next", "joint_pos")]}, ArgumentError, "later offset"),
        ({"bodies": ["pelvis", "hands"]}, ArgumentError, "no 'hands'; there are hand"),
        ({"bodies": ["pelvis", "pelvis"]}, ArgumentError, "twice"),
        ({"bodies": []}, ArgumentError, "at least one"),
        ({"bodies": "pelvis"}, ArgumentError, "list of names"),
        ({"bodies": [0]}, ArgumentError, "the store has names"),
        ({"joints": ["kne"]}, ArgumentError, "there are knee"),
        ({"anchor": "chest"}, ArgumentError, "no 'chest'"),
        ({"frame": "heading"}, ArgumentError, "name a body as anchor="),
        ({"frame": "body"}, ArgumentError, "frame: expected one of"),
        ({"heading": "yaw"}, ArgumentError, "heading: expected one of"),
        ({"quat_order": "wzyx"}, ArgumentError, "quat_order: expected one of"),
        ({"boundary": "wrap"}, ArgumentError, "boundary: expected one of"),
        ({"fps": 0}, ArgumentError, "positive"),
        ({"fps": [30.0, 30.0]}, ArgumentError, "one for each of 4 clips"),
        ({"fps": float("nan")}, ArgumentError, "positive"),
        ({"fps": "fast"}, ArgumentError, "fps"),
        ({"kinds": {"joint_pos": "quaternion"}}, SchemaError, "5 columns"),
        ({"kinds": {"nothing": "joint"}}, MissingKeyError, "no key 'nothing'"),
        ({"kinds": {"phase": "joint"}, "keys": ["phase"]}, ValueError, "int64 cannot be mixed"),
        ({"kinds": {"action": "joint"}, "keys": ["action"]}, ValueError, "belongs to a transition"),
    ],
)
def test_what_cannot_be_looked_up(made, options, error, words):
    store, _ = made
    with pytest.raises(error, match=words):
        MotionLookup(store, **options)


def test_a_store_that_says_nothing(tmp_path):
    clip = moving(5, 0)
    with StoreBuilder(tmp_path / "store") as builder:
        builder.add(0, 0, {"body_pos_w": clip["body_pos_w"], "other": clip["speed"]}, name="lab/walk")
    store = TrajectoryStore.open(tmp_path / "store")
    with pytest.raises(ArgumentError, match="pass fps="):
        MotionLookup(store)
    lookup = MotionLookup(store, fps=30, bodies=[2, 0])
    assert lookup.keys == ["body_pos_w"]
    np.testing.assert_array_equal(lookup.at([0], [0.1])["body_pos_w"][0, 0], clip["body_pos_w"][3][[2, 0]])
    for bodies, words in (([11], "within 0"), (["pelvis"], "says no names"), ([True], "integer"), ([1, 1], "twice")):
        with pytest.raises(ArgumentError, match=words):
            MotionLookup(store, fps=30, bodies=bodies)
    with pytest.raises(SchemaError, match="'other'"):
        MotionLookup(store, ["other"], fps=30)
    with StoreBuilder(tmp_path / "rates", attributes=motion_attributes([30.0, None])) as builder:
        builder.add(0, 0, clip)
        builder.add(0, 1, clip, name="odd")
    with pytest.raises(ArgumentError, match="no rate is known of odd"):
        MotionLookup(TrajectoryStore.open(tmp_path / "rates"))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"clip": [0, 4]}, OutOfRangeError, "clip 4 of 4"),
        ({"clip": [0, -1]}, OutOfRangeError, "clip -1 of 4"),
        ({"clip": [0.0, 1.0]}, TypeError, "integers"),
        ({"clip": [0, 1, 2]}, ArgumentError, "do not fit together"),
        ({"time": [0.0, np.nan]}, ArgumentError, "finite numbers, found nan"),
        ({"time": ["a", "b"]}, ArgumentError, "time: expected numbers"),
        ({"offsets": []}, ArgumentError, "at least one"),
        ({"offsets": [0.0, np.inf]}, ArgumentError, "finite"),
        ({"offsets": [[0.0]]}, ArgumentError, "offsets"),
        ({"keys": ["image"]}, MissingKeyError, "no key 'image'"),
        ({"env_origins": np.zeros((2, 2))}, ArgumentError, "env_origins: expected numbers"),
        ({"env_origins": np.zeros((3, 3))}, ArgumentError, "env_origins: expected numbers"),
        ({"out": {"speed": np.zeros((2, 1, 3), np.float32)}}, MissingKeyError, "no array for key 'joint_pos'"),
        ({"keys": ["speed"], "out": {"speed": np.zeros((2, 2, 3), np.float32)}}, ArgumentError, "'speed'"),
        ({"keys": ["speed"], "out": {"speed": np.zeros((2, 1, 3))}}, TypeError, "float64"),
        ({"keys": ["speed"], "out": {"speed": np.zeros((3, 1, 2), np.float32).T}}, ArgumentError, "C-contiguous"),
    ],
)
def test_bad_calls_write_nothing(made, arguments, error, words):
    store, _ = made
    lookup = MotionLookup(store)
    with pytest.raises(error, match=words):
        lookup.at(**{"clip": [0, 1], "time": [0.0, 0.1], **arguments})
    for array in arguments.get("out", {}).values():
        assert (array == 0).all()
