"""One archive or several, and what of them was chosen, numbered as one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.fingerprint import fingerprint
from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.archive.schema import Task, natural_key
from iltools_datasets.errors import ArgumentError, DuplicateTrajectoryError
from iltools_datasets.ingest.choice import Choice, as_choice

if TYPE_CHECKING:
    from iltools_datasets.archive.schema import Trajectory

Place = str | os.PathLike[str]
Select = str | Sequence[str] | Choice | Callable[["Trajectory"], bool]
"""Globs over `<dataset_source>/<motion>/<clip>` as in `Choice`, one itself, or a function that tells of a trajectory
whether it is taken."""


class Archives:
    """Several archives read as one.

    A task has the clips of all archives that have a motion of its name. Tasks and, within each, trajectories are
    numbered from 0 in natural order of what was chosen, so one archive, taken whole, keeps its numbers.

    Attributes:
        readers: one for each place.
        tasks, trajectories: as those of `ArchiveReader`, of what was chosen.

    Raises:
        ArgumentError: no place; a glob that no clip matches, or nothing is left.
        DuplicateTrajectoryError: two archives have a clip of the same path.
        SourceError, SourceNotFoundError: as `ArchiveReader`.
    """

    def __init__(self, places: Place | Sequence[Place], select: Select = ()) -> None:
        found = [places] if isinstance(places, str | os.PathLike) else list(places)
        if not found:
            raise ArgumentError("expected at least one archive, found none")
        # Before anything is read: what changes from here on is noticed.
        self._fingerprints = [fingerprint(place) for place in found]
        self.readers = [ArchiveReader(place) for place in found]
        takes = select if callable(select) else as_choice(select).over(self.readers)
        chosen = [(reader, clip) for reader in self.readers for clip in reader.trajectories if takes(clip)]
        if not chosen:
            raise ArgumentError(f"{self.path}: nothing is selected of {sum(map(len, self.readers))} clips")
        names = sorted(
            {(clip.dataset_source, clip.motion) for _, clip in chosen}, key=lambda task: tuple(map(natural_key, task))
        )
        self.tasks = [Task(number, *name) for number, name in enumerate(names)]
        self._origin: dict[tuple[int, int], tuple[ArchiveReader, Trajectory]] = {}
        self.trajectories = self._number(chosen)

    @property
    def path(self) -> str:
        """What to call them in a message."""
        return ", ".join(str(reader.path) for reader in self.readers)

    @property
    def missing_chunks(self) -> int:
        """Number of chunks that were not there and were read as the fill value, so far."""
        return sum(sum(reader.missing_chunks.values()) for reader in self.readers)

    @property
    def skipped(self) -> list[str]:
        """A line for each array that belongs to no clip."""
        return [line for reader in self.readers for line in reader.skipped]

    @property
    def attributes(self) -> dict[str, Any]:
        """What a store keeps of where it came from.

        `archive` and `metadata` are the root's attributes and the description of the one archive; where there are
        several, `archives` has a path and both of each.
        """
        described = [
            {"path": str(reader.path), "archive": dict(reader.attributes), "metadata": reader.metadata}
            for reader in self.readers
        ]
        if len(described) > 1:
            return {"archives": described}
        return {"archive": described[0]["archive"], "metadata": described[0]["metadata"]}

    @property
    def mark(self) -> str | None:
        """A digest of the archives' files and of which clips are taken; None where files tell nothing of changes."""
        if None in self._fingerprints:
            return None
        content = json.dumps([self._fingerprints, [clip.path for clip in self.trajectories]])
        return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()

    def stream(
        self, trajectories: Iterable[Trajectory], keys_of: Callable[[Trajectory], list[str]]
    ) -> Generator[tuple[Trajectory, dict[str, NDArray[np.generic]]], None, None]:
        """Yield each trajectory with its arrays; the reader fetches the next ones meanwhile.

        Clips of one archive nearly always have the same keys, but may call their action or flags differently.
        """

        def where(clip: Trajectory) -> tuple[int, list[str]]:
            return self.readers.index(self._origin[clip.task_id, clip.traj_id][0]), keys_of(clip)

        for (number, keys), group in groupby(trajectories, key=where):
            clips = list(group)
            originals = (self._origin[clip.task_id, clip.traj_id][1] for clip in clips)
            for clip, (_, arrays) in zip(clips, self.readers[number].stream(originals, keys), strict=True):
                yield clip, arrays

    def _number(self, chosen: list[tuple[ArchiveReader, Trajectory]]) -> list[Trajectory]:
        task_ids = {(task.dataset_source, task.motion): task.task_id for task in self.tasks}
        numbered = [(task_ids[clip.dataset_source, clip.motion], clip, reader) for reader, clip in chosen]
        numbered.sort(key=lambda entry: (entry[0], natural_key(entry[1].name)))
        trajectories: list[Trajectory] = []
        for task_id, group in groupby(numbered, key=lambda entry: entry[0]):
            for traj_id, (_, clip, reader) in enumerate(group):
                if trajectories and trajectories[-1].path == clip.path:
                    other = self._origin[task_id, traj_id - 1][0]
                    raise DuplicateTrajectoryError(f"trajectory {clip.path}: is in {other.path} and in {reader.path}")
                self._origin[task_id, traj_id] = reader, clip
                trajectories.append(replace(clip, task_id=task_id, traj_id=traj_id))
        return trajectories
