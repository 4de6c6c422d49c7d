"""Reference motion for a robot whose joints differ from the data's: windows of positions and velocities, remapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from iltools_datasets._base.extras import missing_extra

try:
    import torch
    from tensordict import TensorDict
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.reference") from error

from iltools_datasets.errors import SchemaError
from iltools_datasets.store.keys import Key, parts_of, public

if TYPE_CHECKING:
    from iltools_datasets.replay.manager import ExpertReplayManager

_ROOT_NQ, _ROOT_NV = 7, 6


class JointMapping:
    """Where each joint of the target robot is found among the joints of the reference motion.

    Args:
        reference_joint_names: one name per column of the data.
        target_joint_names: one name per joint of the robot, in the order wanted.

    Names must be unique on each side (`ValueError` otherwise); a target joint that the reference lacks becomes NaN.
    """

    def __init__(self, reference_joint_names: Sequence[str], target_joint_names: Sequence[str]) -> None:
        self.reference_joint_names = tuple(reference_joint_names)
        self.target_joint_names = tuple(target_joint_names)
        for side, names in (("reference", self.reference_joint_names), ("target", self.target_joint_names)):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{side}_joint_names holds {repeated} more than once")
        column = {name: position for position, name in enumerate(self.reference_joint_names)}
        self._source = torch.tensor([column.get(name, -1) for name in self.target_joint_names], dtype=torch.long)

    @property
    def missing(self) -> tuple[str, ...]:
        """The target joints that the reference lacks."""
        return tuple(
            name for name, column in zip(self.target_joint_names, self._source.tolist(), strict=True) if column < 0
        )

    def apply(self, values: torch.Tensor) -> torch.Tensor:
        """Reorder reference joints [..., num_reference] into target joints [..., num_target]; missing ones are NaN.

        The result has the dtype of `values`, which must be floating if a joint is missing. Raises `SchemaError` if the
        last dimension is not the number of reference joints.
        """
        if values.ndim == 0 or values.shape[-1] != len(self.reference_joint_names):
            raise SchemaError(
                f"expected {len(self.reference_joint_names)} joints in the last dimension, found shape "
                f"{list(values.shape)}"
            )
        source = self._source.to(values.device)
        mapped = values[..., source.clamp(min=0)] if len(source) else values[..., :0]
        missing = source < 0
        if bool(missing.any()):
            if not values.is_floating_point():
                raise SchemaError(f"joints {list(self.missing)} are missing, and {values.dtype} has no NaN for them")
            mapped[..., missing] = torch.nan
        return mapped


class ReferenceManager:
    """Windows of a reference motion for the envs of a replay manager: its root, and its joints in the robot's order.

    Args:
        mgr: a manager with an assignment; its cursors say where each env stands and are not moved.
        joint_mapping: from the data's joints to the robot's; None, or one without names, passes the data's joints on.
        qpos_key: key of the positions [nq]: joints (rad or m, as in the data), behind a free root where there is one:
            position (m) and quaternion, in the data's frame and order.
        qvel_key: key of the velocities [nv]: joints, behind the root's linear (m/s) and angular velocity (rad/s). A
            store without it has zeros.
        device: where windows are put; None leaves them in host memory.

    There is a free root where `qpos` is 7 wider than the joints that the mapping names; without names, where `qpos` is
    one wider than `qvel`, as it is for a free root alone (without velocities: where it is 7 wide or more).

    Raises `MissingKeyError` if the store lacks `qpos_key`, and `SchemaError` for any other width.
    """

    def __init__(
        self,
        mgr: ExpertReplayManager,
        joint_mapping: JointMapping | None = None,
        qpos_key: Key = "qpos",
        qvel_key: Key = "qvel",
        device: torch.device | str | None = None,
    ) -> None:
        self._manager = mgr
        self._mapping = joint_mapping if joint_mapping is not None and joint_mapping.reference_joint_names else None
        self._device = None if device is None else torch.device(device)
        self._qpos_key = qpos_key
        self._qvel_key = qvel_key if public(parts_of(qvel_key)) in mgr.store.keys else None
        self._has_root = self._find_root()

    def _find_root(self) -> bool:
        nq = self._width(self._qpos_key)
        nv = None if self._qvel_key is None else self._width(self._qvel_key)
        if self._mapping is None:
            return nq >= _ROOT_NQ and nv in (None, nq - 1)
        joints = len(self._mapping.reference_joint_names)
        has_root = nq == joints + _ROOT_NQ
        self._require_width(self._qpos_key, nq, joints, _ROOT_NQ)
        if nv is not None and self._qvel_key is not None:
            self._require_width(self._qvel_key, nv, joints, _ROOT_NV)
            if has_root != (nv == joints + _ROOT_NV):
                raise SchemaError(
                    f"{self._manager.store.path}: one of {nq} positions and {nv} velocities lacks the root"
                )
        return has_root

    def _width(self, key: Key) -> int:
        shape = self._manager.store.shape(key)
        if len(shape) != 1:
            raise SchemaError(f"{self._manager.store.path}, key {key!r}: expected shape [width], found {list(shape)}")
        return shape[0]

    def _require_width(self, key: Key, width: int, joints: int, free_root: int) -> None:
        if width not in (joints, joints + free_root):
            raise SchemaError(
                f"{self._manager.store.path}, key {key!r}: expected {joints} reference joints, or {free_root} "
                f"more for a free root, found shape [{width}]"
            )

    def get_reference_window(self, window_size: int, wrap: bool = True) -> TensorDict:
        """Return the next `window_size` steps of every env, [num_envs, window_size], or [num_envs] for a size of 1.

        Step 0 is where the env stands. `wrap` continues at the clip's start; without it a window past the clip's end
        raises `OutOfRangeError`. Cursors do not move.

        Returns:
            `joint_pos`, `joint_vel` [.., joints of the robot], NaN for joints that the data lacks; `raw_qpos` [.., nq],
            `raw_qvel` [.., nv], as stored; and, where there is a free root, `root_pos` [.., 3], `root_quat` [.., 4],
            `root_lin_vel` [.., 3], `root_ang_vel` [.., 3].
        """
        keys = [key for key in (self._qpos_key, self._qvel_key) if key is not None]
        arrays = self._manager.env_windows(window_size, wrap=wrap, keys=keys)
        qpos = torch.from_numpy(arrays[self._qpos_key]).to(self._device)
        if self._qvel_key is None:
            qvel = qpos.new_zeros((*qpos.shape[:-1], qpos.shape[-1] - self._has_root))
        else:
            qvel = torch.from_numpy(arrays[self._qvel_key]).to(self._device)
        window = TensorDict({"raw_qpos": qpos, "raw_qvel": qvel}, batch_size=qpos.shape[:2], device=self._device)
        if self._has_root:
            window["root_pos"], window["root_quat"], qpos = qpos[..., :3], qpos[..., 3:7], qpos[..., 7:]
            window["root_lin_vel"], window["root_ang_vel"], qvel = qvel[..., :3], qvel[..., 3:6], qvel[..., 6:]
        for name, values in (("joint_pos", qpos), ("joint_vel", qvel)):
            window[name] = values if self._mapping is None else self._mapping.apply(values)
        return window.squeeze(1) if window_size == 1 else window
