"""A root that lies or hangs upside down throughout is found, and what it may come from is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.doctor import Finding, examine
from motions import BODIES, as_xyzw, product, turn, walk


def found(tmp_path: Path, arrays: dict[str, Any], attributes: dict[str, Any]) -> list[Finding]:
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add("lab", "walk", "t", arrays, attributes)
    return [finding for finding in examine(tmp_path / "a.zarr").findings if finding.check == "orientation"]


def free_joint(rotation: np.ndarray, key: str = "qpos") -> tuple[dict[str, Any], dict[str, Any]]:
    moved = walk()
    pose = np.concatenate([moved["position"], rotation, moved["joints"]], axis=1)
    return {key: pose}, {"quaternions": {key: [3]}, "quaternion_order": "wxyz"}


def wrongs() -> dict[str, tuple[np.ndarray, str]]:
    """Rotations as an archive has them that took them for what they are not, and what is to be said."""
    right = walk()["rotation"]
    return {
        "wxyz read as xyzw": (right[:, [3, 0, 1, 2]], "with its numbers in the other order"),
        "xyzw read as wxyz": (
            as_xyzw(product(turn(2, np.full(80, 2.5)), right)),
            "with its numbers in the other order",
        ),
        "upside down": (product(right, turn(0, np.full(80, np.pi))), "hangs upside down"),
        "y up": (product(turn(0, np.full(80, np.pi / 2)), right), "the root lies"),
    }


@pytest.mark.parametrize("key", ["qpos", "joint_pos"])
@pytest.mark.parametrize("name", wrongs())
def test_a_root_that_does_not_stand(tmp_path: Path, name: str, key: str) -> None:
    rotation, words = wrongs()[name]
    (finding,) = found(tmp_path, *free_joint(rotation, key))
    assert (finding.clip, finding.key) == ("lab/walk/t", key)
    assert words in finding.message
    assert "z axis points up by" in finding.message


def test_roots_that_stand_or_fall_are_left_alone(tmp_path: Path) -> None:
    right = walk()["rotation"]
    falls = product(right, turn(1, np.repeat([0.0, 1.6, 0.0], [40, 20, 20])))
    for number, rotation in enumerate((right, falls)):
        (tmp_path / str(number)).mkdir()
        assert found(tmp_path / str(number), *free_joint(rotation)) == []


@pytest.mark.parametrize("keys", [("body_pos_w", "body_quat_w"), ("body_positions", "body_rotations")])
def test_among_bodies_the_root_counts(tmp_path: Path, keys: tuple[str, str]) -> None:
    moved = walk()
    position = np.stack([np.zeros((80, 3)), moved["position"], moved["position"] + 1, moved["position"] - 1], axis=1)
    lying = product(moved["rotation"], turn(1, np.full(80, np.pi / 2)))
    still = np.tile([1.0, 0, 0, 0], (80, 1))
    attributes = {"quaternions": {keys[1]: [0]}, "body_names": list(BODIES)}
    rotations = np.stack([still, moved["rotation"], lying, lying], axis=1)  # feet may point anywhere
    assert found(tmp_path, dict(zip(keys, (position, rotations), strict=True)), attributes) == []
    (tmp_path / "b").mkdir()
    rotations = np.stack([still, lying, moved["rotation"], moved["rotation"]], axis=1)
    (finding,) = found(tmp_path / "b", dict(zip(keys, (position, rotations), strict=True)), attributes)
    assert finding.message.startswith(f"{keys[1]}[pelvis")


def test_the_declared_order_is_believed(tmp_path: Path) -> None:
    arrays, attributes = free_joint(as_xyzw(walk()["rotation"]))
    assert found(tmp_path, arrays, {**attributes, "quaternion_order": "xyzw"}) == []


def test_without_a_root_nothing_is_said(tmp_path: Path) -> None:
    assert found(tmp_path, {"joint_pos": walk()["joints"], "object_quat": walk()["rotation"]}, {}) == []
