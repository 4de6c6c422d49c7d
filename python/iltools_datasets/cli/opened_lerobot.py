"""A LeRobot set, looked at as archives and stores are; needs the extra `data`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.cli.looked_at import ClipInfo, KeyInfo, size_on_disk
from iltools_datasets.errors import MissingKeyError, SourceError
from iltools_datasets.lerobot import LeRobotReader
from iltools_datasets.sources.formats.lerobot import flat_names

_NO_TASK = "no task"


class OpenedLeRobot:
    """A LeRobot set; a clip is an episode, named `<its task>/episode_<number>`."""

    kind: Literal["archive", "store", "LeRobot set"] = "LeRobot set"

    def __init__(self, path: str) -> None:
        self.path = path
        self.reader = reader = LeRobotReader(path)
        table = reader.episodes
        rows = zip(table.index.tolist(), table.length.tolist(), table.tasks, strict=True)
        self.clips = [
            ClipInfo(tasks[0] if tasks else _NO_TASK, f"episode_{number:06d}", length, float(reader.fps))
            for number, length, tasks in rows
        ]
        self.numbers: Sequence[int] = table.index.tolist()
        """What a clip is called where it is called by a number."""
        self.keys = {
            key: KeyInfo(reader.features[key].store_dtype.name, reader.features[key].shape, len(self.clips))
            for key in reader.info.number_keys
        }
        self.array_bytes: int | None = None
        self.notes = list(reader.notes)

    @property
    def bytes_on_disk(self) -> int | None:
        """Bytes of all files; each is looked at."""
        return size_on_disk(self.path)

    def attributes(self, position: int) -> Mapping[str, Any]:
        """Return nothing: names belong to features, see `column_names`."""
        return {}

    def column_names(self, key: str) -> list[str] | None:
        """Return the names of a feature's elements, None where it has not one for each."""
        feature = self.reader.features[key]
        names = flat_names(feature.names)
        return names if len(names) == int(np.prod(feature.shape)) else None

    def read(self, position: int, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return a whole episode's features, [T, ...]."""
        names = list(keys)
        for name in names:
            if name not in self.keys:
                raise MissingKeyError(f"{self.path}: no key {name!r}; there are {sorted(self.keys)}")
        return {str(key): values for key, values in self.reader.gather(self._rows(position), names).items()}

    def _rows(self, position: int) -> NDArray[np.int64]:
        segment = self.reader.store.segments[position]
        return np.arange(segment.start, segment.start + segment.length)

    def longest_with_pictures(self) -> int:
        """Return the longest episode whose videos are there, or the longest if none has them."""
        order = sorted(range(len(self.clips)), key=lambda position: -self.clips[position].num_states)
        for position in order:
            if all(self._has_pictures(key, position) for key in self.reader.camera_keys):
                return position
        return order[0]

    def _has_pictures(self, key: str, position: int) -> bool:
        path = self.reader.video_path(key, self.numbers[position])
        return path is None or path.is_file()

    def strips(self, position: int, most: int) -> tuple[dict[str, tuple[NDArray[Any], NDArray[Any]]], list[str]]:
        """Return some pictures of each camera, evenly through an episode, and why a camera has none.

        Returns ({camera: (seconds [n], uint8 [n, H, W, C])}, notes).
        """
        rows = self._rows(position)
        chosen = np.unique(np.linspace(0, len(rows) - 1, most).round().astype(np.int64))
        strips, notes = {}, []
        for key in self.reader.camera_keys:
            try:
                pictures = self.reader.pictures(rows[chosen], key)
            except SourceError as error:
                notes.append(f"no pictures of {key}: {error}")
            else:
                strips[key] = (chosen / float(self.reader.fps), pictures)
        return strips, notes
