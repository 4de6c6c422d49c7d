"""Which column is what: known names, declared ones, and that nothing is guessed where it may be otherwise."""

import pytest
from iltools_datasets.errors import SchemaError
from iltools_datasets.motion.kinds import NAMES, POSE_KEYS, VELOCITY_OF, as_pieces, known_pieces


@pytest.mark.parametrize(
    ("shapes", "declared", "expected"),
    [
        (
            {"qpos": (36,), "qvel": (35,)},
            {},
            {
                "qpos": [("position", 3), ("quaternion", 4), ("joint", 29)],
                "qvel": [("vector", 3), ("local", 3), ("joint", 29)],
            },
        ),
        ({"qpos": (29,), "qvel": (29,)}, {}, {"qpos": [("joint", 29)], "qvel": [("joint", 29)]}),
        # 29 names for 36 columns: a root that has no name; 30: one that has; 36: a joint each.
        (
            {"qpos": (36,)},
            {"joint_names": ["j"] * 29},
            {"qpos": [("position", 3), ("quaternion", 4), ("joint", 29)]},
        ),
        (
            {"qpos": (36,)},
            {"joint_names": ["j"] * 30},
            {"qpos": [("position", 3), ("quaternion", 4), ("joint", 29)]},
        ),
        ({"qpos": (36,)}, {"joint_names": ["j"] * 36}, {"qpos": [("joint", 36)]}),
        # A free joint, a hinge, a ball joint, two hinges.
        (
            {"qpos": (14,), "qvel": (12,)},
            {"quaternions": {"qpos": [3, 8]}},
            {
                "qpos": [("position", 3), ("quaternion", 4), ("joint", 1), ("quaternion", 4), ("joint", 2)],
                "qvel": [("vector", 3), ("local", 3), ("joint", 1), ("local", 3), ("joint", 2)],
            },
        ),
        (
            {"joint_pos": (36,), "joint_vel": (29,)},
            {"quaternions": {"joint_pos": [3]}},
            {"joint_pos": [("position", 3), ("quaternion", 4), ("joint", 29)], "joint_vel": [("joint", 29)]},
        ),
        (
            {"body_pos_w": (30, 3), "body_quat_w": (30, 4), "body_ang_vel_w": (30, 3), "cvel": (30, 6)},
            {},
            {
                "body_pos_w": [("position", 3)],
                "body_quat_w": [("quaternion", 4)],
                "body_ang_vel_w": [("vector", 3)],
                "cvel": [("vector", 6)],
            },
        ),
        ({"pelvis_quat": (4,), "quat_cost": (3,)}, {}, {"pelvis_quat": [("quaternion", 4)]}),
        ({"heading": (1,)}, {"kinds": {"heading": "angle"}}, {"heading": [("angle", 1)]}),
        ({"qpos": (4,), "qvel": (4,)}, {"kinds": {"qpos": [["angle", 4]]}}, {"qpos": [("angle", 4)]}),
    ],
)
def test_known_keys(shapes, declared, expected):
    found = known_pieces(shapes, declared=declared)
    assert {key: [tuple(piece) for piece in found[key]] for key in expected} == expected
    assert all(sum(piece.width for piece in pieces) == shapes[key][-1] for key, pieces in found.items())


@pytest.mark.parametrize(
    "shapes",
    [
        {"qpos": (36,)},  # 36 joints, or a root and 29
        {"qpos": (61,), "qvel": (54,)},  # several rotations, nobody says where
        {"joint_pos": (36,), "joint_vel": (35,)},  # a root, in frames nobody says
        {"observation": (71,)},
        {"site_xmat": (4, 9)},
        {"body_pos_w": (30, 4)},
        {"root_rot": (4,)},
        {"height": ()},
    ],
)
def test_what_may_be_otherwise_is_not_guessed(shapes):
    assert list(shapes)[-1] not in known_pieces(shapes)


def test_what_is_no_float_is_held():
    found = known_pieces(
        {"qpos": (7,), "image": (8, 8, 3), "flag": ()}, floats={"qpos": False, "image": False, "flag": False}
    )
    assert {key: [tuple(piece) for piece in pieces] for key, pieces in found.items()} == {
        "qpos": [("hold", 7)],
        "image": [("hold", 3)],
        "flag": [("hold", 1)],
    }


def test_the_table_fits_together():
    assert set(VELOCITY_OF.values()) <= set(NAMES)
    for position, rotation in POSE_KEYS:
        assert (NAMES[position].kind, NAMES[rotation].kind) == ("position", "quaternion")
        assert NAMES[position].of == NAMES[rotation].of == "body"


@pytest.mark.parametrize(
    ("value", "width", "expected"),
    [
        ("position", 90, [("position", 90)]),
        (["position", "quaternion", "joint"], 36, [("position", 3), ("quaternion", 4), ("joint", 29)]),
        (["joint", "quaternion"], 9, [("joint", 5), ("quaternion", 4)]),
        ([["vector", 6]], 6, [("vector", 6)]),
        ([("joint", 2), "angle"], 5, [("joint", 2), ("angle", 3)]),
        (["position", ("joint", 4)], 7, [("position", 3), ("joint", 4)]),
    ],
)
def test_pieces_as_callers_write_them(value, width, expected):
    assert [tuple(piece) for piece in as_pieces(value, width, "x")] == expected


@pytest.mark.parametrize(
    ("value", "width"),
    [
        ("point", 3),
        ("position", 4),
        (["position", "quaternion"], 8),
        (["joint", "angle"], 8),
        (["position", "joint"], 3),
        ([("quaternion", 6)], 6),
        ([("joint", 0)], 1),
        ([("joint", True)], 1),
        (["vector", 6], 6),
        ([], 3),
        (3, 3),
        ({"position": 3}, 3),
    ],
)
def test_pieces_that_do_not_fit(value, width):
    with pytest.raises(SchemaError, match="'x'"):
        as_pieces(value, width, "x")
