"""What a file leaves unsaid: rates, orders of quaternions, names and keys to skip, said for every format alike."""

import numpy as np
import pytest
import zarr
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError
from iltools_datasets.sources import export, open_source, open_sources, source_class, source_formats
from motions import (
    BODIES,
    JOINTS,
    amp_arrays,
    as_xyzw,
    robot_rows,
    same_rotations,
    tracking_arrays,
    turn,
    walk,
    write_rows,
)

NAMES = ["a", "b", "c", "d", "e"]


def read(path, **options):
    source = open_source(path, **options)
    (recording,) = source.read(source.files()[0])
    return recording, source.notes


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def csv(tmp_path, order="xyzw", name="walk_50hz.csv", **options):
    return write_rows(tmp_path / name, robot_rows(walk(**options), order))


def motion(tmp_path, order="wxyz", name="walk.npz", **changes):
    return save(tmp_path / name, **tracking_arrays(walk(), order=order, **changes))


def amp(tmp_path, order="wxyz", name="amp.npz", **changes):
    return save(tmp_path / name, **amp_arrays(walk(), order=order, **changes))


def trajopt(tmp_path, **changes):
    moved = walk()
    qpos = np.concatenate([moved["position"], moved["rotation"], moved["joints"]], axis=1)
    return save(tmp_path / "trajopt.npz", qpos=qpos, qvel=np.zeros((len(qpos), 11)), **changes)


def loco(tmp_path, order="wxyz", **changes):
    moved = walk()
    rotation = moved["rotation"] if order == "wxyz" else as_xyzw(moved["rotation"])
    qpos = np.concatenate([moved["position"], rotation, moved["joints"]], axis=1)
    arrays = {
        "qpos": qpos,
        "qvel": np.zeros((len(qpos), 6 + JOINTS)),
        "split_points": np.array([0, len(qpos)]),
        "jnt_type": np.array([0, *[3] * JOINTS]),
        **changes,
    }
    return save(tmp_path / "loco.npz", **arrays)


def legacy(tmp_path, **changes):
    return save(tmp_path / "legacy.npz", q_hip=np.zeros(9), dq_hip=np.zeros(9), **changes)


def flat(tmp_path):
    root = zarr.open_group(tmp_path / "push.zarr", mode="w")
    root.create_array("data/state", data=np.zeros((9, 2)))
    root.create_array("data/eef_quat", data=as_xyzw(turn(2, np.linspace(0, 1, 9))))
    root.create_array("meta/episode_ends", data=np.array([9]))
    return tmp_path / "push.zarr"


# Rates


MAKERS = {"motion": motion, "amp": amp, "trajopt": trajopt, "loco": loco, "legacy": legacy, "flat": flat}


@pytest.mark.parametrize("name", MAKERS)
def test_every_format_is_told_its_rate(tmp_path, name):
    recording, _ = read(MAKERS[name](tmp_path), fps=59.94)
    assert recording.fps == 59.94
    assert recording.dt == 1 / 59.94


@pytest.mark.parametrize("make", [motion, amp])
@pytest.mark.parametrize(
    "fps",
    [None, np.zeros(0, int), np.zeros(1), np.array([-50]), np.array(np.nan), np.array([np.inf]), np.array([25, 50])],
)
def test_a_file_without_a_usable_rate(tmp_path, make, fps):
    path = make(tmp_path, fps=fps)
    with pytest.raises(SourceError, match=f"{path}: .*pass fps=30, or whatever it is"):
        read(path)
    assert read(path, fps=50)[0].fps == 50.0


@pytest.mark.parametrize(
    ("member", "value", "expected"),
    [
        ("fps", np.array(50), 50),
        ("fps", np.array([50.0]), 50),
        ("fps", np.array([[50]]), 50),
        ("fps", np.array("50"), 50),
        ("fps", np.full(80, 50), 50),
        ("frequency", np.array(100), 100),
        ("framerate", np.array(120), 120),
        ("frame_rate", np.array(120), 120),
        ("dt", np.array(0.02), 50),
        ("timestep", np.array([0.01]), 100),
    ],
)
def test_a_rate_by_any_name(tmp_path, member, value, expected):
    recording, notes = read(motion(tmp_path, **{"fps": None, member: value}))
    assert recording.fps == pytest.approx(expected)
    assert notes == []
    assert member not in recording.arrays


def test_what_is_told_counts_and_a_note_says_what_the_file_says(tmp_path):
    recording, notes = read(motion(tmp_path), fps=25)
    assert recording.fps == 25
    assert notes == [f"{tmp_path / 'walk.npz'}: says 50 states per second; 25 was told and counts"]
    assert read(motion(tmp_path), fps=50)[1] == []
    recording, _ = read(trajopt(tmp_path, dt=np.array(0.01)), fps=25)
    assert (recording.fps, recording.dt) == (25, 0.04)


def test_the_same_of_many_files_is_one_note(tmp_path):
    for number in range(12):
        motion(tmp_path, name=f"walk{number}.npz", odd=np.zeros(3))
    report = export(open_sources([tmp_path], fps=25), tmp_path / "out" / "a.zarr")
    assert len(report.notes) == 2
    assert report.notes[0].startswith(f"{tmp_path / 'walk0.npz'} and 11 more files: says 50 states")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "abc", True, [30], {}, "30"])
def test_rates_that_are_none(tmp_path, value):
    for path in (csv(tmp_path), motion(tmp_path), legacy(tmp_path), flat(tmp_path)):
        with pytest.raises(SourceError, match="option fps: expected a positive number, found"):
            open_source(path, fps=value)
    with pytest.raises(SourceError, match="option frequency: expected a positive number"):
        open_source(loco(tmp_path), frequency=value)


# Orders


def up_to_date(path, order, expected, **options):
    """Read a file whose quaternions are in an order, and compare what comes with the truth."""
    recording, notes = read(path, **options)
    key = next(key for key in ("qpos", "body_quat_w", "body_rotations") if key in recording.arrays)
    found = recording.arrays[key]
    found = found[:, 3:7] if key == "qpos" else found[:, 1]
    assert same_rotations(found, walk()["rotation"]) == expected
    if expected:
        assert recording.quaternion_order == "wxyz"
        assert recording.attributes["quaternion_order_in_file"] == order
    return notes


@pytest.mark.faults
@pytest.mark.parametrize(("make", "usual"), [(csv, "xyzw"), (motion, "wxyz"), (amp, "wxyz")])
def test_a_file_in_the_other_order_is_refused_until_somebody_says_so(tmp_path, make, usual):
    other = "wxyz" if usual == "xyzw" else "xyzw"
    path = make(tmp_path, other)
    with pytest.raises(SourceError) as raised:
        read(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: the order of its quaternions is in doubt: read as {usual} ")
    assert f"pass quaternion_order={other}, or quaternion_order={usual} if it is right as it is" in text
    assert up_to_date(path, other, True, quaternion_order=other) == []
    (note,) = up_to_date(path, other, True, quaternion_order="auto")
    assert f"quaternions taken for {other}: read as {usual}" in note
    (note,) = up_to_date(path, usual, False, quaternion_order=usual)
    assert f"quaternions taken for {usual} as was said, although read as {usual}" in note


@pytest.mark.parametrize(("make", "usual"), [(csv, "xyzw"), (motion, "wxyz"), (amp, "wxyz")])
def test_a_file_in_the_usual_order_is_left_alone(tmp_path, make, usual):
    path = make(tmp_path, usual)
    for options in ({}, {"quaternion_order": usual}, {"quaternion_order": "auto"}):
        assert up_to_date(path, usual, True, **options) == []


def test_bodies_that_hardly_turn_are_told_by_their_velocities(tmp_path):
    """Standing upright and facing ahead all the time, xyzw read as wxyz is upright, too."""
    still = walk()
    still["rotation"] = turn(2, 0.2 * np.sin(np.arange(80) / 8))
    path = save(tmp_path / "a.npz", **tracking_arrays(still, order="xyzw"))
    with pytest.raises(SourceError, match="turns against its own angular velocities"):
        read(path)
    recording, _ = read(path, quaternion_order="auto")
    assert same_rotations(recording.arrays["body_quat_w"][:, 1], still["rotation"])
    # Without velocities nothing shows it, and the usual order is taken.
    arrays = tracking_arrays(still, order="xyzw", body_ang_vel_w=None)
    recording, notes = read(save(tmp_path / "b.npz", **arrays))
    assert recording.attributes["quaternion_order_in_file"] == "wxyz"
    assert notes == []


def test_a_robot_that_falls_and_gets_up_is_not_doubted(tmp_path):
    moved = walk(200)
    fall = np.clip(np.minimum(np.arange(200) - 20, 90 - np.arange(200)), 0, 20) * (np.pi / 2 / 20)
    from motions import product

    moved["rotation"] = product(moved["rotation"], turn(1, fall))
    for name, rows in (("a_50hz.csv", robot_rows(moved)),):
        recording, notes = read(write_rows(tmp_path / name, rows))
        assert same_rotations(recording.arrays["qpos"][:, 3:7], moved["rotation"])
        assert notes == []


@pytest.mark.parametrize("root_order", ["wxyz", "xyzw"])
@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
@pytest.mark.parametrize("names", [True, False])
def test_the_root_in_front_of_the_joints_is_compared_with_the_body_that_it_is(tmp_path, root_order, order, names):
    moved = walk()
    root = moved["rotation"] if root_order == "wxyz" else as_xyzw(moved["rotation"])
    pose = np.concatenate([moved["position"], root, moved["joints"]], axis=1)
    velocity = np.zeros((80, 6 + JOINTS))
    arrays = tracking_arrays(moved, order=order, joint_pos=pose, joint_vel=velocity)
    if not names:
        del arrays["body_names"]
    recording, notes = read(save(tmp_path / "a.npz", **arrays), quaternion_order=order)
    assert same_rotations(recording.arrays["joint_pos"][:, 3:7], moved["rotation"])
    assert same_rotations(recording.arrays["body_quat_w"][:, 1], moved["rotation"])
    assert f"({root_order} in the file)" in recording.attributes["joint_pos_layout"]
    assert recording.quaternions == {"body_quat_w": (0,), "joint_pos": (3,)}
    assert notes == []


def test_a_root_that_no_body_is(tmp_path):
    moved = walk()
    other = walk(seed=3)
    pose = np.concatenate([moved["position"] + 5, as_xyzw(moved["rotation"]), moved["joints"]], axis=1)
    arrays = tracking_arrays(other, joint_pos=pose, joint_vel=np.zeros((80, 6 + JOINTS)))
    arrays["body_quat_w"] = np.tile([1.0, 0, 0, 0], (80, 4, 1))
    arrays["body_ang_vel_w"] = np.zeros((80, 4, 3))
    arrays["body_names"] = np.array(["a", "b", "c", "d"])
    path = save(tmp_path / "a.npz", **arrays)
    recording, notes = read(path)
    assert "no body stands and turns as the root in 'joint_pos' does" in notes[0]
    assert "(wxyz in the file)" in recording.attributes["joint_pos_layout"]  # upright either way: the usual one
    pose[:, 3:7] = moved["rotation"][:, [3, 0, 1, 2]]  # lies as wxyz, and stands as xyzw does not help either
    read(save(tmp_path / "b.npz", **{**arrays, "joint_pos": pose}), quaternion_order="wxyz")


def test_an_objects_rotation_goes_with_the_bodies(tmp_path):
    moved = walk()
    box = turn(2, np.linspace(0, 2, 80))
    arrays = tracking_arrays(moved, order="xyzw", object_quat_w=as_xyzw(box), object_pos_w=np.ones((80, 3)))
    arrays["contact"] = np.ones((80, 2), bool)
    recording, notes = read(save(tmp_path / "a.npz", **arrays), quaternion_order="xyzw")
    np.testing.assert_array_equal(recording.arrays["object_quat_w"], box)
    assert recording.quaternions["object_quat_w"] == (0,)
    assert recording.arrays["contact"].dtype == np.bool_
    assert notes == []


def test_mujocos_quaternions(tmp_path):
    recording, notes = read(loco(tmp_path))
    assert same_rotations(recording.arrays["qpos"][:, 3:7], walk()["rotation"])
    recording, notes = read(loco(tmp_path, "xyzw"), quaternion_order="xyzw")
    assert same_rotations(recording.arrays["qpos"][:, 3:7], walk()["rotation"])
    assert notes == []


def test_replays_are_turned_only_if_somebody_says_from_what(tmp_path):
    path = flat(tmp_path)
    stored = as_xyzw(turn(2, np.linspace(0, 1, 9)))
    recording, _ = read(path)
    np.testing.assert_array_equal(recording.arrays["eef_quat"], stored)
    assert recording.quaternions == {}
    recording, _ = read(path, quaternion_order="xyzw")
    np.testing.assert_array_equal(recording.arrays["eef_quat"], turn(2, np.linspace(0, 1, 9)))
    assert recording.quaternions == {"eef_quat": (0,)}


def test_the_archive_and_the_report_say_the_order(tmp_path):
    csv(tmp_path)
    motion(tmp_path)
    report = export(open_sources([tmp_path]), tmp_path / "out" / "a.zarr")
    assert report.quaternion_orders == {"wxyz": 1, "xyzw": 1}
    attributes = [trajectory.attributes for trajectory in ArchiveReader(tmp_path / "out" / "a.zarr").trajectories]
    assert {entry["quaternion_order"] for entry in attributes} == {"wxyz"}
    assert sorted(entry["quaternion_order_in_file"] for entry in attributes) == ["wxyz", "xyzw"]


@pytest.mark.parametrize("value", ["zyxw", "WXYZ", "", 1, ["wxyz"], True])
def test_orders_that_there_are_none_of(tmp_path, value):
    for path in (csv(tmp_path), motion(tmp_path), loco(tmp_path), trajopt(tmp_path)):
        with pytest.raises(SourceError, match=r"option quaternion_order: .*'wxyz'"):
            open_source(path, quaternion_order=value)


# Names


@pytest.mark.parametrize("value", [NAMES, tuple(NAMES), "a,b,c,d,e", " a, b ,c,d,e"])
def test_names_are_told_as_a_list_or_as_text(tmp_path, value):
    for path in (csv(tmp_path), motion(tmp_path, joint_names=None), amp(tmp_path, dof_names=None), trajopt(tmp_path)):
        assert read(path, joint_names=value)[0].attributes["joint_names"] == NAMES


def test_names_that_are_told_count_and_a_note_says_so(tmp_path):
    recording, notes = read(motion(tmp_path), joint_names=NAMES, body_names=list(BODIES))
    assert recording.attributes["joint_names"] == NAMES
    assert notes == [f"{tmp_path / 'walk.npz'}: has other joint_names; those that were told count"]


def test_amp_needs_names(tmp_path):
    with pytest.raises(SourceError, match="'dof_names' should be strings; pass joint_names=name,name,"):
        read(amp(tmp_path, dof_names=None))
    with pytest.raises(SourceError, match="'body_names' should be strings; pass body_names=name,name,"):
        read(amp(tmp_path, body_names=np.arange(4)))
    assert read(amp(tmp_path, body_names=None), body_names=BODIES)[0].attributes["body_names"] == list(BODIES)


@pytest.mark.parametrize("value", [1, "a,,b", ["a", 1], ["a", "a"], {"a": 1}, "", b"ab"])
def test_names_that_are_none(tmp_path, value):
    with pytest.raises(SourceError, match="option joint_names: expected names"):
        open_source(csv(tmp_path), joint_names=value)


@pytest.mark.parametrize("names", [["a"], [*NAMES, "f"]])
def test_another_number_of_names(tmp_path, names):
    with pytest.raises(SourceError, match=f"5 joints, but {len(names)} joint names were given"):
        read(csv(tmp_path), joint_names=names)
    with pytest.raises(SourceError, match=f"{len(names)} joint names, but 'joint_pos' has 5 columns"):
        read(motion(tmp_path), joint_names=names)


# Keys to skip


def test_what_is_skipped_is_not_read(tmp_path):
    arrays = tracking_arrays(walk(), camera=np.zeros((80, 4, 4, 3), np.uint8), odd=np.zeros(3))
    path = save(tmp_path / "a.npz", **arrays)
    recording, notes = read(path, skip="camera,body_lin_vel_w,odd,not_there")
    assert set(recording.arrays) == {"joint_pos", "joint_vel", "body_pos_w", "body_quat_w", "body_ang_vel_w"}
    assert notes == []
    content = path.read_bytes()
    at = content.index(b"camera.npy") + 300
    path.write_bytes(content[:at] + b"damaged" + content[at + 7 :])
    with pytest.raises(SourceError, match="'camera' is damaged"):
        read(path)
    assert "camera" not in read(path, skip=["camera"])[0].arrays


def test_skipping_works_for_every_format(tmp_path):
    assert set(read(csv(tmp_path), skip="qvel")[0].arrays) == {"qpos"}
    assert set(read(flat(tmp_path), skip="eef_quat")[0].arrays) == {"state"}
    assert "extra" not in read(trajopt(tmp_path, extra=np.zeros((80, 2))), skip="extra")[0].arrays
    assert "xpos" not in read(loco(tmp_path, xpos=np.zeros((80, 3))), skip="xpos")[0].arrays
    assert set(read(legacy(tmp_path, more=np.zeros(9)), skip="more")[0].arrays) == {"qpos", "qvel"}
    with pytest.raises(SourceError, match="no member 'body_pos_w'"):
        read(motion(tmp_path), skip="body_pos_w")


# Actions under another name


@pytest.mark.parametrize("member", ["ctrl", "controls", "tau", "acts"])
def test_what_may_be_an_action_is_asked_about(tmp_path, member):
    path = trajopt(tmp_path, **{member: np.ones((80, 3))})
    with pytest.raises(SourceError, match=f"{member!r} may be it: pass action={member}, or skip={member}"):
        read(path)
    recording, _ = read(path, action=member)
    np.testing.assert_array_equal(recording.arrays["action"], np.ones((80, 3)))
    assert member not in recording.arrays
    assert set(read(path, skip=member)[0].arrays) == {"qpos", "qvel"}
    with pytest.raises(SourceError, match="no member 'nothing'"):
        read(path, action="nothing")


# Which options there are


def test_every_format_of_files_takes_the_same_options():
    import inspect

    for name in source_formats():
        options = set(inspect.signature(source_class(name)).parameters)
        assert {"path", "motion"} <= options
        if name not in ("lerobot",):
            assert {"fps", "skip"} <= options, name
        if name not in ("lerobot", "loco-mujoco-0.4"):
            assert {"quaternion_order", "joint_names", "body_names"} <= options, name


def test_an_option_that_no_format_has_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(SourceError, match=r"no option 'colour' for the formats unitree-csv; there are angles, .*skip"):
        open_sources([csv(tmp_path)], colour="red")
    # One that some format has goes to that one.
    legacy(tmp_path)
    assert len(open_sources([tmp_path], lengths="cm")) == 2
