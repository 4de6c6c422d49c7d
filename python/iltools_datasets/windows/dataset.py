"""Windows of trajectories for many envs at once, without loading the trajectories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.integers import (
    checked_env_ids,
    checked_ids,
    checked_integer,
    checked_integers,
    first_outside,
)
from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.errors import OutOfRangeError, UnknownSegmentError
from iltools_datasets.store.keys import Key
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.windows.archive_rows import ArchiveRows
from iltools_datasets.windows.rows import MOST_STEPS, Index, StoreRows, TrajectoryRows, expect_window, step_within

__all__ = ["VectorizedTrajectoryDataset"]


class VectorizedTrajectoryDataset:
    """Every env follows a trajectory and stands at a step of it; rows and windows come out for all of them in one call.

    Args:
        zarr_path: an archive (path or URL of its Zarr root), a store (its directory), or an open `TrajectoryStore`.
        num_envs: number of envs. They begin at step 0 of trajectory 0.
        cfg: an OmegaConf object, a mapping, or any object with attributes; all optional:
            `window_size` (1): window of `fetch_window` where none is given;
            `buffer_size` (128): rows held in memory per env and key, shared by all envs, when reading an archive
            (and at most 32 MiB of decoded chunks beside them);
            `allow_wrap` (False): steps continue at a trajectory's start after its end; otherwise that is an error.

    Trajectories are numbered through, in natural order of source, motion and name. A step is a state: a trajectory of T
    states has rows 0..T-1 of each key. Keys with a row per transition (T - 1 rows, such as an action) repeat their last
    row for the last state where `allow_wrap` goes past it.

    Attributes:
        env_traj_ids: int64 [num_envs], the trajectory each env follows.
        env_steps: int64 [num_envs], the step it stands at.
        traj_lengths: T of each trajectory.
        all_keys: every key that some trajectory has.

    Values have the dtype they are stored in. Use it as a context manager, or call `close`, to stop its background
    thread early.
    """

    def __init__(self, zarr_path: str | os.PathLike[str] | TrajectoryStore, num_envs: int, cfg: Any = None) -> None:
        self.num_envs = checked_integer("num_envs", num_envs, low=1)
        self.window_size = checked_integer("window_size", _setting(cfg, "window_size", 1), low=1)
        self.buffer_size = checked_integer("buffer_size", _setting(cfg, "buffer_size", 128), low=1)
        self.allow_wrap = bool(_setting(cfg, "allow_wrap", False))
        self._place = zarr_path
        self.rows = _open(zarr_path, self.num_envs, self.buffer_size)
        self.env_traj_ids: Index = np.zeros(self.num_envs, dtype=np.int64)
        self.env_steps: Index = np.zeros(self.num_envs, dtype=np.int64)
        self.traj_lengths: list[int] = self.rows.num_states.tolist()
        self.all_keys: list[Key] = list(self.rows.keys)

    # What there is

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories."""
        return len(self.traj_lengths)

    @property
    def available_dataset_sources(self) -> list[str]:
        """Names of the sources."""
        return list(dict.fromkeys(name.dataset_source for name in self.rows.names))

    @property
    def available_motions(self) -> list[str]:
        """Names of the motions of all sources."""
        return list(dict.fromkeys(name.motion for name in self.rows.names))

    @property
    def available_trajectories(self) -> list[str]:
        """Name of each trajectory, by its number."""
        return [name.name for name in self.rows.names]

    def available_motions_in(self, dataset_source: str) -> list[str]:
        """Names of the motions of one source; `UnknownSegmentError` (a KeyError) if there is no such source."""
        motions = dict.fromkeys(name.motion for name in self.rows.names if name.dataset_source == dataset_source)
        if not motions:
            raise UnknownSegmentError(
                f"no dataset source {dataset_source!r}, there are {self.available_dataset_sources}"
            )
        return list(motions)

    def available_trajectories_in(self, dataset_source: str, motion: str) -> list[str]:
        """Names of the trajectories of one motion; `UnknownSegmentError` (a KeyError) if there is no such motion."""
        wanted = (dataset_source, motion)
        names = [name.name for name in self.rows.names if (name.dataset_source, name.motion) == wanted]
        if not names:
            raise UnknownSegmentError(f"no motion {motion!r} in source {dataset_source!r}")
        return names

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the buffers of the keys fetched so far: at most `num_envs * buffer_size` rows of each."""
        return self.rows.buffered_bytes

    # Where the envs stand

    def update_references(
        self, env_to_traj: Mapping[int, int] | None = None, env_to_step: Mapping[int, int] | None = None
    ) -> None:
        """Put envs on trajectories and at steps: all that are named, or, on any error, none.

        Args:
            env_to_traj: env index -> trajectory number. The step of an env that is only named here stays.
            env_to_step: env index -> step, 0 or more; past the end of a trajectory it counts modulo its length, if
                `allow_wrap` is set.

        Raises:
            OutOfRangeError: no such env, or a negative step (an IndexError).
            UnknownSegmentError: no such trajectory (a KeyError).
        """
        traj_env, traj = self._changes(env_to_traj or {})
        step_env, step = self._changes(env_to_step or {})
        self._refuse_unknown(traj_env, traj)
        self._refuse_impossible(step_env, step)
        self.env_traj_ids[traj_env] = traj
        self.env_steps[step_env] = step

    def _changes(self, changes: Mapping[int, int]) -> tuple[Index, Index]:
        value = checked_integers("place of an env", changes.values(), outside=OutOfRangeError)
        return checked_ids("env", changes.keys(), self.num_envs), value

    def places(self, idx: Iterable[int]) -> tuple[Index, Index, Index]:
        """Return number, trajectory and step of each env in `idx`, int64 [len(idx)] each.

        `env_traj_ids` and `env_steps` are public arrays that anybody may have written into: raises as
        `update_references` does where an env stands at what is not there.
        """
        env = checked_env_ids(idx, self.num_envs)
        traj = checked_integers("env_traj_ids", np.asarray(self.env_traj_ids)[env])
        step = checked_integers("env_steps", np.asarray(self.env_steps)[env])
        self._refuse_unknown(env, traj)
        self._refuse_impossible(env, step)
        return env, traj, step

    def _refuse_unknown(self, env: Index, traj: Index) -> None:
        if (bad := first_outside(traj, self.num_trajectories)) is not None:
            raise UnknownSegmentError(f"env {int(env[bad])}: no trajectory {int(traj[bad])} of {self.num_trajectories}")

    def _refuse_impossible(self, env: Index, step: Index) -> None:
        if (bad := first_outside(step, MOST_STEPS)) is not None:
            problem = "is negative" if step[bad] < 0 else f"is beyond {MOST_STEPS}"
            raise OutOfRangeError(f"env {int(env[bad])}: step {int(step[bad])} {problem}")

    # Rows

    def fetch(self, idx: Iterable[int], key: Key) -> NDArray[Any]:
        """Return the row of `key` that each env in `idx` stands at, [len(idx), ...]; raises as `fetch_window` does."""
        return self._fetch(idx, key, 1)[:, 0]

    def fetch_window(self, idx: Iterable[int], key: Key, window_size: int | None = None) -> NDArray[Any]:
        """Return the rows of `key` from where each env in `idx` stands on, [len(idx), window_size, ...].

        Steps do not move. The array is the caller's. The window after this one is read in the background.

        Raises:
            OutOfRangeError: no such env, or, without `allow_wrap`, a window past a trajectory's end (an IndexError).
            MissingKeyError: a trajectory lacks the key (a KeyError).
            SchemaError: trajectories disagree in the key's dtype or shape.
        """
        wanted = self.window_size if window_size is None else checked_integer("window_size", window_size, low=1)
        return self._fetch(idx, key, wanted)

    def _fetch(self, idx: Iterable[int], key: Key, window: int) -> NDArray[Any]:
        env, traj, first = self.places(idx)
        step = first[:, None] + np.arange(window)
        count = self.rows.row_counts(key, traj)
        past_end = step[:, -1] >= count
        if past_end.any():
            if not self.allow_wrap:
                worst = int(np.flatnonzero(past_end)[0])
                raise OutOfRangeError(
                    f"env {int(env[worst])} on trajectory {self.rows.names[int(traj[worst])]}: steps "
                    f"{int(first[worst])} to {int(step[worst, -1])} of {int(count[worst])} rows; "
                    "set allow_wrap to continue at its start"
                )
            step = step_within(self.rows, key, traj, step % self.rows.num_states[traj][:, None])
        rows = self.rows.read(key, traj, step)
        expect_window(self.rows, key, traj, first + window, window, self.allow_wrap)
        return rows

    def close(self) -> None:
        """Stop the background thread. Fetching again starts it anew."""
        self.rows.close()

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the data anew: neither buffers nor threads travel.
        return {name: value for name, value in self.__dict__.items() if name != "rows"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.rows = _open(self._place, self.num_envs, self.buffer_size)

    def __enter__(self) -> VectorizedTrajectoryDataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(place: str | os.PathLike[str] | TrajectoryStore, num_envs: int, buffer_size: int) -> TrajectoryRows:
    if isinstance(place, TrajectoryStore):
        return StoreRows(place)
    if "://" not in os.fspath(place) and (Path(place) / "manifest.json").is_file():
        return StoreRows(TrajectoryStore.open(Path(place)))
    return ArchiveRows(ArchiveReader(place), num_envs, buffer_size)


def _setting(cfg: Any, name: str, default: Any) -> Any:
    if cfg is None:
        return default
    value = cfg.get(name) if isinstance(cfg, Mapping) else getattr(cfg, name, None)
    return default if value is None else value
