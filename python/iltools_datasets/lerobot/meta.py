"""What lerobot calls `dataset.meta`: the same names over our reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import OutOfRangeError
from iltools_datasets.lerobot.info import Feature
from iltools_datasets.lerobot.reader import LeRobotReader

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]


class EpisodeRows(Sequence[dict[str, Any]]):
    """The episode table by row, `rows[3]["length"]`, and by column, `rows["dataset_from_index"]`.

    `dataset_from_index` and `dataset_to_index` are where the frames are in the data set with all episodes.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns["episode_index"])

    @overload
    def __getitem__(self, key: str) -> Any: ...
    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            column = self._columns[key]
            return column.tolist() if isinstance(column, np.ndarray) else list(column)
        if isinstance(key, slice):
            return [self[row] for row in range(*key.indices(len(self)))]
        if not -len(self) <= key < len(self):
            raise OutOfRangeError(f"episode {key} of {len(self)}")
        return {
            name: column[key].item() if isinstance(column, np.ndarray) else column[key]
            for name, column in self._columns.items()
        }


class LeRobotMeta:
    """Metadata of a set under lerobot's names.

    Attributes:
        repo_id: as it was given.
        revision: as it was given.
        root: the set's directory.
    """

    def __init__(self, repo_id: str, revision: str | None, reader: LeRobotReader) -> None:
        self.repo_id = repo_id
        self.revision = revision
        self.root = reader.root
        self._reader = reader

    @property
    def fps(self) -> int | float:
        """Frames per second: an int where it is whole."""
        exact = self._reader.fps
        return exact.numerator if exact.denominator == 1 else float(exact)

    @cached_property
    def features(self) -> dict[str, dict[str, Any]]:
        """dtype, shape, names and, where there is one, info of every feature."""
        return {key: _described(feature) for key, feature in self._reader.features.items()}

    @property
    def stats(self) -> dict[str, dict[str, NDArray[Any]]]:
        """What the files state of all episodes; see `LeRobotReader.statistics`."""
        return {key: dict(entry) for key, entry in self._reader.stats.items()}

    @property
    def tasks(self) -> Mapping[int, str]:
        """The task in words of each `task_index`."""
        return self._reader.tasks

    def get_task_index(self, task: str) -> int | None:
        """Return the number of a task, None if there is no such task."""
        return next((number for number, text in self.tasks.items() if text == task), None)

    @cached_property
    def episodes(self) -> EpisodeRows:
        """The episodes that have frames."""
        table = self._reader.episodes
        ends = np.cumsum(table.length)
        return EpisodeRows(
            {
                "episode_index": table.index,
                "tasks": [list(tasks) for tasks in table.tasks],
                "length": table.length,
                "dataset_from_index": ends - table.length,
                "dataset_to_index": ends,
            }
        )

    @property
    def info(self) -> dict[str, Any]:
        """The fields of `info.json` that reading needs."""
        return {
            "codebase_version": self._reader.info.codebase_version,
            "robot_type": self.robot_type,
            "fps": self.fps,
            "total_episodes": self.total_episodes,
            "total_frames": self.total_frames,
            "total_tasks": self.total_tasks,
            "features": self.features,
        }

    @property
    def robot_type(self) -> str | None:
        """What the set says."""
        return self._reader.info.robot_type

    @property
    def camera_keys(self) -> list[str]:
        """Features whose rows are pictures."""
        return self._reader.camera_keys

    @property
    def video_keys(self) -> list[str]:
        """Cameras that lie in videos."""
        return [key for key in self.camera_keys if self._reader.features[key].kind == "video"]

    @property
    def image_keys(self) -> list[str]:
        """Cameras that lie in the data files."""
        return [key for key in self.camera_keys if self._reader.features[key].kind == "image"]

    @property
    def names(self) -> dict[str, Any]:
        """Names of the elements of each feature."""
        return {key: feature.names for key, feature in self._reader.features.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each feature, as declared."""
        return {key: feature.shape for key, feature in self._reader.features.items()}

    @property
    def total_episodes(self) -> int:
        """Episodes of the whole set that have frames."""
        return self._reader.num_episodes

    @property
    def total_frames(self) -> int:
        """Frames of the whole set."""
        return self._reader.num_frames

    @property
    def total_tasks(self) -> int:
        """Number of tasks."""
        return len(self.tasks)


def _described(feature: Feature) -> dict[str, Any]:
    described: dict[str, Any] = {"dtype": feature.dtype, "shape": feature.shape, "names": feature.names}
    return {**described, "info": dict(feature.details)} if feature.details else described
