"""`attributes["motion"]` on the way from raw files through an archive into a store."""

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.errors import SchemaError
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.motion.description import Description, describe, disagreement
from iltools_datasets.sources import export, open_source

JOINTS, BODIES = ["hip", "knee"], ["pelvis", "foot", "hand"]


def clip(states=4, bodies=3):
    rng = np.random.default_rng(0)
    return {
        "joint_pos": rng.normal(size=(states, 2)),
        "body_pos_w": rng.normal(size=(states, bodies, 3)),
        "action": rng.normal(size=(states, 2)),
        "obs": rng.normal(size=(states, 5)),
        "mode": np.arange(states),
    }


def built(tmp_path, attributes, arrays=None, **options):
    with ArchiveWriter(tmp_path / "archive.zarr") as writer:
        for number, told in enumerate(attributes):
            writer.add("lab", "walk", f"traj{number}", clip() if arrays is None else arrays[number], told)
    path, report = build_store(tmp_path / "archive.zarr", tmp_path / "store", ["joint_pos"], **options)
    return TrajectoryStore.open(path), report


NAMED = {"joint_names": JOINTS, "body_names": BODIES}


def test_what_clips_agree_on_is_kept(tmp_path):
    store, _ = built(tmp_path, [{**NAMED, "fps": 50.0}, {**NAMED, "dt": 0.02}, {"fps": 50}])
    assert store.attributes["motion"] == {
        "fps": 50.0,
        "kinds": {"joint_pos": [["joint", 2]], "body_pos_w": [["position", 3]], "mode": [["hold", 1]]},
        "joint_names": JOINTS,
        "body_names": BODIES,
        "quaternion_order": "wxyz",
    }
    # What the store says is read back as it was meant.
    shapes = {key: store.shape(key) for key in ("joint_pos", "body_pos_w", "mode")}
    found = describe(store.attributes, shapes)
    assert (found.fps, found.joint_names, found.body_names) == (50.0, tuple(JOINTS), tuple(BODIES))
    assert {key: [list(piece) for piece in pieces] for key, pieces in found.kinds.items()} == {
        "joint_pos": [["joint", 2]],
        "body_pos_w": [["position", 3]],
        "mode": [["hold", 1]],
    }


def test_a_rate_per_clip_where_they_differ(tmp_path):
    store, _ = built(tmp_path, [{"fps": 60}, {"dt": 0.02}, {}])
    assert store.attributes["motion"]["fps"] == [60.0, 50.0, None]


def test_an_archive_that_says_nothing(tmp_path):
    store, _ = built(tmp_path, [{}])
    motion = store.attributes["motion"]
    assert (motion["fps"], motion["joint_names"], motion["body_names"]) == (None, None, None)
    # Two columns may be two joints; without names or velocities that is not known.
    assert motion["kinds"] == {"body_pos_w": [["position", 3]], "mode": [["hold", 1]]}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"joint_names": JOINTS[::-1]}, "joint_names are in another order as in lab/walk/traj0"),
        ({"body_names": ["pelvis", "foot", "head"]}, "body_names differ in hand, head as in lab/walk/traj0"),
        ({"kinds": {"joint_pos": "angle"}}, "key 'joint_pos' is angle 2, not joint 2 as in lab/walk/traj0"),
        ({"quaternion_order": "wzyx"}, "quaternion_order is 'wzyx'"),
        ({"joint_names": "hip"}, "joint_names: expected a list of strings"),
        ({"kinds": {"joint_pos": "point"}}, "'point' is no kind"),
    ],
)
def test_clips_that_disagree_are_named(tmp_path, odd, words):
    told = [NAMED, NAMED, {**NAMED, **odd}]
    with pytest.raises(SchemaError, match=r"trajectory lab/walk/traj2") as raised:
        built(tmp_path, told)
    assert words in str(raised.value)
    assert not (tmp_path / "store").exists()
    store, report = built(tmp_path / "lenient", told, strict=False)
    assert store.num_trajectories == 2
    assert words in report.skipped[0].reason


def test_names_that_only_a_later_clip_knows(tmp_path):
    store, _ = built(tmp_path, [{}, {"joint_names": JOINTS}, {"joint_names": JOINTS, "body_names": BODIES}])
    motion = store.attributes["motion"]
    assert (motion["joint_names"], motion["body_names"]) == (JOINTS, BODIES)
    with pytest.raises(SchemaError, match=r"traj2: joint_names are in another order as in lab/walk/traj1"):
        built(tmp_path / "odd", [{}, {"joint_names": JOINTS}, {"joint_names": JOINTS[::-1]}])


def test_the_order_of_quaternions():
    shapes = {"body_quat_w": (3, 4)}
    here, there = (describe({"quaternion_order": order}, shapes) for order in ("wxyz", "xyzw"))
    assert disagreement(here, there) == "quaternions are wxyz, not xyzw"
    assert disagreement(Description(quaternion_order="xyzw"), here) is None


@pytest.mark.shared_data
def test_real_motion(shared_data, tmp_path):
    source = open_source(shared_data / "unitree_g1" / "g1_dance1_subject2_30.npz")
    export(source, tmp_path / "archive.zarr")
    path, _ = build_store(tmp_path / "archive.zarr", tmp_path / "store", ["dof_positions", "dof_velocities"])
    motion = TrajectoryStore.open(path).attributes["motion"]
    assert motion["fps"] == 30.0
    assert (len(motion["joint_names"]), "torso_link" in motion["body_names"]) == (29, True)
    assert motion["kinds"]["body_rotations"] == [["quaternion", 4]]
    assert motion["kinds"]["dof_velocities"] == [["joint", 29]]


@pytest.mark.shared_data
def test_real_motion_with_a_root(shared_data, tmp_path):
    export(open_source(shared_data / "unitree_g1", format="unitree-csv"), tmp_path / "archive.zarr")
    path, _ = build_store(tmp_path / "archive.zarr", tmp_path / "store", ["qpos", "qvel"])
    motion = TrajectoryStore.open(path).attributes["motion"]
    assert (motion["fps"], len(motion["joint_names"])) == (60.0, 29)
    assert motion["kinds"] == {
        "qpos": [["position", 3], ["quaternion", 4], ["joint", 29]],
        "qvel": [["vector", 3], ["local", 3], ["joint", 29]],
    }
