"""What the trajectories of a data set have in common: the content of `meta.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from iltools_datasets.archive.schema import natural_key
from iltools_datasets.sources.protocol import Recording, Source

_SHARED = ("dt", "joint_names", "body_names", "site_names")


@dataclass(frozen=True, slots=True)
class DatasetMetadata:
    """What `meta.json` says about a data set; what its trajectories do not agree on is None.

    `trajectory_lengths` are states, in the order in which an archive numbers its trajectories; `dt` is in seconds.
    """

    name: str
    source: str
    version: str | None = None
    citation: str | None = None
    num_trajectories: int = 0
    keys: list[str] = field(default_factory=list)
    trajectory_lengths: list[int] = field(default_factory=list)
    dt: float | None = None
    joint_names: list[str] | None = None
    body_names: list[str] | None = None
    site_names: list[str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> DatasetMetadata:
        """Return a description that was read from a file: its values as they are, names unknown here in `metadata`."""
        known = {name: value for name, value in described.items() if name in cls.__dataclass_fields__}
        more = known.pop("metadata", None)
        unknown = {name: value for name, value in described.items() if name not in cls.__dataclass_fields__}
        unknown.update(more if isinstance(more, Mapping) else {} if more is None else {"metadata": more})
        return cls(**{"name": "", "source": "", **known}, metadata=unknown)


class Summary:
    """Takes the recordings of a data set one by one."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[str, str], list[int]] = {}
        self._rows: dict[str, dict[tuple[int, ...], str]] = {}
        self._shared: dict[str, Any] | None = None

    def count(self, task: tuple[str, str]) -> int:
        """Return how many recordings of a (dataset_source, motion) were added."""
        return len(self._lengths.get(task, ()))

    def add(self, task: tuple[str, str], recording: Recording) -> None:
        """Take one more recording of a task."""
        self._lengths.setdefault(task, []).append(recording.num_states)
        for key, array in recording.arrays.items():
            self._rows.setdefault(key, {}).setdefault(array.shape[1:], task[1])
        said = {"dt": recording.dt, **{name: recording.attributes.get(name) for name in _SHARED[1:]}}
        if self._shared is None:
            self._shared = said
        self._shared = {name: value if said[name] == value else None for name, value in self._shared.items()}

    def trajectory_lengths(self) -> list[int]:
        """Return the states of each recording, in the order in which an archive numbers them."""
        tasks = sorted(self._lengths, key=lambda task: tuple(map(natural_key, task)))
        return [length for task in tasks for length in self._lengths[task]]

    def remarks(self) -> list[str]:
        """Say which keys have rows of several shapes, as those of several robots have."""
        remarks = []
        for key, rows in self._rows.items():
            if len(rows) > 1:
                shapes = ", ".join(f"{list(shape)} in {motion}" for shape, motion in rows.items())
                remarks.append(
                    f"rows of {key!r} have several shapes ({shapes}): several robots? A store takes one of them, so "
                    "export each by itself"
                )
        return remarks

    def metadata(self, sources: Iterable[Source]) -> DatasetMetadata:
        """Return the description of what was added from these sources."""
        opened = list(sources)
        lengths = self.trajectory_lengths()
        return DatasetMetadata(
            name=opened[0].path.name,
            source=", ".join(sorted({source.format for source in opened})),
            num_trajectories=len(lengths),
            keys=sorted(self._rows),
            trajectory_lengths=lengths,
            **(self._shared or {}),
        )
