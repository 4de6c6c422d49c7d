"""Expert trajectories, recorded step by step: what a call has returned for is on disk, and survives a kill."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
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
from iltools_datasets._base.plain_json import as_json
from iltools_datasets.collection import export
from iltools_datasets.collection.counts import metadata_of, statistics_of
from iltools_datasets.collection.ends import KNOWN, checked_envs, final_rows, how_of, names_of
from iltools_datasets.collection.place import Place
from iltools_datasets.collection.recording import DEFAULT_TASK, Recording, columns_of, history_of, saved_layout
from iltools_datasets.collection.rows import DATA, LEFT_OUT, RecordedColumn, checked_mask, checked_rows
from iltools_datasets.collection.settings import OnNan, Settings
from iltools_datasets.collection.staging import MASK, Staging, is_on_device
from iltools_datasets.collection.student_frames import StudentFrames
from iltools_datasets.collection.student_obs import StudentObsBuilder
from iltools_datasets.errors import ArgumentError, ReadOnlyError, SchemaError
from iltools_datasets.sources.formats.expert_file import ROLLOUT_KEYS

__all__ = ["ExpertTrajectoryCollector"]


class ExpertTrajectoryCollector:
    """Records what an expert saw and did in N envs, and which episodes that makes.

    Each step is written to a journal before `add_step` returns, so a kill loses nothing that was returned for, and
    memory does not grow. With `directory` a store grows there meanwhile: episodes that are over appear in it every few
    seconds, and whoever has it open may train on them. `close` seals it; a process that was killed is gone on with by
    `resume=True`. `save` writes the file that others train from.

    Args:
        obs_dim: width of the (teacher's) observation.
        action_dim: width of the action.
        student_obs_dim: width of the student's observation, if it is given with each step.
        max_trajectories: when so many are over no new episode begins; running ones are recorded to their end.
        device: where `load` puts tensors.
        directory: of the store; None keeps the journal in a temporary directory that goes with the collector.
        overwrite: replace a store, finished or not, that is there: with the first step it is gone.
        resume: go on with a recording that was not closed. Episodes that ran when it ended are cut there.
        num_envs: N; None = as many as the first step has.
        student_builder: what makes the student's observations. Their frames are recorded once, and not even these where
            they are the observation; a store puts histories together when they are read (`docs/collection.md`).
        float_dtype: what float64 becomes; None keeps it. Other dtypes stay.
        on_nan: NaN and infinity in a valid row: "error", "drop" the row, or "keep".
        max_episode_steps: longer episodes are cut, with their true next state; None = 100,000.
        attributes: JSON to keep with the store; with `resume`, in the place of what was kept.

    Raises:
        ArgumentError: a dimension or `max_trajectories` below 1, an unknown option. (A ValueError.)
        StoreExistsError: a store or an unfinished recording is there. StoreBusyError: another process records or builds
            there. StoreNotFoundError, SchemaError: nothing to resume; of other widths.

    Examples:
        >>> with ExpertTrajectoryCollector(obs_dim=4, action_dim=2, directory="recorded") as collector:
        ...     collector.add_step(torch.zeros(8, 4), torch.zeros(8, 2))
        ...     collector.mark_trajectory_end(env_ids=range(8))
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
        student_builder: StudentObsBuilder | None = None,
        float_dtype: str | None = "float32",
        on_nan: OnNan = "error",
        max_episode_steps: int | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        limits = (max_trajectories, num_envs, student_builder, float_dtype, on_nan, max_episode_steps)
        settings = Settings.checked(obs_dim, action_dim, student_obs_dim, *limits)
        self.obs_dim, self.action_dim = settings.obs_dim, settings.action_dim
        self.student_obs_dim, self.max_trajectories = settings.student_obs_dim, settings.max_trajectories
        self.device = torch.device(device)
        self._settings, self._num_envs = settings, settings.num_envs
        self._pid, self._attributes = os.getpid(), None if attributes is None else dict(attributes)
        self._said_full = self._is_sealing = self._is_over = False
        self._full_at: int | None = None
        self._recording: Recording | None = None
        self._staging = Staging()
        self.student_builder = student_builder
        self._student = None if student_builder is None else StudentFrames(student_builder, settings.longest)
        self._place = Place(directory, overwrite, resume, as_json(self._attributes or {}, "attributes"))
        if resume:
            self._go_on()

    @property
    def num_envs(self) -> int | None:
        """N; None before the first step, unless it was given."""
        self._so_far()
        return self._num_envs

    @property
    def num_trajectories(self) -> int:
        """How many episodes are over."""
        recording = self._so_far()
        return 0 if recording is None else recording.num_trajectories

    @property
    def num_steps(self) -> int:
        """How many valid rows there are: env-steps that are data."""
        recording = self._so_far()
        return 0 if recording is None else recording.core.num_rows

    @property
    def num_running(self) -> int:
        """How many episodes are running."""
        return len(self.running)

    @property
    def running(self) -> list[int]:
        """The envs that have an episode that is not over."""
        recording = self._so_far()
        return [] if recording is None else recording.core.running

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
            action_mean, action_sigma: `[N, action_dim]`; None = the action, and 0.01.
            student_observations: `[N, student_obs_dim]`; with every step if `student_obs_dim` was given.
            valid_mask: bool `[N]`: False where the row is no data; an episode that ran there is cut. None = all are.

        Raises:
            SchemaError: a width, dtype, N or value that does not fit, or an argument that is new or missing, named.
                Nothing was recorded, and collecting can go on.
            ReadOnlyError: the collector is closed, or this process is a copy of the one that has it.
            OSError: the disk is full, also where the store could not be written meanwhile; what was published stays.
        """
        self._settle()
        values = (observations, student_observations, actions, action_mean, action_sigma)
        given = dict(zip(ROLLOUT_KEYS, values, strict=True))
        self._settings.check_student(student_observations is not None)
        # A history is told from its builder, which goes on with the next step.
        if self._student is None and is_on_device({**given, MASK: valid_mask}):
            self._staging.put({**given, MASK: valid_mask}, self._rows, self._record)
        else:
            self._record(given, valid_mask)
            self._settle()

    def _settle(self) -> None:
        """Wait until the step that the call before brought from a device is recorded; raises what is wrong with it."""
        self._require_open()
        self._staging.settle()
        self._say_full()

    def _rows(self, given: dict[str, Any]) -> dict[RecordedColumn, NDArray[Any]]:
        columns = None if self._recording is None else self._recording.columns
        take = checked_rows if self._student is None else self._student.rows
        return take(given, self._settings.widths, columns, self._num_envs, self._settings.float_dtype)

    def _record(self, given: dict[str, Any], valid_mask: Any) -> None:
        rows = self._rows(given)
        mask = checked_mask(rows, valid_mask, self._settings.on_nan)
        if self._student is not None:
            self._student.check(rows, mask, 0 if self._recording is None else self._recording.core.num_steps)
        if self._recording is None:
            rule = None if self._student is None else self._student.rule
            self._recording = Recording.begin(self._place, len(mask), list(rows), self._settings.longest, rule)
            self._num_envs = len(mask)
        mask = self._without_new_episodes(mask)
        self._recording.core.step(mask, [values.reshape(-1).view(np.uint8) for values in rows.values()])
        if self._student is not None:
            self._student.recorded(mask)

    def mark_trajectory_end(
        self,
        count: int | None = None,
        *,
        env_ids: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        final_observations: Any = None,
        final_student_observations: Any = None,
        tasks: Any = None,
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
            tasks: the name of the task of each of these episodes, or one for all; None = "expert". Ids are given in the
                order in which names come.

        Raises:
            ArgumentError: a negative count, or more than are running. OutOfRangeError: an id twice, out of range or
                without a running episode. SchemaError: a final observation that does not fit. Nothing was changed.
        """
        self._settle()
        running = self.running
        if env_ids is None:
            number = checked_integer("count", 1 if count is None else count, low=0)
            if number > len(running):
                raise ArgumentError(f"count: {number} ends, {len(running)} episodes are running")
            if number != len(running):
                if self._student is not None and number:
                    raise SchemaError("count: which episodes ended is needed to put histories together: pass env_ids")
                if number and self._recording is not None:
                    self._recording.note_unknown_ends(number)
                return
            env_ids = running
        ids = checked_envs(env_ids, running, self._num_envs or 0)
        if not len(ids) or self._recording is None:
            return
        how, dtype = how_of(terminated, truncated, ids, self._num_envs or 0), self._settings.float_dtype
        if self._student is not None:
            final_student_observations = self._student.final_frames(
                final_student_observations, final_observations, dtype
            )
        finals = final_rows((final_observations, final_student_observations), ids, self._recording, dtype)
        names = self._recording.task_ids(names_of(tasks, len(ids), DEFAULT_TASK))
        self._recording.core.end(ids.tolist(), (how + (KNOWN if finals else 0)).tolist(), names, finals)
        if self._student is not None:
            self._student.ended(ids)

    def stop_after(self, episodes: int) -> None:
        """Let no episode begin once so many are over, if that is fewer than `max_trajectories`; nobody is warned."""
        if episodes < self.max_trajectories:
            self.max_trajectories, self._said_full = checked_integer("episodes", episodes, low=1), True

    def flush(self) -> None:
        """Bring everything recorded to disk, so that it survives a crash of the machine, too.

        With a directory, readers of the store find every episode that is over when this returns.
        """
        self._settle()
        if self._recording is not None:
            self._recording.core.flush()

    def save(self, path: str | os.PathLike[str], only_valid: bool = False) -> None:
        """Write what was recorded, as given: the file that others train from, or a store.

        Args:
            path: ends in `.npy` (read by numpy) or `.pt`, or has no suffix: the directory of a new store, for which
                episodes that run are cut. A collector with a directory has its store there, and writes no second one.
            only_valid: write valid rows alone, `[rows, 1, width]`; consumers that ignore the mask need it.

        Raises:
            ArgumentError: another suffix, a second store. SchemaError: nothing is there. StoreExistsError: one is.
        """
        target = Path(path)
        if target.suffix:
            export.check_suffix(target)
        self._settle()
        if (recording := self._recording) is None:
            raise SchemaError(f"{self._place.directory}: nothing was recorded")
        if target.suffix:
            export.write_file(recording, target, metadata_of(self._settings, recording), only_valid)
        else:
            export.write_store(recording, target, as_json(self._attributes or {}, "attributes"))

    @staticmethod
    def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> dict[str, Any]:
        """Return what a file or store holds: tensors `[T, N, width]`, `valid_mask`, `metadata`. Nothing is run."""
        return export.load(Path(path), device)

    def close(self) -> None:
        """Seal: cut what runs, and make the store in `directory` an ordinary one. Without, the journal is removed.

        Raises:
            SchemaError: nothing was recorded; there is no store then. OSError: as `add_step`.
            KeyboardInterrupt: sealing was not waited for; called again, this waits.
        """
        if self._is_over:
            return
        self._require_open()
        try:
            self._settle()
        finally:
            if not self._staging.holds_step:
                self._seal()

    def _seal(self) -> None:
        recording = self._recording
        if self._place.grows and recording is not None:
            if not self._is_sealing:
                recording.core.end_running()
            if recording.core.num_episodes:
                self._is_sealing = True
                recording.core.seal()
            else:
                recording.core.discard()
                recording = None
        self._is_over, self._recording = True, None
        self._staging.close()
        self._place.remove()
        if self._place.grows and recording is None:
            raise SchemaError(f"{self._place.directory}: nothing was recorded: no episode is over")

    def clear(self) -> None:
        """Drop everything that was recorded and begin again."""
        self._require_open()
        with suppress(SchemaError, OSError):  # what was wrong with the step on its way goes with all others
            self._staging.settle()
        core, self._recording = None if self._recording is None else self._recording.core, None
        self._said_full, self._full_at = False, None
        self._num_envs = self._settings.num_envs
        if self._student is not None:
            self._student.cleared()
        self._place.clear(core)

    def get_statistics(self) -> dict[str, Any]:
        """Return counts of what was recorded, its widths, and what it takes on disk and in memory."""
        stalled = self._staging.stalled_seconds
        return statistics_of(self._settings, self._so_far(), self._place.bytes_on_disk, stalled)

    def __enter__(self) -> ExpertTrajectoryCollector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is finished is kept, whatever ended the block; a forked copy that leaves it has no part in it.
        if os.getpid() != self._pid:
            return
        if kind is None or self._staging.holds_step or self._recording is not None:
            self.close()
        elif not self._is_over:
            self._is_over = True
            self._place.remove()

    def _require_open(self) -> None:
        if os.getpid() != self._pid:
            raise ReadOnlyError("the collector belongs to the process that made it; this one is a copy of it")
        if self._is_over:
            raise ReadOnlyError("the collector is closed")

    def _so_far(self) -> Recording | None:
        if self._staging.holds_step and os.getpid() == self._pid:
            self._settle()
        return self._recording

    def _go_on(self) -> None:
        saved = saved_layout(self._place.unfinished_layout())
        num_envs = saved.integer("num_envs", low=1)
        self._settings.check_resumed(str(self._place.directory), num_envs, columns_of(saved), history_of(saved))
        self._recording, self._num_envs = Recording.resume(self._place, self._attributes is not None), num_envs
        if self._student is not None:
            self._student.resumed(self._recording)

    def _without_new_episodes(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the mask with rows left out that would begin an episode though enough are over."""
        recording = self._recording
        if recording is None or recording.num_trajectories < self.max_trajectories:
            return mask
        self._full_at = recording.num_trajectories
        begins = mask == DATA
        begins[recording.core.running] = False
        return np.where(begins, np.uint8(LEFT_OUT), mask)

    def _say_full(self) -> None:
        """Warn once, and from the caller's own thread, that no episode begins any more."""
        if self._full_at is not None and not self._said_full:
            self._said_full, full = True, f"{self._full_at} trajectories are recorded"
            warnings.warn(f"{full}; running ones are finished, no new one begins", stacklevel=4)
