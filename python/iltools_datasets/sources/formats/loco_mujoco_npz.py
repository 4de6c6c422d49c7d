"""LocoMuJoCo 1.0 trajectory files, read without the package that writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.description import QuaternionOrder
from iltools_datasets.motion.orders import ORDERS, find_evidence
from iltools_datasets.sources.formats.clips import (
    SPLIT_POINTS,
    clip_ranges,
    per_clip,
    read_split_points,
    transition_starts,
)
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import Names, ToldSource, checked_rate, turned

STATE_KEYS = ("qpos", "qvel", "xpos", "xquat", "cvel", "subtree_com", "site_xpos", "site_xmat")
TRANSITION_NAMES = {
    "observations": "observations",
    "next_observations": "next_observations",
    "absorbings": "absorbing",
    "dones": "done",
    "actions": "actions",
    "rewards": "rewards",
}
"""Transition members of the file -> their keys in the archive, where the flags have the names that are looked for."""

_FREE, _BALL = 0, 1
_QPOS_WIDTH = {_FREE: 7, _BALL: 4, 2: 1, 3: 1}
_QUATERNION_AT = {_FREE: 3, _BALL: 0}
_INFO_KEYS: tuple[Literal["joint_names", "body_names", "site_names"], ...] = ("joint_names", "body_names", "site_names")


class LocoMujocoSource(ToldSource):
    """One flat `.npz` of clips back to back, `split_points` saying where each begins.

    Every clip becomes a trajectory with the data members that hold anything: `qpos [T, nq]` (a free joint has 7
    columns, its quaternion wxyz), `qvel [T, nv]` (6 of a free joint, MuJoCo's frames), kinematics in the world's frame.
    Transitions have T - 1 rows; `absorbings` and `dones` are called `absorbing` and `done`. Where `next_observations`
    is `observations` one row further, as it should be, both become one `observations [T, ...]`. Members that hold
    pickled objects, as unset ones do, are skipped.

    Args:
        path, motion, quaternion_order, joint_names, body_names, skip: as `ToldSource` takes them.
        fps, frequency: states per second, by either name; `frequency` counts only where the file does not say.
    """

    format = "loco-mujoco"
    summary = "LocoMuJoCo 1.0 npz: qpos, qvel, split_points, optional transitions"
    suffixes = (".npz",)

    def __init__(
        self,
        path: Path | str,
        *,
        motion: str | None = None,
        frequency: float | None = None,
        fps: float | None = None,
        quaternion_order: Literal["wxyz", "xyzw", "auto"] | None = None,
        joint_names: Names | None = None,
        body_names: Names | None = None,
        skip: Names = (),
    ) -> None:
        super().__init__(
            path,
            motion=motion,
            fps=fps,
            quaternion_order=quaternion_order,
            joint_names=joint_names,
            body_names=body_names,
            skip=skip,
        )
        self.frequency = None if frequency is None else checked_rate("frequency", frequency)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return {"qpos", "qvel", SPLIT_POINTS} <= member_names(path)

    def count(self, file: SourceFile) -> int:
        with Npz(file.path, self.skip) as npz:
            return len(read_split_points(npz, _count_states(npz))) - 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        path = file.path
        with Npz(path, self.skip) as npz:
            states = _count_states(npz)
            points = read_split_points(npz, states)
            arrays = {key: _read_states(npz, key, states) for key in STATE_KEYS if not npz.is_empty(key)}
            transitions = _read_transitions(npz, points)
            fps = self.rate_in(npz) or self.frequency
            quaternions = _quaternions(npz, arrays)
            attributes: dict[str, Any] = {}
            for key in _INFO_KEYS:
                found = npz.names(key)
                if key in ("joint_names", "body_names"):
                    found = self.names(path, key, found)
                if found is not None:
                    attributes[key] = found
        if quaternions:
            order = self._order(path, arrays, quaternions)
            arrays = {key: turned(array, quaternions.get(key, ()), order) for key, array in arrays.items()}
        shared = Recording(
            arrays={},
            fps=fps,
            quaternions=quaternions,
            velocities={"qvel": "as in the file"},
            attributes=attributes,
        )
        for clip, (first, end) in enumerate(clip_ranges(points)):
            rows = {key: array[first:end].copy() for key, array in arrays.items()}
            steps = {
                key: per_clip(array, starts, clip, end - first - 1) for key, (array, starts) in transitions.items()
            }
            yield shared.with_arrays({**rows, **_joined_observations(steps)})

    def _order(
        self, path: Path, arrays: Mapping[str, NDArray[Any]], quaternions: Mapping[str, tuple[int, ...]]
    ) -> QuaternionOrder:
        """Return the order of the file's quaternions; MuJoCo itself writes wxyz, so only a free root can speak."""
        if quaternions.get("qpos", ())[:1] != (_QUATERNION_AT[_FREE],):
            return self.quaternion_order if self.quaternion_order in ORDERS else self.usual_order
        rotation, angular = arrays["qpos"][:, 3:7], arrays["qvel"][:, 3:6]
        return self.order(path, find_evidence(rotation, rotation, angular, frame="body"))


def _count_states(npz: Npz) -> int:
    npz.require(("qpos", "qvel"))
    shape = npz.arrays["qpos"].shape
    if len(shape) != 2 or not shape[0]:
        raise SourceError(f"{npz.path}: 'qpos' should be [states, nq], found {list(shape)}")
    return shape[0]


def _read_states(npz: Npz, key: str, states: int) -> NDArray[Any]:
    spec = npz.arrays[key]
    if not spec.shape or spec.shape[0] != states or spec.dtype.kind not in "biuf":
        raise SourceError(f"{npz.path}: {key!r} is {spec.dtype} {list(spec.shape)}, expected {states} rows like 'qpos'")
    return npz.read(key)


def _read_transitions(npz: Npz, points: NDArray[np.int64]) -> dict[str, tuple[NDArray[Any], NDArray[np.int64]]]:
    found = {}
    for member, key in TRANSITION_NAMES.items():
        if not npz.is_empty(member) and npz.arrays[member].shape:
            array = npz.read(member)
            if array.dtype.kind not in "biuf":
                raise SourceError(f"{npz.path}: {member!r} should be numbers, found {array.dtype}")
            found[key] = array, transition_starts(npz, member, len(array), points)
    return found


def _joined_observations(steps: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    now, then = steps.get("observations"), steps.get("next_observations")
    if now is None or then is None or now.dtype != then.dtype or now.shape != then.shape or not len(now):
        return steps
    if now[1:].tobytes() != then[:-1].tobytes():
        return steps
    joined = {key: array for key, array in steps.items() if key != "next_observations"}
    joined["observations"] = np.concatenate([now, then[-1:]])
    return joined


def _quaternions(npz: Npz, arrays: dict[str, NDArray[Any]]) -> dict[str, tuple[int, ...]] | None:
    found: dict[str, tuple[int, ...]] = {"xquat": (0,)} if "xquat" in arrays else {}
    width = arrays["qpos"].shape[1]
    if npz.is_empty("jnt_type"):
        # Without the model, as many positions as velocities means that there is no quaternion among them.
        if width != arrays["qvel"].shape[1]:
            return None
        return found
    types = npz.read("jnt_type").reshape(-1).tolist()
    if any(kind not in _QPOS_WIDTH for kind in types) or sum(_QPOS_WIDTH[kind] for kind in types) != width:
        raise SourceError(f"{npz.path}: 'jnt_type' {types} does not fit the {width} columns of 'qpos'")
    columns, column = [], 0
    for kind in types:
        if kind in _QUATERNION_AT:
            columns.append(column + _QUATERNION_AT[kind])
        column += _QPOS_WIDTH[kind]
    if columns:
        found["qpos"] = tuple(columns)
    return found
