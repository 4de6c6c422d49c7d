"""The doctor finds nothing in sound motion, and each fault that is put into it, at its clip and frame."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.doctor import Finding, examine
from iltools_datasets.errors import SourceNotFoundError
from numpy.typing import NDArray

FPS = 50.0
NUM_STATES = 120
NUM_JOINTS = 6
Arrays = dict[str, NDArray[Any]]


def sound_motion(seed: int = 0) -> Arrays:
    """A free joint that walks and turns about a tilted axis, and joints on sines; velocities analytic."""
    rng = np.random.default_rng(seed)
    time = np.arange(NUM_STATES) / FPS
    axis = np.array([0.6, 0.0, 0.8])
    angle = 1.5 * np.sin(1.3 * time)
    turn_rate = 1.5 * 1.3 * np.cos(1.3 * time)
    root = np.stack([time, 0.2 * np.sin(3 * time), 0.8 + 0.02 * np.cos(5 * time)], axis=1)
    root_velocity = np.stack([np.ones_like(time), 0.6 * np.cos(3 * time), -0.1 * np.sin(5 * time)], axis=1)
    quaternion = np.column_stack([np.cos(angle / 2), np.sin(angle / 2)[:, None] * axis])
    pace, phase = rng.uniform(1, 4, NUM_JOINTS), rng.uniform(0, 6, NUM_JOINTS)
    joints = np.sin(np.outer(time, pace) + phase)
    joint_velocity = pace * np.cos(np.outer(time, pace) + phase)
    return {
        "qpos": np.concatenate([root, quaternion, joints], axis=1),
        "qvel": np.concatenate([root_velocity, turn_rate[:, None] * axis, joint_velocity], axis=1),
    }


ATTRIBUTES = {"fps": FPS, "joint_names": [f"joint{i}" for i in range(NUM_JOINTS)]}


def diagnose(
    path: Path, faulty: Arrays, attributes: dict[str, Any] | None = None, fps: float | None = None
) -> list[Finding]:
    """Examine an archive of a sound clip `traj0` and a faulty one `traj1`."""
    with ArchiveWriter(path / "motion.zarr") as writer:
        writer.add("lab", "walk", "traj0", sound_motion(), ATTRIBUTES)
        writer.add("lab", "walk", "traj1", faulty, {**ATTRIBUTES, **(attributes or {})})
    return examine(path / "motion.zarr", fps).findings


def test_sound_motion_passes(tmp_path: Path) -> None:
    for dtype in (np.float32, np.float64):
        faulty = {key: array.astype(dtype) for key, array in sound_motion(1).items()}
        (tmp_path / dtype.__name__).mkdir()
        assert diagnose(tmp_path / dtype.__name__, faulty) == []


def nan(arrays: Arrays) -> None:
    arrays["qpos"][17, 9] = np.nan
    arrays["qpos"][40, 9] = np.inf


def unnormalised(arrays: Arrays) -> None:
    arrays["qpos"][30, 3:7] *= 1.02


def sign_flip(arrays: Arrays) -> None:
    arrays["qpos"][60:, 3:7] *= -1


def wrong_joint_velocity(arrays: Arrays) -> None:
    arrays["qvel"][:, 8] *= -1


def one_wrong_velocity(arrays: Arrays) -> None:
    arrays["qvel"][33, 7] = 60.0


def wrong_angular_velocity(arrays: Arrays) -> None:
    arrays["qvel"][:, 3:6] *= 3


def teleport(arrays: Arrays) -> None:
    arrays["qpos"][70:, :3] += 0.7


def one_displaced_frame(arrays: Arrays) -> None:
    arrays["qpos"][25, 1] += 0.5


def wrapped_joint(arrays: Arrays) -> None:
    arrays["qpos"][50:, 7] += 2 * np.pi


@pytest.mark.parametrize(
    ("fault", "check", "frame", "words"),
    [
        (nan, "value", 17, "nan in column 9; 2 such values in 2 frames"),
        (unnormalised, "quaternion", 30, "norm 1.02, expected 1; 1 frames"),
        (sign_flip, "quaternion", 60, "flips its sign; 1 flips"),
        (wrong_joint_velocity, "velocity", None, "joint2: velocity"),
        (one_wrong_velocity, "velocity", 33, "joint1: velocity 60"),
        (wrong_angular_velocity, "velocity", None, "angular"),
        (teleport, "jump", 70, "qpos[2] jumps by 0.699"),
        (one_displaced_frame, "jump", 25, "jumps by 0.5"),
        (wrapped_joint, "jump", 50, "full turn: is the angle wrapped?"),
    ],
)
def test_a_fault_is_found_at_its_place(
    tmp_path: Path, fault: Callable[[Arrays], None], check: str, frame: int | None, words: str
) -> None:
    arrays = sound_motion(1)
    fault(arrays)
    findings = diagnose(tmp_path, arrays)
    assert {finding.clip for finding in findings} == {"lab/walk/traj1"}
    (finding,) = [finding for finding in findings if finding.check == check]
    assert words in finding.message
    if frame is not None:
        assert finding.frame is not None
        assert abs(finding.frame - frame) <= (1 if check == "jump" else 0)


def test_wrong_rate(tmp_path: Path) -> None:
    (finding,) = [entry for entry in diagnose(tmp_path, sound_motion(1), fps=25.0) if entry.clip.endswith("traj1")]
    assert finding.check == "rate"
    assert "declares 25 frames per second, its velocities fit 50" in finding.message


def test_rates_that_differ_between_clips(tmp_path: Path) -> None:
    findings = diagnose(tmp_path, sound_motion(1), {"fps": 25.0})
    assert [finding.check for finding in findings] == ["rate", "rate"]
    assert "lab/walk/traj0 50" in findings[1].message


def test_without_a_rate_the_fitting_one_is_used(tmp_path: Path) -> None:
    arrays = sound_motion(1)
    wrong_joint_velocity(arrays)
    with ArchiveWriter(tmp_path / "motion.zarr") as writer:
        writer.add("lab", "walk", "traj0", arrays)
    diagnosis = examine(tmp_path / "motion.zarr")
    assert [finding.check for finding in diagnosis.findings] == ["velocity"]
    assert "declare no rate" in diagnosis.notes[0]


def test_one_frame(tmp_path: Path) -> None:
    findings = diagnose(tmp_path, {key: array[:1] for key, array in sound_motion().items()})
    assert [(finding.check, finding.frame) for finding in findings] == [("length", 0)]


def test_repeated_frames(tmp_path: Path) -> None:
    findings = diagnose(tmp_path, {key: np.repeat(array, 2, axis=0) for key, array in sound_motion(1).items()})
    assert [(finding.check, finding.frame) for finding in findings] == [("repeat", 1)]
    assert "120 of 240 frames" in findings[0].message


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([f"joint{i}" for i in (1, 0, 2, 3, 4, 5)], "joint_names differ in order from those of lab/walk/traj0"),
        (["hip", *(f"joint{i}" for i in range(1, 6))], "joint_names differ in names from"),
        (["a", "b"], "has width 13, but there are 2 joint_names"),
        (["joint0", "joint0", *(f"joint{i}" for i in range(2, 6))], "gives joint0 more than once"),
    ],
)
def test_joint_names(tmp_path: Path, names: list[str], words: str) -> None:
    findings = diagnose(tmp_path, sound_motion(1), {"joint_names": names})
    assert {finding.check for finding in findings} == {"names"}
    assert any(words in finding.message for finding in findings)


def test_quaternions_of_bodies_and_other_orders(tmp_path: Path) -> None:
    rotation = pytest.importorskip("scipy.spatial.transform", reason="scipy is the oracle here").Rotation
    time = np.arange(NUM_STATES) / FPS
    vectors = np.stack([np.outer(np.sin(time), [0.3, 0.5, -0.4]), np.outer(time, [0.1, 0.9, 0.2])], axis=1)
    xyzw = np.stack([rotation.from_rotvec(vectors[:, body]).as_quat() for body in range(2)], axis=1)
    rates = np.stack([np.outer(np.cos(time), [0.3, 0.5, -0.4]), np.tile([0.1, 0.9, 0.2], (NUM_STATES, 1))], axis=1)
    with ArchiveWriter(tmp_path / "bodies.zarr") as writer:
        for number, (order, quaternions) in enumerate({"xyzw": xyzw, "wxyz": xyzw[..., [3, 0, 1, 2]]}.items()):
            arrays = {"body_quat_w": quaternions, "body_ang_vel_w": rates}
            attributes = {"fps": FPS, "quaternion_order": order, "quaternions": {"body_quat_w": [0]}}
            writer.add("lab", "turn", f"traj{number}", arrays, attributes)
    assert examine(tmp_path / "bodies.zarr").findings == []


def test_archives_without_motion_are_said_to_be_so(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "pixels.zarr") as writer:
        writer.add("lab", "push", "traj0", {"image": np.zeros((5, 4, 4, 3), np.uint8)})
    diagnosis = examine(tmp_path / "pixels.zarr")
    assert diagnosis.findings == []
    assert "no positions or velocities under a known name" in diagnosis.notes[0]


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        examine(tmp_path / "nowhere.zarr")
