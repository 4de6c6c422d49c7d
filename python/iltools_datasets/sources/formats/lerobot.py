"""LeRobot directories, v2.0 to v3.0: each episode's numbers become a trajectory. Pictures stay where they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot import Feature, LeRobotReader
from iltools_datasets.lerobot.info import ID_KEYS, INFO
from iltools_datasets.sources.protocol import Recording, Source, SourceFile

_RENAMED = {"next.reward": "reward", "next.done": "done"}
_STATE = "observation.state"


class LeRobotSource(Source):
    """A directory with `meta/info.json`; directories below the path that are sets are read one after the other.

    An episode of T frames is a trajectory of T states, so T - 1 transitions: the last action leads nowhere. Every
    numeric feature keeps its name but two: `next.reward` [T] is `reward` [T - 1], and `next.done` is `done` [T - 1],
    true at the last transition also where the episode says so only in its last frame. What numbers the rows
    (`timestamp`, `frame_index`, `episode_index`, `index`, `task_index`) is left out: the rate and the task in words are
    attributes.
    """

    format = "lerobot"
    summary = "LeRobot directory, v2.0 to v3.0: the numbers of every episode"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_dir() and (path / INFO).is_file()

    def files(self) -> list[SourceFile]:
        places = [self.path] if self.recognises(self.path) else sorted(p.parents[1] for p in self.path.rglob(INFO))
        if not places:
            return super().files()
        return [SourceFile(place, self.motion or place.resolve().name) for place in places]

    def count(self, file: SourceFile) -> int:
        return self._reader(file.path).num_episodes

    def read(self, file: SourceFile) -> Iterator[Recording]:
        reader = self._reader(file.path)
        for note in reader.notes:
            self.note(f"{file.path}: {note}")
        keys = [key for key in reader.info.number_keys if key not in ID_KEYS]
        for position, number in enumerate(reader.episode_numbers.tolist()):
            segment = reader.store.segments[position]
            rows = reader.gather(np.arange(segment.start, segment.start + segment.length), keys)
            arrays = {str(key): values for key, values in rows.items()}
            yield Recording(
                _as_transitions(arrays),
                fps=float(reader.fps),
                quaternions=None,
                attributes={
                    "episode_index": number,
                    "tasks": list(reader.episodes.tasks[position]),
                    **_joint_names(reader.features.get(_STATE)),
                },
            )

    def _reader(self, path: Path) -> LeRobotReader:
        if path not in self._readers:
            try:
                self._readers[path] = LeRobotReader(path)
            except SourceError as error:
                raise SourceError(f"{path}: a LeRobot data set{_version(path)} that cannot be read: {error}") from error
        return self._readers[path]

    @cached_property
    def _readers(self) -> dict[Path, LeRobotReader]:
        return {}


def _version(path: Path) -> str:
    try:
        version = json.loads((path / INFO).read_bytes()).get("codebase_version")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" of version {version:.20}" if isinstance(version, str) else ""


def _as_transitions(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Rename what belongs to a step, and cut it to the steps that have a next state."""
    renamed = {}
    for key, values in arrays.items():
        name = _RENAMED.get(key, key)
        if name == key or name in arrays or len(values) < 2:
            renamed[key] = values
            continue
        cut = values[:-1].copy()
        if name == "done":
            cut[-1] |= values[-1]
        renamed[name] = cut
    return renamed


def flat_names(names: Any) -> list[str]:
    """Return a feature's names, which are None, a list, a nested list or a dict, as one list."""
    if names is None:
        return []
    if isinstance(names, dict):
        return [text for value in names.values() for text in flat_names(value)]
    if isinstance(names, list | tuple):
        return [text for value in names for text in flat_names(value)]
    return [str(names)]


def _joint_names(feature: Feature | None) -> dict[str, Any]:
    names = [] if feature is None else flat_names(feature.names)
    return {"joint_names": names} if feature is not None and [len(names)] == list(feature.shape) and names else {}
