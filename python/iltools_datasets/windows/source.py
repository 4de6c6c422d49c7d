"""Windows for many envs, one batch after the other, with a place for each env that moves on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_ids, checked_integer, checked_integers
from iltools_datasets._base.saved_state import SavedState
from iltools_datasets.errors import OutOfRangeError, SchemaError, StoreChangedError
from iltools_datasets.store.keys import Boundary, Key
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.windows.readers import RowsReader, StoreReader, WindowReader
from iltools_datasets.windows.rows import MOST_STEPS, Index

if TYPE_CHECKING:
    from iltools_datasets.windows.dataset import VectorizedTrajectoryDataset

__all__ = ["WindowSource"]

Trajectory = int | tuple[int, int]

_STATE_KIND, _STATE_VERSION = "WindowSource", 1
_MOST_OFFSET = 2**31 - 1  # also where JAX counts, and added up the steps of an env stay far below 2^63


class WindowSource:
    """Each call returns the next window of every env, nested `{key: [num_envs, window, ...]}`, and moves the envs on.

    Args:
        store_or_dataset: a `TrajectoryStore`, whose steps are transitions, or a `VectorizedTrajectoryDataset`, whose
            steps are states; its own envs stay where they are.
        keys: what to read; None = everything. A key of several names comes nested: `window["next"]["observation"]`.
        window: number of consecutive steps per window.
        env_to_traj: `{env: trajectory}` for envs 0, 1, ..., or a sequence with one per env. A trajectory is a position
            (in `store.segments`), or for a store also `(task_id, traj_id)`. None = where the data set's envs stand.
        env_to_step: `{env: step}` or a sequence; envs that are not named begin at step 0.
        offsets: instead of `window`, the steps to read relative to where an env stands, increasing, for instance
            `[0, 1, 2, 5, 10]` for a look ahead; negative ones look back.
        boundary: outside the trajectory `"wrap"` continues at its other end, and so do the envs; `"clamp"` repeats its
            first or last step; `"mask"` does the same and adds the key `"mask"`, bool `[num_envs, window]`, false
            there; `"error"` raises. With the last three an env that has passed the end stays there (`finished`) until
            it is put elsewhere.
        advance: steps by which every env moves on after each window; None = `window`, or 1 with `offsets`.
        num_threads: threads of the gather; None = those of the store. One is best where a step computes meanwhile.

    Raises:
        SchemaError: arguments that contradict each other.
        MissingKeyError: there is no such key.
        OutOfRangeError, UnknownSegmentError: no such trajectory, a negative step, or, with `boundary="error"`, a
            trajectory shorter than the window.

    Arrays are never written again while anybody holds them (`leases_buffers`), and those out of a store begin at
    multiples of 64 bytes, so a device that shares the host's memory takes them without a copy.

    Examples:
        >>> store = TrajectoryStore.open("walks")
        >>> source = WindowSource(store, ["qpos", "action"], 8, env_to_traj=[0, 2, 0], env_to_step=[0, 5, 9])
        >>> source()["qpos"].shape
        (3, 8, 7)
        >>> source.env_steps
        array([ 8, 13, 17])
    """

    leases_buffers = True
    """The arrays returned are never written again while anybody holds them."""

    def __init__(
        self,
        store_or_dataset: TrajectoryStore | VectorizedTrajectoryDataset,
        keys: Sequence[Key] | None = None,
        window: int | None = None,
        env_to_traj: Mapping[int, Trajectory] | Sequence[Trajectory] | None = None,
        env_to_step: Mapping[int, int] | Sequence[int] | None = None,
        *,
        offsets: Sequence[int] | None = None,
        boundary: Boundary = "wrap",
        advance: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        if boundary not in ("wrap", "clamp", "mask", "error"):
            raise SchemaError(f"boundary is {boundary!r}; one of 'wrap', 'clamp', 'mask', 'error' is needed")
        self._offsets = checked_offsets(window, offsets)
        self._boundary = boundary
        self._advance = len(self._offsets) if offsets is None else 1
        if advance is not None:
            self._advance = checked_integer("advance", advance, low=0, high=_MOST_OFFSET, outside=SchemaError)
        # What would leave a trajectory is refused before anything is read, so the readers need not know "error".
        within: Boundary = "wrap" if boundary == "error" else boundary
        self._reader: WindowReader
        if isinstance(store_or_dataset, TrajectoryStore):
            if env_to_traj is None:
                raise SchemaError("env_to_traj is needed: which trajectory does each env follow?")
            self._reader = StoreReader(store_or_dataset, keys, self._offsets, within, num_threads)
            num_envs = len(env_to_traj)
            traj, step = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)
        else:
            self._reader = RowsReader(store_or_dataset.rows, keys, self._offsets, within)
            num_envs = store_or_dataset.num_envs
            if env_to_traj is not None and len(env_to_traj) != num_envs:
                raise SchemaError(f"env_to_traj names {len(env_to_traj)} envs; the data set has {num_envs}")
            _, traj, step = store_or_dataset.places(range(num_envs))
        if num_envs == 0:
            raise SchemaError("env_to_traj names no envs")
        self.num_envs: int = num_envs
        """Number of envs, the first extent of every array."""
        self._lock = threading.Lock()
        self._traj, self._step = self._changed(traj, step, _by_env(env_to_traj), _by_env(env_to_step))

    @property
    def offsets(self) -> Index:
        """int64 [window]: the steps that are read, relative to where an env stands."""
        return self._offsets.copy()

    @property
    def env_traj_ids(self) -> Index:
        """int64 [num_envs]: position of the trajectory that each env follows; a copy."""
        return self._traj.copy()

    @property
    def env_steps(self) -> Index:
        """int64 [num_envs]: the step each env stands at, where its next window begins; a copy."""
        return self._step.copy()

    @property
    def finished(self) -> NDArray[np.bool_]:
        """bool [num_envs]: whether an env has passed the end of its trajectory. Never so with `boundary="wrap"`."""
        past: NDArray[np.bool_] = self._step >= self._reader.lengths[self._traj]
        return past

    def __call__(self) -> dict[str, Any]:
        """Return the next window of every env and move the envs on.

        Raises `OutOfRangeError`, with nothing moved, if a window leaves its trajectory and `boundary` is `"error"`.
        """
        with self._lock:
            if self._boundary == "error":
                self._refuse_outside()
            window = self._reader.read(self._traj, self._step, self._advance)
            self._step = self._within(self._traj, self._step + self._advance)
            return window

    def update_references(
        self,
        env_to_traj: Mapping[int, Trajectory] | None = None,
        env_to_step: Mapping[int, int] | None = None,
    ) -> None:
        """Put envs elsewhere: all that are named, or, on any error, none.

        While a streamer runs ahead, do this inside its `rewind()`.

        Args:
            env_to_traj: env -> trajectory. The step of an env that is only named here stays.
            env_to_step: env -> step, 0 or more.

        Raises:
            OutOfRangeError: no such env or trajectory, a negative step, or a trajectory too short for
                `boundary="error"`.
            UnknownSegmentError: no trajectory has these ids.
        """
        with self._lock:
            self._traj, self._step = self._changed(self._traj, self._step, env_to_traj or {}, env_to_step or {})

    def state_dict(self) -> dict[str, Any]:
        """Return where the envs stand; `load_state_dict` goes on with the same windows."""
        with self._lock:
            return {
                "kind": _STATE_KIND,
                "version": _STATE_VERSION,
                "data": self._reader.identity,
                "offsets": self._offsets.copy(),
                "boundary": self._boundary,
                "advance": self._advance,
                "traj": self._traj.copy(),
                "step": self._step.copy(),
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the envs where a saved state has them.

        Raises `StoreChangedError` for a state of other data, `StateError` for one of another source (envs, offsets,
        boundary, advance) or with impossible values. Nothing has changed then.
        """
        saved = SavedState(state, _STATE_KIND, _STATE_VERSION)
        if (data := saved.text("data")) != self._reader.identity:
            raise StoreChangedError(f"the state is of other data: expected {self._reader.identity!r}, found {data!r}")
        if saved.text("boundary") != self._boundary:
            raise saved.refuse("boundary", repr(self._boundary))
        if saved.integer("advance") != self._advance:
            raise saved.refuse("advance", str(self._advance))
        if not np.array_equal(saved.integers("offsets", len(self._offsets), low=None), self._offsets):
            raise saved.refuse("offsets", str(self._offsets.tolist()))
        traj = saved.integers("traj", self.num_envs, high=len(self._reader.lengths) - 1)
        step = saved.integers("step", self.num_envs, high=MOST_STEPS)
        with self._lock:
            self._refuse_short(traj)
            self._traj, self._step = traj, self._within(traj, step)

    def _changed(
        self, traj: Index, step: Index, to_traj: Mapping[int, Trajectory], to_step: Mapping[int, int]
    ) -> tuple[Index, Index]:
        """Return trajectories and steps with the changes made, in new arrays."""
        traj, step = traj.copy(), step.copy()
        numbers = [self._reader.find(*place) if isinstance(place, tuple) else place for place in to_traj.values()]
        traj[checked_ids("env", to_traj, self.num_envs)] = checked_ids("trajectory", numbers, len(self._reader.lengths))
        steps = checked_integers("step", to_step.values(), high=MOST_STEPS, outside=OutOfRangeError)
        if (steps < 0).any():
            raise OutOfRangeError(f"env {list(to_step)[int(np.argmin(steps))]}: step {int(steps.min())} is negative")
        step[checked_ids("env", to_step, self.num_envs)] = steps
        self._refuse_short(traj)
        return traj, self._within(traj, step)

    def _within(self, traj: Index, step: Index) -> Index:
        return step % self._reader.lengths[traj] if self._boundary == "wrap" else step

    def _refuse_short(self, traj: Index) -> None:
        span = int(self._offsets[-1] - self._offsets[0]) + 1
        short = np.flatnonzero(self._reader.lengths[traj] < span)
        if self._boundary == "error" and short.size:
            env = int(short[0])
            raise OutOfRangeError(
                f"env {env}: a window over {span} steps does not fit trajectory {int(traj[env])} of "
                f"{int(self._reader.lengths[traj[env]])}"
            )

    def _refuse_outside(self) -> None:
        first, last = self._step + self._offsets[0], self._step + self._offsets[-1]
        outside = np.flatnonzero((first < 0) | (last >= self._reader.lengths[self._traj]))
        if outside.size:
            env = int(outside[0])
            traj = int(self._traj[env])
            raise OutOfRangeError(
                f"env {env}: steps {int(first[env])} to {int(last[env])} leave trajectory {traj} of "
                f"{int(self._reader.lengths[traj])}"
            )


def checked_offsets(window: int | None, offsets: Sequence[int] | None) -> Index:
    """Return the steps of a window relative to its first, int64 [window]; `SchemaError` unless one of both is right."""
    if (window is None) == (offsets is None):
        raise SchemaError("give a window or offsets, one of them")
    if window is not None:
        width = checked_integer("window", window, low=1, outside=SchemaError)
        return np.arange(checked_integer("window", width, high=_MOST_OFFSET, outside=SchemaError), dtype=np.int64)
    steps = checked_integers("offsets", offsets, low=-_MOST_OFFSET, high=_MOST_OFFSET, outside=SchemaError)
    if steps.ndim != 1 or not steps.size or (np.diff(steps) <= 0).any():
        raise SchemaError(f"offsets must increase, found {steps.tolist()}")
    return steps


def _by_env(values: Mapping[int, Any] | Iterable[Any] | None) -> Mapping[int, Any]:
    if values is None:
        return {}
    return values if isinstance(values, Mapping) else dict(enumerate(values))
