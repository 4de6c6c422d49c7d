"""Reference arrays for Digit out of windows of `qpos` and `qvel`, for numpy and JAX alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integers
from iltools_datasets.errors import OutOfRangeError, SchemaError
from iltools_datasets.motion.rotations import as_wxyz, euler_angles, into_body_frame
from iltools_datasets.trajopt.state_files import StateFiles

__all__ = ["DigitRefSpec", "DigitTrajoptRefBuilder", "build_refs_from_window"]

Array = Any

_ROOT_POS, _ROOT_QUAT, _ROOT_NQ = slice(0, 3), slice(3, 7), 7
_ROOT_LIN_VEL, _ROOT_ANG_VEL, _ROOT_NV = slice(0, 3), slice(3, 6), 6
_EE_SHAPE = (5, 3)


@dataclass(frozen=True)
class DigitRefSpec:
    """Which columns are motors, and how time is thinned out. Hashable, so it can be a static argument of `jax.jit`.

    Args:
        a_pos_index: columns of `qpos` of the motors' positions, integers from 0 on; kept as a tuple.
        a_vel_index: columns of `qvel` of their velocities, in the same order and number.
        subsample: keep every so many-th state, 1 or more.

    Raises:
        SchemaError: not integers from 0 on, none at all, not as many of one as of the other, or `subsample` below 1.
    """

    a_pos_index: Sequence[int] | NDArray[np.integer[Any]]
    a_vel_index: Sequence[int] | NDArray[np.integer[Any]]
    subsample: int = 1

    def __post_init__(self) -> None:
        for name in ("a_pos_index", "a_vel_index"):
            object.__setattr__(self, name, _columns(name, getattr(self, name)))
        if len(self.a_pos_index) != len(self.a_vel_index):
            raise SchemaError(
                f"a_vel_index: expected {len(self.a_pos_index)} columns like a_pos_index, found {len(self.a_vel_index)}"
            )
        (subsample,) = _integers("subsample", [self.subsample])
        if subsample < 1:
            raise SchemaError(f"subsample: expected 1 or more, found {subsample}")
        object.__setattr__(self, "subsample", subsample)

    def every_state(self) -> DigitRefSpec:
        """Return the same columns without thinning, for states that have been thinned out already."""
        return replace(self, subsample=1)


def build_refs_from_window(qpos: Array, qvel: Array, spec: DigitRefSpec, ee_pos: Array = None) -> dict[str, Array]:
    """Derive the reference arrays of windows of T states.

    Args:
        qpos: `[..., T, nq]`, any leading dimensions: root position in columns 0:3 (m), root quaternion in 3:7 (xyzw,
            body to world, normalised here), joints after that (rad).
        qvel: `[..., T, nv]`: the root's linear velocity in columns 0:3 (m/s) and angular velocity in 3:6 (rad/s), both
            in the world frame, joint velocities after that (rad/s).
        spec: motor columns and `subsample`; of T states `ceil(T / subsample)` are kept, the first among them.
        ee_pos: `[..., T, 5, 3]`, positions of the end effectors in the world frame (m), or None.

    A root quaternion of zeros, as files have it in placeholder frames, is taken for the identity, with a warning (none
    under JAX).

    All are numpy arrays, or all are JAX arrays; so are the results, new arrays that keep the dtypes. With JAX it can be
    jitted (`spec` static or closed over). MuJoCo itself keeps a free joint's quaternion as wxyz and its angular
    velocity in the body frame: such data has to be converted first.

    Returns:
        with T the number of states kept and M the number of motors:

        - `ref_len` int32 `[...]`: T.
        - `ref_motor_joint_pos` `[..., T, M]` (rad), `ref_motor_joint_vel` `[..., T, M]` (rad/s): the motors' columns.
        - `ref_base_local_pos` `[..., T, 3]` (m): root position, in the world frame of the recording.
        - `ref_base_local_trans` `[..., T, 3]` (m): root position less that of the window's first state, in the heading
          frame of the first state: z up, x where its yaw points.
        - `ref_base_local_ori` `[..., T, 3]` (rad): roll, pitch, yaw of the root, see `rotations.euler_angles`.
        - `ref_base_robot_lin_vel` (m/s), `ref_base_robot_ang_vel` (rad/s), `[..., T, 3]`: the root's velocities in the
          root's own frame, the inverse rotation of `rotations.into_body_frame`.
        - `ref_local_ee_pos` `[..., T, 5, 3]` (m): end effectors less the root position, along the world's axes.
        - `ref_base_local_ee_pos` `[..., T, 5, 3]` (m): the same in the root's own frame.

        The last two are there only if `ee_pos` is given: nothing is made up.

    Raises:
        SchemaError: shapes, dtypes or kinds of arrays that do not fit; numpy only: a root quaternion that is not finite
            (under JAX, where values cannot be looked at, its results are NaN).
        OutOfRangeError: a motor column beyond the width of its array (an IndexError).
    """
    _check_arrays(qpos, qvel, ee_pos)
    _check_columns(spec, qpos.shape[-1], qvel.shape[-1])
    xp = array_namespace(qpos)
    qpos, qvel = qpos[..., :: spec.subsample, :], qvel[..., :: spec.subsample, :]
    position, quaternion = qpos[..., _ROOT_POS], qpos[..., _ROOT_QUAT]
    if isinstance(quaternion, np.ndarray):
        _check_rotations(quaternion, spec.subsample)
    placeholder = xp.all(quaternion == 0, axis=-1, keepdims=True)
    identity = xp.asarray([1, 0, 0, 0], dtype=quaternion.dtype)
    quaternion = xp.where(placeholder, identity, as_wxyz(quaternion, "xyzw"))
    orientation = euler_angles(quaternion)
    refs = {
        "ref_len": xp.full(qpos.shape[:-2], qpos.shape[-2], dtype=xp.int32),
        "ref_motor_joint_pos": xp.take(qpos, xp.asarray(spec.a_pos_index), axis=-1),
        "ref_motor_joint_vel": xp.take(qvel, xp.asarray(spec.a_vel_index), axis=-1),
        "ref_base_local_pos": xp.asarray(position, copy=True),
        "ref_base_local_trans": _in_heading_frame(position - position[..., :1, :], orientation[..., :1, 2]),
        "ref_base_local_ori": orientation,
        "ref_base_robot_lin_vel": into_body_frame(qvel[..., _ROOT_LIN_VEL], quaternion),
        "ref_base_robot_ang_vel": into_body_frame(qvel[..., _ROOT_ANG_VEL], quaternion),
    }
    if ee_pos is not None:
        relative = ee_pos[..., :: spec.subsample, :, :] - position[..., None, :]
        refs["ref_local_ee_pos"] = relative
        refs["ref_base_local_ee_pos"] = into_body_frame(relative, quaternion[..., None, :])
    return refs


class DigitTrajoptRefBuilder:
    """References of whole trajectories, straight from trajectory optimisation `.npz` files, read when asked for.

    Args:
        data_dir: a file, a directory of files, or one with a sub-directory per motion; numbered in natural order.
        ref_spec: as for `build_refs_from_window`.

    Attributes:
        max_len: states of the longest trajectory, after thinning out.
        num_trajectories: number of files.

    Raises:
        SourceNotFoundError, SourceError: nothing there, or a file whose headers are damaged or do not fit.
        SchemaError, OutOfRangeError: a file's widths do not fit the specification.
    """

    def __init__(self, data_dir: str | Path, ref_spec: DigitRefSpec) -> None:
        self.ref_spec = ref_spec
        self._files = StateFiles(data_dir)
        for path, (nq, nv) in zip(self._files.paths, self._files.widths, strict=True):
            _check_columns(ref_spec, nq, nv, f"{path}: ")
        self.max_len = -(-max(self._files.lengths) // ref_spec.subsample)
        self.num_trajectories = len(self._files)

    def build_by_index(self, i: int) -> dict[str, NDArray[Any]]:
        """Return the references of trajectory `i`, `[max_len, ...]`, its last row repeated; `ref_len` is its own.

        Raises OutOfRangeError if there is no such trajectory, SourceError or SchemaError naming the file if its values
        are damaged or no rotations.
        """
        states = self._files.read(i)
        try:
            refs = build_refs_from_window(states["qpos"], states["qvel"], self.ref_spec, states.get("ee_pos"))
        except SchemaError as error:
            raise SchemaError(f"{self._files.paths[i]}: {error}") from error
        row = np.minimum(np.arange(self.max_len), refs["ref_len"] - 1)
        return {key: value if key == "ref_len" else value[row] for key, value in refs.items()}


def _in_heading_frame(vector: Array, yaw: Array) -> Array:
    xp = array_namespace(vector)
    x, y, z = (vector[..., i] for i in range(3))
    return xp.stack([xp.cos(yaw) * x + xp.sin(yaw) * y, xp.cos(yaw) * y - xp.sin(yaw) * x, z], axis=-1)


def _integers(name: str, values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(checked_integers(name, values, outside=SchemaError, other=SchemaError).ravel().tolist())


def _columns(name: str, values: Iterable[Any]) -> tuple[int, ...]:
    columns = _integers(name, values)
    if not columns or min(columns) < 0:
        raise SchemaError(f"{name}: expected columns from 0 on, found {list(columns)}")
    return columns


def _check_columns(spec: DigitRefSpec, nq: int, nv: int, where: str = "") -> None:
    checks = (("qpos", nq, _ROOT_NQ, "a_pos_index"), ("qvel", nv, _ROOT_NV, "a_vel_index"))
    for key, width, root, name in checks:
        if width < root:
            raise SchemaError(f"{where}{key}: expected {root} columns or more, the root's, found {width}")
        if (last := max(getattr(spec, name))) >= width:
            raise OutOfRangeError(f"{where}{key}: {name} expects {last + 1} columns or more, found {width}")


def _name(namespace: Any) -> str:
    return str(namespace.__name__.removeprefix("array_api_compat."))


def _check_arrays(qpos: Array, qvel: Array, ee_pos: Array) -> None:
    arrays = {"qpos": qpos, "qvel": qvel} | ({} if ee_pos is None else {"ee_pos": ee_pos})
    for key, array in arrays.items():
        try:
            xp, first = array_namespace(array), array_namespace(qpos)
        except TypeError as error:
            raise SchemaError(f"{key}: expected a numpy or JAX array, found {type(array).__name__}") from error
        if xp is not first:
            raise SchemaError(f"{key}: expected an array of {_name(first)}, found {_name(xp)}")
        if not xp.isdtype(array.dtype, "real floating"):
            raise SchemaError(f"{key}: expected floating point numbers, found {array.dtype}")
    if qpos.ndim < 2 or qpos.shape[-2] < 1:
        raise SchemaError(f"qpos: expected [..., T, nq] with T at least 1, found {list(qpos.shape)}")
    *lead, steps, _ = qpos.shape
    if qvel.ndim != qpos.ndim or qvel.shape[:-1] != qpos.shape[:-1]:
        expected = ", ".join(map(str, [*lead, steps, "nv"]))
        raise SchemaError(f"qvel: expected [{expected}] like qpos, found {list(qvel.shape)}")
    if ee_pos is not None and tuple(ee_pos.shape) != (*lead, steps, *_EE_SHAPE):
        raise SchemaError(f"ee_pos: expected {[*lead, steps, *_EE_SHAPE]} like qpos, found {list(ee_pos.shape)}")


def _check_rotations(quaternion: NDArray[Any], subsample: int) -> None:
    def first(states: NDArray[np.bool_]) -> list[int]:
        *lead, step = (int(i) for i in np.argwhere(states)[0])
        return [*lead, step * subsample]

    bad = ~np.isfinite(quaternion).all(axis=-1)
    if bad.any():
        found = quaternion[tuple(np.argwhere(bad)[0])].tolist()
        raise SchemaError(f"qpos: expected a root quaternion in columns 3:7 of {first(bad)}, found {found}")
    zero: NDArray[np.bool_] = np.asarray((quaternion == 0).all(axis=-1))
    if zero.any():
        warnings.warn(
            f"qpos: {int(zero.sum())} states have a root quaternion of zeros in columns 3:7, the first is "
            f"{first(zero)}; taken for the identity",
            stacklevel=3,
        )
