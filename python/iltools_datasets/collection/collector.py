"""Expert trajectories, recorded step by step: what a call has returned for is on disk, and survives a kill."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from iltools_datasets._base.extras import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.collection") from error

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integer
from iltools_datasets.collection import export
from iltools_datasets.collection.ends import checked_envs, final_rows, flags_of
from iltools_datasets.collection.place import Place
from iltools_datasets.collection.recording import Recording
from iltools_datasets.collection.rows import (
    OnNan,
    as_mask,
    check_sigma,
    checked_rows,
    mask_out_nan,
)
from iltools_datasets.errors import ArgumentError, ReadOnlyError, SchemaError
from iltools_datasets.store.builder import StoreBuilder

__all__ = ["ExpertTrajectoryCollector"]

_ENDLESS = 100_000
_TERMINATED, _TRUNCATED, _KNOWN = 1, 2, 4


class ExpertTrajectoryCollector:
    """Records what an expert saw and did in N envs, and which episodes that makes.

    Each step is written to a journal before `add_step` returns, so a kill loses nothing that was returned for, and
    memory does not grow. `save` writes the file that others train from, or a store; with `directory` the store is
    written there by `close`, and a process that was killed is gone on with by `resume=True`.

    Args:
        obs_dim: width of the (teacher's) observation.
        action_dim: width of the action.
        student_obs_dim: width of the student's observation, if it is given with each step.
        max_trajectories: when so many are over no new episode begins; running ones are recorded to their end.
        device: where `load` puts tensors.
        directory: of a store to be made; None keeps the journal in a temporary directory that goes with the collector.
        overwrite: replace a store, or an unfinished recording, that is there.
        resume: go on with an unfinished recording. Episodes that ran when it ended are cut there.
        num_envs: N; None = as many as the first step has.
        float_dtype: what float64 becomes; None keeps it. Other dtypes stay.
        on_nan: NaN and infinity in a valid row: "error", "drop" the row, or "keep".
        max_episode_steps: longer episodes are cut, with their true next state; None = 100,000.
        attributes: JSON to keep with the store.

    Raises:
        ArgumentError: a dimension or `max_trajectories` below 1, an unknown option. (A ValueError.)
        StoreExistsError: a store or an unfinished recording is there.
        StoreBusyError: another process records or builds there.
        StoreNotFoundError, SchemaError: nothing to resume; of other widths.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        student_obs_dim: int | None = None,
        max_trajectories: int = 1000,
        device: torch.device | str = "cpu",
        *,
        directory: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        num_envs: int | None = None,
        float_dtype: str | None = "float32",
        on_nan: OnNan = "error",
        max_episode_steps: int | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.obs_dim = checked_integer("obs_dim", obs_dim, low=1)
        self.action_dim = checked_integer("action_dim", action_dim, low=1)
        self.student_obs_dim = (
            None if student_obs_dim is None else checked_integer("student_obs_dim", student_obs_dim, low=1)
        )
        self.max_trajectories = checked_integer("max_trajectories", max_trajectories, low=1)
        self.device = torch.device(device)
        if float_dtype is not None and np.dtype(float_dtype).kind != "f":
            raise ArgumentError(f"float_dtype: expected a floating dtype or None, found {float_dtype!r}")
        if on_nan not in ("error", "drop", "keep"):
            raise ArgumentError(f"on_nan: expected 'error', 'drop' or 'keep', found {on_nan!r}")
        self._float_dtype, self._on_nan = float_dtype, on_nan
        longest = _ENDLESS if max_episode_steps is None else max_episode_steps
        self._longest = checked_integer("max_episode_steps", longest, low=1)
        self._num_envs = None if num_envs is None else checked_integer("num_envs", num_envs, low=1)
        self._attributes = dict(attributes or {})
        self._pid = os.getpid()
        self._said_full = self._said_unknown = self._is_over = False
        self._num_valid = self._num_dropped = self._num_invalid = self._num_unknown_ends = 0
        self._recording: Recording | None = None
        self._place = Place(directory, overwrite, resume)
        if resume:
            self._go_on()

    # What is recorded.

    @property
    def num_envs(self) -> int | None:
        """N; None before the first step, unless it was given."""
        return self._num_envs

    @property
    def num_trajectories(self) -> int:
        """How many episodes are over."""
        return self._num_unknown_ends + (0 if self._recording is None else self._recording.core.num_episodes)

    @property
    def num_steps(self) -> int:
        """How many valid rows there are: env-steps that are data."""
        return self._num_valid

    @property
    def running(self) -> list[int]:
        """The envs that have an episode that is not over."""
        return [] if self._recording is None else self._recording.core.running

    @property
    def is_full(self) -> bool:
        """Whether so many are over that no new episode begins."""
        return self.num_trajectories >= self.max_trajectories

    def add_step(
        self,
        observations: Any,
        actions: Any,
        action_mean: Any = None,
        action_sigma: Any = None,
        student_observations: Any = None,
        valid_mask: Any = None,
    ) -> None:
        """Record a step of all envs. Tensors (any device) or arrays; a copy is taken before this returns.

        Args:
            observations: `[N, obs_dim]`, what the expert saw.
            actions: `[N, action_dim]`, what it did.
            action_mean: `[N, action_dim]`; None = the action.
            action_sigma: `[N, action_dim]`; None = 0.01.
            student_observations: `[N, student_obs_dim]`; with every step if `student_obs_dim` was given.
            valid_mask: bool `[N]`: False where the row is no data; an episode that ran there is cut. None = all are.

        Raises:
            SchemaError: a width, dtype, N or value that does not fit, or an argument that is new or missing, named.
                Nothing was recorded, and collecting can go on.
            ReadOnlyError: the collector is closed, or this process is a copy of the one that has it.
        """
        self._require_open()
        if (student_observations is None) != (self.student_obs_dim is None):
            expected = "none, as student_obs_dim is not given" if self.student_obs_dim is None else "one per step"
            raise SchemaError(f"student_observations: expected {expected}")
        given = {
            "observations": observations,
            "student_observations": student_observations,
            "actions": actions,
            "action_mean": action_mean,
            "action_sigma": action_sigma,
        }
        widths = dict.fromkeys(given, self.action_dim)
        widths.update(observations=self.obs_dim, student_observations=self.student_obs_dim or 0)
        columns = None if self._recording is None else self._recording.columns
        rows = checked_rows(given, widths, columns, self._num_envs, self._float_dtype)
        num_envs = len(next(iter(rows.values())))
        mask = as_mask(valid_mask, num_envs)
        num_given = int(mask.sum())
        mask = mask_out_nan(rows, mask, self._on_nan)
        check_sigma(rows, mask)
        if self._recording is None:
            self._recording = Recording.begin(self._place.recording, num_envs, list(rows), self._longest)
            self._num_envs = num_envs
        mask, dropped = self._without_new_episodes(mask)
        self._recording.core.step(mask, [values.reshape(-1).view(np.uint8) for values in rows.values()])
        self._num_valid += int(mask.sum())
        self._num_dropped += dropped
        self._num_invalid += num_envs - num_given + (num_given - int(mask.sum()) - dropped)

    def mark_trajectory_end(
        self,
        count: int | None = None,
        *,
        env_ids: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        final_observations: Any = None,
        final_student_observations: Any = None,
    ) -> None:
        """Say which episodes ended with the latest step.

        Args:
            count: how many, where it is not known which: if it is the number of running episodes, exactly those end;
                otherwise which ended stays unknown, and a store of this recording has no next observations.
            env_ids: ids, or a bool mask `[N]`, of the envs whose episode ended.
            terminated: bool, one for all, one per id or `[N]`: it ended by what happened. Default: unless truncated.
            truncated: likewise: it was cut, by a time limit for instance. Default: no.
            final_observations: `[N or len(env_ids), obs_dim]`, what these envs saw last, where the env says it.
            final_student_observations: likewise, needed with it if students' observations are recorded.

        Raises:
            ArgumentError: a negative count, or more than are running. OutOfRangeError: an id twice, out of range or
                without a running episode. SchemaError: a final observation that does not fit. Nothing was changed.
        """
        self._require_open()
        running = self.running
        if env_ids is None:
            number = checked_integer("count", 1 if count is None else count, low=0)
            if number > len(running):
                raise ArgumentError(f"count: {number} ends, {len(running)} episodes are running")
            if number != len(running):
                self._note_unknown_ends(number)
                return
            env_ids = running
        ids = checked_envs(env_ids, running, self._num_envs or 0)
        if not len(ids) or self._recording is None:
            return
        cut = flags_of("truncated", truncated, ids, self._num_envs or 0, default=np.zeros(len(ids), dtype=bool))
        fell = flags_of("terminated", terminated, ids, self._num_envs or 0, default=~cut)
        given = (final_observations, final_student_observations)
        finals = final_rows(given, ids, self._recording, self._float_dtype)
        how = fell * _TERMINATED + cut * _TRUNCATED + (_KNOWN if finals else 0)
        self._recording.core.end(ids.tolist(), how.astype(int).tolist(), finals)

    # What becomes of it.

    def stop_after(self, episodes: int) -> None:
        """Let no episode begin once so many are over, if that is fewer than `max_trajectories`; nobody is warned."""
        if episodes < self.max_trajectories:
            self.max_trajectories, self._said_full = checked_integer("episodes", episodes, low=1), True

    def flush(self) -> None:
        """Bring everything recorded to disk, so that it survives a crash of the machine, too."""
        self._require_open()
        if self._recording is not None:
            self._recording.core.sync()

    def save(self, path: str | os.PathLike[str], only_valid: bool = False) -> None:
        """Write what was recorded, as given: the file that others train from, or a store.

        Args:
            path: ends in `.npy` (read by numpy) or `.pt`, or has no suffix: the directory of a new store, for which
                episodes that run are cut.
            only_valid: write valid rows alone, `[rows, 1, width]`; consumers that ignore the mask need it.

        Raises:
            ArgumentError: another suffix. SchemaError: nothing was recorded. StoreExistsError: a store is there.
        """
        target = Path(path)
        if target.suffix:
            export.check_suffix(target)
        recording = self._require_recorded()
        if target.suffix:
            export.write_file(recording, target, self._metadata(), only_valid)
        else:
            with StoreBuilder(target, attributes=self._attributes) as builder:
                export.end_running(recording)
                export.write_store(recording, builder, not self._num_unknown_ends)

    @staticmethod
    def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> dict[str, Any]:
        """Return what a file or store holds: tensors `[T, N, width]`, `valid_mask`, `metadata`. Nothing is run."""
        return export.load(Path(path), device)

    def close(self) -> None:
        """Seal: cut what runs, and write the store in `directory`. Without a directory the journal is removed."""
        if self._is_over:
            return
        self._require_open()
        try:
            if self._place.builder is not None:
                recording = self._require_recorded()
                export.end_running(recording)
                self._place.builder.attributes.update(self._attributes)
                export.write_store(recording, self._place.builder, not self._num_unknown_ends)
                self._place.builder.publish()
        except SchemaError:
            if self._recording is None:
                self._place.remove()
                self._is_over = True
            raise
        self._recording = None
        self._is_over = True
        self._place.remove()

    def clear(self) -> None:
        """Drop everything that was recorded and begin again."""
        self._require_open()
        self._recording = None
        self._num_valid = self._num_dropped = self._num_invalid = self._num_unknown_ends = 0
        self._said_full = False
        self._place.drop_recording()

    def get_statistics(self) -> dict[str, Any]:
        """Return counts of what was recorded, its widths, and what it takes on disk and in memory."""
        steps = 0 if self._recording is None else self._recording.core.num_steps
        return {
            "num_trajectories": self.num_trajectories,
            "num_steps": self.num_steps,
            "avg_steps_per_trajectory": self.num_steps / self.num_trajectories if self.num_trajectories else 0.0,
            "obs_dim": self.obs_dim,
            "student_obs_dim": self.student_obs_dim,
            "action_dim": self.action_dim,
            "memory_usage_mb": (16 * steps + 64 * self.num_trajectories) / 2**20,
            "bytes_on_disk": self._place.bytes_on_disk,
            "num_running": len(self.running),
            "num_dropped": self._num_dropped,
            "num_invalid": self._num_invalid,
        }

    def __enter__(self) -> ExpertTrajectoryCollector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is finished is kept, whatever ended the block; a forked copy that leaves it has no part in it.
        if os.getpid() == self._pid and (kind is None or self._recording is not None):
            self.close()

    # Inside.

    def _require_open(self) -> None:
        if os.getpid() != self._pid:
            raise ReadOnlyError("the collector belongs to the process that made it; this one is a copy of it")
        if self._is_over:
            raise ReadOnlyError("the collector is closed")

    def _require_recorded(self) -> Recording:
        self._require_open()
        if self._recording is None:
            raise SchemaError(f"{self._place.directory}: nothing was recorded")
        return self._recording

    def _go_on(self) -> None:
        recording = Recording.resume(self._place.recording, self._longest)
        widths = {column.argument: column.width for column in recording.columns}
        expected = {"observations": self.obs_dim, "actions": self.action_dim}
        if self.student_obs_dim is not None:
            expected["student_observations"] = self.student_obs_dim
        found = {
            argument: widths.get(argument) for argument in (*expected, "student_observations") if argument in widths
        }
        if found != expected or self._num_envs not in (None, recording.num_envs):
            raise SchemaError(
                f"{self._place.directory}: expected to go on with {expected} of {self._num_envs or 'any number of'} "
                f"envs, found {found} of {recording.num_envs}"
            )
        self._recording, self._num_envs = recording, recording.num_envs
        self._num_unknown_ends = recording.num_unknown_ends
        self._num_valid = sum(int(recording.mask(step).sum()) for step in range(recording.core.num_steps))

    def _without_new_episodes(self, mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """Return the mask without rows of envs that would begin an episode though enough are over, and their number."""
        if not self.is_full or self._recording is None:
            return mask, 0
        if not self._said_full:
            self._said_full = True
            full = f"{self.num_trajectories} trajectories are recorded"
            warnings.warn(f"{full}; running ones are finished, no new one begins", stacklevel=3)
        may = np.zeros_like(mask)
        may[self._recording.core.running] = 1
        return mask & may, int((mask & ~may & 1).sum())

    def _note_unknown_ends(self, number: int) -> None:
        if number and not self._said_unknown:
            self._said_unknown = True
            warnings.warn(
                f"{number} of {len(self.running)} running episodes ended, and not which: boundaries stay unknown, "
                "and a store of this recording has no next observations; pass env_ids",
                stacklevel=3,
            )
        self._num_unknown_ends += number
        if self._recording is not None:
            self._recording.note_unknown_ends(self._num_unknown_ends)

    def _metadata(self) -> dict[str, Any]:
        dims = {"teacher": self.obs_dim, "student": self.student_obs_dim}
        counts = {"num_trajectories": self.num_trajectories, "num_steps": self.num_steps}
        known = {name: dim for name, dim in dims.items() if dim is not None}
        return {**counts, "obs_dim_dict": known, "action_dim": self.action_dim}
