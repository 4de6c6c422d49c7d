"""Small motion with everything in it, and what a look-up should give, computed in float64 by numpy and scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from iltools_datasets import StoreBuilder, TrajectoryStore
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

JOINTS = ("hip", "knee", "ankle", "waist", "elbow")
BODIES = ("pelvis", "thigh", "shank", "foot", "torso", "upper_arm", "hand", "head", "toe", "palm", "thumb")
STATES = {"joint_pos": "joint", "joint_vel": "joint", "body_pos_w": "position", "body_quat_w": "quaternion"}
STATES |= {"body_lin_vel_w": "vector", "body_ang_vel_w": "vector", "yaw": "angle", "speed": "local"}
Arrays = dict[str, NDArray[Any]]


def moving(states: int, seed: int, turn: float = 0.2) -> Arrays:
    """One clip, float32: a random walk of positions and rotations, rotations of random sign, a yaw that wraps."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, turn, (states, len(BODIES), 3)), axis=0)
    quaternions = Rotation.from_rotvec(walk.reshape(-1, 3)).as_quat(scalar_first=True)
    quaternions *= rng.choice([-1, 1], (len(quaternions), 1))
    yaw = np.cumsum(rng.normal(0, 1, (states, 2)), axis=0)
    arrays = {
        "joint_pos": np.cumsum(rng.normal(0, 0.1, (states, len(JOINTS))), axis=0),
        "joint_vel": rng.normal(size=(states, len(JOINTS))),
        "body_pos_w": 2 + np.cumsum(rng.normal(0, 0.05, (states, len(BODIES), 3)), axis=0),
        "body_quat_w": quaternions.reshape(states, len(BODIES), 4),
        "body_lin_vel_w": rng.normal(size=(states, len(BODIES), 3)),
        "body_ang_vel_w": rng.normal(size=(states, len(BODIES), 3)),
        "yaw": np.pi - np.remainder(np.pi - yaw, 2 * np.pi),
        "speed": rng.normal(size=(states, 3)),
    }
    return {key: array.astype(np.float32) for key, array in arrays.items()}


def motion_attributes(fps: Any = 30.0) -> dict[str, Any]:
    kinds = {"yaw": "angle", "speed": "local"}
    return {"motion": {"fps": fps, "kinds": kinds, "joint_names": list(JOINTS), "body_names": list(BODIES)}}


def build(
    path: Path,
    lengths: tuple[int, ...] = (40, 7, 2, 90),
    dtype: Any = np.float32,
    attributes: Any = None,
    **options: Any,
) -> tuple[TrajectoryStore, list[Arrays]]:
    """Write clips as a store, frames side by side where they are of one dtype, and return it with what was written."""
    clips = [moving(states, seed) for seed, states in enumerate(lengths)]
    clips = [{key: array.astype(dtype) for key, array in clip.items()} for clip in clips]
    for seed, clip in enumerate(clips):
        rng = np.random.default_rng(1000 + seed)
        states = len(clip["speed"])
        clip["contact"] = rng.integers(0, 2, (states, 2)).astype(bool)
        clip["phase"] = np.arange(states, dtype=np.int64)
        clip["image"] = rng.integers(0, 255, (states, 3, 3), dtype=np.uint8)
    told = motion_attributes() if attributes is None else attributes
    with StoreBuilder(path, concat={"frame": list(STATES)}, attributes=told, **options) as builder:
        for number, clip in enumerate(clips):
            action = np.random.default_rng(2000 + number).normal(size=(len(clip["speed"]) - 1, 3)).astype(np.float32)
            builder.add(0, number, clip, {"action": action}, name=f"clip{number}")
            clip["action"] = action
    return TrajectoryStore.open(path), clips


def place(states: int, fps: float, seconds: float) -> tuple[int, float, bool]:
    """Return frame, fraction and whether the time is inside, as the design says it."""
    position = seconds * fps
    held = min(max(position, 0.0), states - 1.0)
    frame = int(np.floor(held + 1e-6))
    fraction = held - frame
    return frame, 0.0 if fraction < 1e-6 else fraction, bool(-1e-6 <= position <= states - 1 + 1e-6)


def expected(kind: str, rows: NDArray[Any], frame: int, fraction: float) -> NDArray[np.float64]:
    """Return what lies between two rows `[T, ...]`, in float64."""
    first = rows[frame].astype(np.float64)
    if fraction == 0 or kind == "hold":
        return first
    second = rows[frame + 1].astype(np.float64)
    if kind == "quaternion":
        ends = np.stack([first.reshape(-1, 4), second.reshape(-1, 4)])
        mixed = [
            Slerp([0, 1], Rotation.from_quat(ends[:, body], scalar_first=True))(fraction).as_quat(scalar_first=True)
            for body in range(ends.shape[1])
        ]
        # On the side of the first, which is what scipy does not promise.
        mixed = [q if q @ p > 0 else -q for q, p in zip(mixed, ends[0], strict=True)]
        return np.reshape(mixed, first.shape)
    if kind == "angle":
        turn = np.angle(np.exp(1j * (second - first)))
        return np.angle(np.exp(1j * (first + fraction * turn)))
    return first + fraction * (second - first)


def places(seconds: NDArray[Any], fps: float, states: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return frames and fractions of times, held to the clip; a millionth of a frame from a frame is that frame."""
    held = np.clip(np.asarray(seconds, dtype=np.float64) * fps, 0, states - 1)
    frame = np.floor(held + 1e-6).astype(np.int64)
    return frame, np.where(held - frame < 1e-6, 0.0, held - frame)


def assert_on_a_line(found: NDArray[Any], rows: NDArray[Any], fps: float, seconds: NDArray[Any]) -> None:
    """Hold plain numbers `[*seconds, ...]` against float64: an ulp of the largest of both frames and their step.

    The fraction is a float32, too, which is 2^-25 of a step.
    """
    frame, fraction = places(seconds, fps, len(rows))
    first, second = (rows[np.minimum(frame + at, len(rows) - 1)].astype(np.float64) for at in (0, 1))
    wanted = first + fraction.reshape(*frame.shape, *(1,) * (rows.ndim - 1)) * (second - first)
    largest = np.max([np.abs(first), np.abs(second), np.abs(second - first)], axis=0)
    ulp = np.spacing(largest.astype(np.float32))
    assert (np.abs(found - wanted) <= ulp + 2.0**-25 * np.abs(second - first)).all()
    np.testing.assert_array_equal(found[fraction == 0], rows[frame[fraction == 0]])


def turn_between(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the largest angle in radians between rotations wxyz `[..., 4]`."""
    a, b = (np.asarray(q, dtype=np.float64).reshape(-1, 4) for q in (found, wanted))
    a, b = (q / np.linalg.norm(q, axis=-1, keepdims=True) for q in (a, b))
    apart = np.minimum(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))
    return float(np.max(4 * np.arcsin(np.minimum(apart / 2, 1)), initial=0))
