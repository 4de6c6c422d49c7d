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

if TYPE_CHECKING:
    from iltools_datasets.replay.manager import ExpertReplayManager
    from iltools_datasets.store.keys import Key


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
    """Windows of reference joint positions and velocities for the envs of a replay manager.

    Args:
        mgr: a manager with an assignment; its cursors say where each env stands and are not moved.
        joint_mapping: from the data's joints to the robot's; None passes the data's joints through.
        qpos_key: key of the joint positions [num_joints] (radians or metres, as in the data).
        qvel_key: key of the joint velocities [num_joints].
        device: where windows are put; None leaves them in host memory.

    Where `qpos_key` is 7 wider than the reference joints, or `qvel_key` 6, those first columns are a free root
    (position and quaternion, linear and angular velocity) and are passed through in front of the joints.

    Raises `MissingKeyError` for a key that the store lacks and `SchemaError` for any other width.
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
        self._mapping = joint_mapping
        self._device = None if device is None else torch.device(device)
        self._root_width = {key: self._find_root(key, free_root) for key, free_root in ((qpos_key, 7), (qvel_key, 6))}

    def _find_root(self, key: Key, free_root: int) -> int:
        store = self._manager.store
        shape = store.shape(key)
        if self._mapping is None:
            return 0
        joints = len(self._mapping.reference_joint_names)
        for root_width in (0, free_root):
            if shape == (root_width + joints,):
                return root_width
        raise SchemaError(
            f"{store.path}, key {key!r}: expected {joints} reference joints, or {free_root} more for a free root, "
            f"found shape {list(shape)}"
        )

    def get_reference_window(self, window_size: int, wrap: bool = True) -> TensorDict:
        """Return positions and velocities for the next `window_size` steps of every env, [num_envs, window_size, ...].

        Step 0 is where the env stands. `wrap` continues at the clip's start; without it a window past the clip's end
        raises `OutOfRangeError`. Cursors do not move.
        """
        arrays = self._manager.env_windows(window_size, wrap=wrap, keys=list(self._root_width))
        num_envs = len(next(iter(arrays.values())))
        window = TensorDict({}, batch_size=[num_envs, window_size], device=self._device)
        for key, root_width in self._root_width.items():
            values = torch.from_numpy(arrays[key]).to(self._device)
            if self._mapping is not None:
                joints = self._mapping.apply(values[..., root_width:])
                values = torch.cat([values[..., :root_width], joints], dim=-1)
            window[key] = values
        return window
