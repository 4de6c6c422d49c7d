"""Velocities of a body's centre of mass are told from wrong ones: a fixed offset in the body's frame explains them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.doctor import examine
from motions import angular_velocity, product, turn

FPS = 100.0
KEYS = {
    "tracking": ("body_pos_w", "body_quat_w", "body_lin_vel_w"),
    "amp": ("body_positions", "body_rotations", "body_linear_velocities"),
}


def bodies(offsets: np.ndarray, frames: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bodies that turn, [T, B, ...]: where their frames are, how they are turned, and how fast a point moves."""
    scipy_rotation = pytest.importorskip("scipy.spatial.transform", reason="scipy is the oracle").Rotation
    time = np.arange(frames) / FPS
    position, rotation, velocity = [], [], []
    for number, offset in enumerate(offsets):
        place = np.stack([np.sin(time + number), np.cos(2 * time), 0.1 * np.sin(3 * time)], axis=1)
        speed = np.stack([np.cos(time + number), -2 * np.sin(2 * time), 0.3 * np.cos(3 * time)], axis=1)
        turned = product(turn(2, 2 * np.sin(1.5 * time)), turn(0, 1.5 * np.cos(2 * time)))
        lever = scipy_rotation.from_quat(turned, scalar_first=True).apply(offset)
        position.append(place)
        rotation.append(turned)
        velocity.append(speed + np.cross(angular_velocity(turned, FPS), lever))
    return np.stack(position, axis=1), np.stack(rotation, axis=1), np.stack(velocity, axis=1)


def diagnose(tmp_path: Path, arrays: list[np.ndarray], kind: str, **attributes: Any) -> Any:
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        named = dict(zip(KEYS[kind], arrays, strict=True))
        for clip in ("t0", "t1"):
            described = {"fps": FPS, "quaternions": {KEYS[kind][1]: [0]}, **attributes}
            writer.add(
                "lab", "walk", clip, named, {key: value for key, value in described.items() if value is not None}
            )
    return examine(tmp_path / "a.zarr")


OFFSETS = np.array([[0.6, 0.0, -0.3], [0.0, 0.0, 0.0], [-0.2, 0.7, 0.1]])


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("fps", [FPS, None])
def test_centres_of_mass_are_a_note_and_no_finding(tmp_path: Path, kind: str, fps: float | None) -> None:
    diagnosis = diagnose(tmp_path, list(bodies(OFFSETS)), kind, fps=fps)
    assert diagnosis.findings == []
    (note,) = [line for line in diagnosis.notes if "centre of mass" in line]
    assert note.startswith(
        f"2 clips: {KEYS[kind][2]} are velocities of another point of each body than {KEYS[kind][0]}"
    )
    assert "(up to 0.7" in note


def test_velocities_of_the_frames_themselves_need_no_note(tmp_path: Path) -> None:
    diagnosis = diagnose(tmp_path, list(bodies(OFFSETS * 0)), "tracking")
    assert diagnosis.findings == []
    assert not [line for line in diagnosis.notes if "centre of mass" in line]


@pytest.mark.parametrize("fault", ["sign", "frame", "swapped", "far"])
def test_wrong_velocities_are_found_all_the_same(tmp_path: Path, fault: str) -> None:
    position, rotation, velocity = bodies(OFFSETS)
    if fault == "sign":
        velocity[:, 0] *= -1
    elif fault == "frame":
        velocity = velocity[:, :, [1, 2, 0]]
    elif fault == "swapped":
        velocity = velocity[:, ::-1].copy()
        velocity[:, 1] = np.random.default_rng(0).normal(size=velocity[:, 1].shape)
    else:
        velocity = bodies(np.array([[30.0, 0, 0], [0, 0, 0], [0, 0, 0]]))[2]
    diagnosis = diagnose(tmp_path, [position, rotation, velocity], "tracking")
    assert {finding.check for finding in diagnosis.findings} >= {"velocity"}


def test_values_that_are_none_do_not_hide_it(tmp_path: Path) -> None:
    position, rotation, velocity = bodies(OFFSETS)
    velocity[40, 0] = np.nan
    diagnosis = diagnose(tmp_path, [position, rotation, velocity], "tracking")
    assert {finding.check for finding in diagnosis.findings} == {"value"}
    assert [line for line in diagnosis.notes if "centre of mass" in line]
