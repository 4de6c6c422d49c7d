"""Made-up robots that walk and turn, and the files that people keep such motion in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

JOINTS = 5
BODIES = ("world", "pelvis", "left_foot", "right_foot")


def product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """The Hamilton product of quaternions wxyz, by hand, so that it is no oracle of itself."""
    a, b, c, d = np.moveaxis(left, -1, 0)
    e, f, g, h = np.moveaxis(right, -1, 0)
    return np.stack(
        [a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g, a * g - b * h + c * e + d * f,
         a * h + b * g - c * f + d * e], axis=-1
    )  # fmt: skip


def turn(axis: int, angle: NDArray[Any]) -> NDArray[Any]:
    """Rotations about a coordinate axis, wxyz [T, 4]."""
    quaternion = np.zeros((len(angle), 4))
    quaternion[:, 0], quaternion[:, 1 + axis] = np.cos(angle / 2), np.sin(angle / 2)
    return quaternion


def walk(frames: int = 80, fps: float = 50.0, seed: int = 0) -> Arrays:
    """A root that walks a curve, upright, and joints on sines: position [T, 3], rotation wxyz [T, 4], joints [T, J]."""
    time = np.arange(frames) / fps
    rng = np.random.default_rng(seed)
    yaw, pitch, roll = 1.4 * np.sin(1.1 * time), 0.12 * np.sin(2.3 * time + 0.3), 0.1 * np.cos(1.9 * time)
    rotation = product(product(turn(2, yaw), turn(1, pitch)), turn(0, roll))
    position = np.stack([0.8 * time, 0.3 * np.sin(time), 0.8 + 0.02 * np.cos(5 * time)], axis=1)
    joints = np.sin(np.outer(time, rng.uniform(1, 3, JOINTS)) + rng.uniform(0, 6, JOINTS))
    return {"position": position, "rotation": rotation, "joints": joints}


def as_xyzw(wxyz: NDArray[Any]) -> NDArray[Any]:
    """The same rotations, scalar last."""
    return wxyz[..., [1, 2, 3, 0]]


def angular_velocity(rotation: NDArray[Any], fps: float) -> NDArray[Any]:
    """Angular velocity in the world's frame, [T, 3], by the derivative of the quaternion: 2 dq/dt q*."""
    rate = np.gradient(rotation, 1 / fps, axis=0)
    return 2 * product(rate, rotation * [1, -1, -1, -1])[..., 1:]


def robot_rows(motion: Arrays, order: str = "xyzw") -> NDArray[Any]:
    """Rows of a CSV: root position, root quaternion in an order, joints."""
    rotation = as_xyzw(motion["rotation"]) if order == "xyzw" else motion["rotation"]
    return np.concatenate([motion["position"], rotation, motion["joints"]], axis=1)


def write_rows(path: Path, rows: NDArray[Any], header: str | None = None, separator: str = ",") -> Path:
    """Write rows as text with six decimals, below a header."""
    lines = [separator.join(f"{value:.6f}" for value in row) for row in rows]
    path.write_text("\n".join([*([] if header is None else [header]), *lines]) + "\n")
    return path


def tracking_arrays(motion: Arrays, rate: float = 50.0, order: str = "wxyz", **changes: Any) -> Arrays:
    """Members of a motion-tracking npz: a world that stands still, the pelvis that is the root, and two feet."""
    frames = len(motion["position"])
    feet = motion["position"][:, None] + np.array([[0.1, 0.2, -0.7], [0.1, -0.2, -0.7]])
    world = np.zeros((frames, 1, 3))
    position = np.concatenate([world, motion["position"][:, None], feet], axis=1)
    still = np.tile([1.0, 0, 0, 0], (frames, 1, 1))
    rotation = np.concatenate([still, np.repeat(motion["rotation"][:, None], 3, axis=1)], axis=1)
    angular = np.stack([angular_velocity(rotation[:, body], rate) for body in range(4)], axis=1)
    arrays: dict[str, Any] = {
        "fps": np.array([rate]),
        "joint_pos": motion["joints"],
        "joint_vel": np.gradient(motion["joints"], 1 / rate, axis=0),
        "body_pos_w": position,
        "body_quat_w": as_xyzw(rotation) if order == "xyzw" else rotation,
        "body_lin_vel_w": np.gradient(position, 1 / rate, axis=0),
        "body_ang_vel_w": angular,
        "body_names": np.array(BODIES),
        "joint_names": np.array([f"joint{number}" for number in range(JOINTS)]),
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def amp_arrays(motion: Arrays, rate: float = 50.0, order: str = "wxyz", **changes: Any) -> Arrays:
    """Members of an AMP npz of the same motion."""
    like = tracking_arrays(motion, rate, order)
    names = {
        "dof_positions": "joint_pos",
        "dof_velocities": "joint_vel",
        "body_positions": "body_pos_w",
        "body_rotations": "body_quat_w",
        "body_linear_velocities": "body_lin_vel_w",
        "body_angular_velocities": "body_ang_vel_w",
        "dof_names": "joint_names",
        "body_names": "body_names",
        "fps": "fps",
    }
    arrays: dict[str, Any] = {name: like[member] for name, member in names.items()}
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def same_rotations(one: NDArray[Any], other: NDArray[Any], atol: float = 1e-5) -> bool:
    """Whether quaternions of one order are the same rotations, whatever their signs."""
    return bool((np.abs(np.abs((one * other).sum(axis=-1)) - 1) < atol).all())
