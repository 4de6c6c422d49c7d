"""A whole store in device memory, and windows out of it inside a jitted function."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import OutOfRangeError
from iltools_datasets.store.keys import Boundary, Key, nested
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.windows.readers import refuse_unreadable
from iltools_datasets.windows.source import checked_offsets

try:
    import jax
    import jax.numpy as jnp
    from jax.sharding import Sharding
except ImportError as error:
    raise missing_extra("jax", "a store on the device") from error

from iltools_datasets.jax.upload import Field, History, upload

__all__ = ["DeviceStore"]

_INT32 = np.iinfo(np.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DeviceStore:
    """Transitions of all trajectories as device arrays: a pytree. Pass it to jitted functions as an argument.

    (A function that closes over it has the data compiled into it, which takes seconds and the memory once more.)

    Examples:
        >>> data = DeviceStore.from_store(TrajectoryStore.open("walks"), ["qpos", "action"])
        >>> window = jax.jit(lambda data, traj, step: data.window(traj, step, 8))
        >>> window(data, jnp.array([0, 2]), jnp.array([3, 1]))["qpos"].shape
        (2, 8, 7)
    """

    columns: tuple[jax.Array, ...]
    """Arrays [rows, ...]; a key and its `next` may share one."""
    start: jax.Array
    """int32 [K]: first row of each trajectory in columns with a row per transition."""
    state_start: jax.Array
    """int32 [K]: first row of each trajectory in columns with a row per state."""
    length: jax.Array
    """int32 [K]: transitions of each trajectory."""
    fields: tuple[Field, ...] = field(metadata={"static": True})
    """What windows hold, and where it is."""

    @classmethod
    def from_store(
        cls,
        store: TrajectoryStore,
        keys: Sequence[Key] | None = None,
        sharding: Sharding | jax.Device | None = None,
        dtype: DTypeLike | None = None,
        budget: int | None = None,
    ) -> DeviceStore:
        """Copy a store into device memory.

        Args:
            store: an open store.
            keys: what to copy; None = everything. A key and its `next` are one array if they agree.
            sharding: a device, or how rows are spread over several; `PartitionSpec()` puts a copy on each. None = JAX's
                default device.
            dtype: floating dtype for all floating keys; None = as stored.
            budget: bytes that may be used per device; None = what the device has free.

        Raises:
            BudgetError: it does not fit the budget (a MemoryError); nothing was allocated.
            OutOfRangeError: more than 2^31 - 1 states.
            SchemaError: a value does not fit the dtype in which the device keeps it, or the sharding does not fit.
            MissingKeyError: there is no such key.
        """
        columns, fields, (start, state_start, length) = upload(store, keys, sharding, dtype, budget)
        return cls(tuple(columns), start, state_start, length, fields)

    @property
    def keys(self) -> list[Key]:
        """What windows hold."""
        return [entry.key for entry in self.fields]

    @property
    def num_trajectories(self) -> int:
        """K."""
        return int(self.length.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays; of one copy, if the sharding makes several."""
        return sum(array.nbytes for array in (*self.columns, self.start, self.state_start, self.length))

    def window(
        self,
        traj: jax.typing.ArrayLike,
        step: jax.typing.ArrayLike,
        length: int | None = None,
        boundary: Boundary = "wrap",
        *,
        offsets: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Return windows of transitions, each within one trajectory: the values `TrajectoryStore.windows` has.

        Pure, and fit for jit, vmap and scan; `length`, `boundary` and `offsets` must be Python values.

        Args:
            traj: int `[...]`, positions of trajectories in the store's `segments`.
            step: int `[...]`, where each window begins within its trajectory; may be negative.
            length: number of consecutive transitions per window.
            boundary: outside the trajectory `"wrap"` continues at its other end, `"clamp"` repeats its first or last
                transition, `"mask"` does the same and adds the key `"mask"`, bool `[..., length]`, false there;
                `"error"` raises, which only works on values, outside of jit.
            offsets: instead of `length`, increasing steps relative to `step`.

        Returns:
            Nested `{key: [..., length, ...]}`, the leading dimensions those of `traj` and `step` broadcast.

        Raises:
            OutOfRangeError: no such trajectory, or a window leaves its own with `boundary="error"`. A jitted function
                cannot raise: there, a trajectory outside [0, K) reads as the nearest one.
            SchemaError: neither or both of `length` and `offsets`, or offsets that do not increase.
            ValueError: no such boundary, or `"error"` inside of jit.
        """
        relative = tuple(checked_offsets(length, offsets).tolist())
        if boundary not in ("wrap", "clamp", "mask", "error"):
            raise ValueError(f"boundary is {boundary!r}; one of 'wrap', 'clamp', 'mask', 'error' is needed")
        refuse_unreadable(self.keys, boundary)
        traj, step = _index("traj", traj), _index("step", step)
        if not isinstance(traj, jax.core.Tracer):
            _refuse_unknown(np.asarray(traj), self.num_trajectories)
        if boundary == "error":
            if any(isinstance(value, jax.core.Tracer) for value in (traj, step, self.length)):
                raise ValueError("boundary='error' cannot raise inside of jit; use 'mask' there")
            _refuse_outside(np.asarray(traj), np.asarray(step), np.asarray(self.length), relative)
        within: Boundary = "clamp" if boundary == "error" else boundary
        window: dict[str, Any] = _window(self, traj, step, relative, within)
        return window


@functools.partial(jax.jit, static_argnames=("offsets", "boundary"))
def _window(
    store: DeviceStore, traj: jax.Array, step: jax.Array, offsets: tuple[int, ...], boundary: Boundary
) -> dict[str, Any]:
    traj, step = jnp.broadcast_arrays(traj, step)
    traj = jnp.clip(traj, 0, store.num_trajectories - 1)

    def of(per_trajectory: jax.Array) -> jax.Array:
        return per_trajectory.at[traj].get(mode="promise_in_bounds")[..., None]

    at, inside = _steps_within(step[..., None], of(store.length), np.array(offsets, np.int32), boundary)
    rows = {"transition": of(store.start) + at, "state": of(store.state_start) + at}
    rows["next_state"] = rows["state"] + 1
    window: dict[Key, jax.Array] = {}
    for entry in store.fields:
        column, row = store.columns[entry.column], rows[entry.rows]
        if entry.history is None:
            window[entry.key] = column.at[row].get(mode="promise_in_bounds")
        else:
            window[entry.key] = _stacked(column, row, of(store.state_start), entry.history)
    if boundary == "mask":
        window["mask"] = inside
    return nested(window)


def _stacked(column: jax.Array, row: jax.Array, begin: jax.Array, history: History) -> jax.Array:
    """Return the histories of rows [..., length] of trajectories that begin at rows [..., 1]."""
    back = history.lag + np.arange(history.length, dtype=np.int32)
    at = row[..., None] - (back[::-1] if history.oldest_first else back)
    begin = begin[..., None]
    flat = column.reshape(len(column), -1)
    frames = flat.at[jnp.maximum(at, begin)].get(mode="promise_in_bounds")
    if not history.repeats_first:
        frames = jnp.where((at >= begin)[..., None], frames, jnp.zeros((), frames.dtype))
    parts = [frames[..., offset : offset + width] for offset, width in history.parts]
    return jnp.concatenate([part.reshape(*row.shape, -1) for part in parts], axis=-1)


def _steps_within(
    step: jax.Array, length: jax.Array, offsets: NDArray[np.int32], boundary: Boundary
) -> tuple[jax.Array, jax.Array]:
    """Return `step + offsets` brought into [0, length), and where it was there already. Nothing overflows int32."""
    least, greatest = _INT32.min - np.minimum(offsets, 0), _INT32.max - np.maximum(offsets, 0)
    plain = jnp.clip(step, least, greatest) + offsets
    inside = (plain >= 0) & (plain < length)
    if boundary != "wrap":
        return jnp.clip(plain, 0, length - 1), inside
    first, more = step % length, offsets % length
    return jnp.where(first >= length - more, first - (length - more), first + more), inside


def _index(name: str, values: jax.typing.ArrayLike) -> jax.Array:
    if isinstance(values, jax.Array):
        if not jnp.issubdtype(values.dtype, jnp.integer):
            raise TypeError(f"{name}: expected integers, found {values.dtype}")
        return values.astype(jnp.int32)
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected integers, found {array.dtype}")
    if array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
        raise OutOfRangeError(f"{name}: the device counts in int32; found {array.min()} to {array.max()}")
    return jnp.asarray(array, jnp.int32)


def _refuse_unknown(traj: NDArray[np.int32], count: int) -> None:
    outside = (traj < 0) | (traj >= count)
    if outside.any():
        raise OutOfRangeError(f"trajectory {int(traj[outside].flat[0])} is outside [0, {count})")


def _refuse_outside(
    traj: NDArray[np.int32], step: NDArray[np.int32], length: NDArray[np.int32], offsets: tuple[int, ...]
) -> None:
    traj, step = np.broadcast_arrays(traj, step)
    first, last = step.astype(np.int64) + offsets[0], step.astype(np.int64) + offsets[-1]
    outside = np.argwhere((first < 0) | (last >= length[traj]))
    if outside.size:
        window = tuple(outside[0])
        raise OutOfRangeError(
            f"window {[int(i) for i in window]}: steps {first[window]} to {last[window]} leave trajectory "
            f"{traj[window]} of {length[traj[window]]}"
        )
