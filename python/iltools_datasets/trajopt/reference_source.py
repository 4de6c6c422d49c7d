"""Where an environment gets the references of an episode when it resets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integer, checked_integers
from iltools_datasets.errors import OutOfRangeError, SchemaError, SourceError, SourceNotFoundError, UnknownSegmentError
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.trajopt.digit_refs import DigitRefSpec, build_refs_from_window
from iltools_datasets.trajopt.state_files import StateFiles
from iltools_datasets.windows.dataset import VectorizedTrajectoryDataset
from iltools_datasets.windows.rows import TrajectoryRows, step_within

__all__ = ["ReferenceSource"]

Index = NDArray[np.int64]
States = dict[str, NDArray[Any]]

_OPTIONAL_KEYS = ("ee_pos",)


class ReferenceSource:
    """Digit references for the envs that reset, reading no more states than their episodes need.

    Args:
        zarr_path: an archive, a store's directory, or an open `TrajectoryStore`; preferred.
        ref_path: trajectory optimisation `.npz` files, used where no `zarr_path` is given or nothing is at it.
        spec: motor columns and `subsample`.
        window: number of reference rows T an episode needs, after `subsample`.
        num_envs: number of envs; they are numbered from 0.

    Attributes:
        origin: the path that is read.
        traj_lengths: states of each trajectory. Both kinds are numbered in natural order.

    Raises:
        SourceError: neither path is given (a ValueError).
        SourceNotFoundError: nothing is at any path given (a FileNotFoundError).

    Use it as a context manager, or call `close`, to stop its background thread early.
    """

    def __init__(
        self,
        zarr_path: str | os.PathLike[str] | TrajectoryStore | None = None,
        ref_path: str | os.PathLike[str] | None = None,
        *,
        spec: DigitRefSpec,
        window: int,
        num_envs: int,
    ) -> None:
        for name, number in (("window", window), ("num_envs", num_envs)):
            if checked_integer(name, number, outside=SchemaError, other=SchemaError) < 1:
                raise SchemaError(f"{name}: expected 1 or more, found {number}")
        self.spec = spec
        self.window = window
        self.num_envs = num_envs
        self.origin, self._reader = _open(zarr_path, ref_path, num_envs, (window - 1) * spec.subsample + 1)
        self.traj_lengths: list[int] = list(self._reader.lengths)

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories."""
        return len(self.traj_lengths)

    def reset(
        self, env_ids: Iterable[int], traj_ids: Iterable[int], steps: Iterable[int] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return the references of new episodes, `[E, T, ...]` by key as `build_refs_from_window` names them.

        Args:
            env_ids: the E envs that reset, each once.
            traj_ids: the trajectory each follows.
            steps: the state of it each begins at, before `subsample`; None = 0 for all.

        A trajectory that ends within the window has its last row repeated; `ref_len` int32 `[E]` counts the rows that
        are its own.

        Raises:
            OutOfRangeError: no such env, or no such step of its trajectory (an IndexError).
            UnknownSegmentError: no such trajectory (a KeyError).
            MissingKeyError: a trajectory has no `qpos` or `qvel`, or no `ee_pos` while others have (a KeyError).
            SchemaError: numbers of ids that differ, or states that are not what the specification expects.
        """
        env, traj = _ids("env_ids", env_ids), _ids("traj_ids", traj_ids)
        first = np.zeros_like(env) if steps is None else _ids("steps", steps)
        self._check(env, traj, first)
        stride = self.spec.subsample
        left = np.asarray(self.traj_lengths)[traj] - first
        own = np.minimum(-(-left // stride), self.window)
        row = np.minimum(np.arange(self.window), own[:, None] - 1) * stride
        states = self._reader.read(traj, first[:, None] + row)
        try:
            refs = build_refs_from_window(
                states["qpos"], states["qvel"], self.spec.every_state(), ee_pos=states.get("ee_pos")
            )
        except (SchemaError, OutOfRangeError) as error:
            raise type(error)(f"{self.origin}: trajectories {traj.tolist()}: {error}") from error
        refs["ref_len"] = own.astype(np.int32)
        return refs

    def _check(self, env: Index, traj: Index, first: Index) -> None:
        if not len(env) == len(traj) == len(first) or not len(env):
            raise SchemaError(f"expected as many trajectories and steps as envs: {len(env)}, {len(traj)}, {len(first)}")
        if len(np.unique(env)) < len(env):
            raise SchemaError(f"env_ids: expected each env once, found {env.tolist()}")
        for number, trajectory, step in zip(env.tolist(), traj.tolist(), first.tolist(), strict=True):
            if not 0 <= number < self.num_envs:
                raise OutOfRangeError(f"env {number} is outside [0, {self.num_envs})")
            if not 0 <= trajectory < self.num_trajectories:
                raise UnknownSegmentError(
                    f"{self.origin}: env {number}: no trajectory {trajectory} of {self.num_trajectories}"
                )
            if not 0 <= step < self.traj_lengths[trajectory]:
                raise OutOfRangeError(
                    f"{self.origin}: env {number}: step {step} of trajectory {trajectory} is outside "
                    f"[0, {self.traj_lengths[trajectory]})"
                )

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.close()

    def __enter__(self) -> ReferenceSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Reader(Protocol):
    lengths: list[int]

    def read(self, traj: Index, step: Index) -> States:
        """Return the states at steps [E, T], which exist, of trajectories [E], `[E, T, ...]` by key."""

    def close(self) -> None: ...


class _RowsReader:
    def __init__(self, rows: TrajectoryRows) -> None:
        self._rows = rows
        self.lengths: list[int] = rows.num_states.tolist()
        self._keys = ("qpos", "qvel", *(key for key in _OPTIONAL_KEYS if key in rows.keys))

    def read(self, traj: Index, step: Index) -> States:
        return {key: self._rows.read(key, traj, step_within(self._rows, key, traj, step)) for key in self._keys}

    def close(self) -> None:
        self._rows.close()


class _FileReader:
    def __init__(self, files: StateFiles) -> None:
        self._files = files
        self.lengths = files.lengths

    def read(self, traj: Index, step: Index) -> States:
        whole = {k: self._files.read(k) for k in set(traj.tolist())}
        keys = ("qpos", "qvel", *(key for key in _OPTIONAL_KEYS if any(key in states for states in whole.values())))
        for k, states in whole.items():
            expected = whole[int(traj[0])]
            for key in keys:
                if key not in states or key not in expected or states[key].shape[1:] != expected[key].shape[1:]:
                    shapes = [list(states[key].shape[1:]) if key in states else None for states in (expected, states)]
                    raise SchemaError(f"{self._files.paths[k]}: {key}: expected rows of {shapes[0]}, found {shapes[1]}")
        return {key: np.stack([whole[k][key][step[e]] for e, k in enumerate(traj.tolist())]) for key in keys}

    def close(self) -> None:
        pass


def _open(
    zarr_path: str | os.PathLike[str] | TrajectoryStore | None,
    ref_path: str | os.PathLike[str] | None,
    num_envs: int,
    rows: int,
) -> tuple[str, _Reader]:
    if zarr_path is None and ref_path is None:
        raise SourceError("no references: give zarr_path (an archive or a store) or ref_path (.npz files)")
    missing: list[str] = []
    if zarr_path is not None:
        origin = str(zarr_path.path if isinstance(zarr_path, TrajectoryStore) else zarr_path)
        try:
            return origin, _RowsReader(VectorizedTrajectoryDataset(zarr_path, num_envs, {"buffer_size": rows}).rows)
        except SourceNotFoundError as error:
            missing.append(f"zarr_path: {error}")
    if ref_path is not None:
        try:
            return str(ref_path), _FileReader(StateFiles(Path(ref_path)))
        except SourceNotFoundError as error:
            missing.append(f"ref_path: {error}")
    raise SourceNotFoundError(f"no references: {'; '.join(missing)}")


def _ids(name: str, values: Iterable[int]) -> Index:
    return checked_integers(name, values, outside=SchemaError, other=SchemaError)
