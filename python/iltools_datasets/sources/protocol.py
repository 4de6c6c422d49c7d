"""What a source is: files of one raw format, each holding recordings of motion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from numpy.typing import NDArray

from iltools_datasets.archive.schema import natural_key
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.sources.walk import below, has_ending, without_ending


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One raw file, or one directory where a format spreads a data set over several, and the motion it belongs to."""

    path: Path
    motion: str


@dataclass(frozen=True, slots=True)
class Recording:
    """One trajectory as its file has it.

    Attributes:
        arrays: `[T, ...]` by key (keys of `archive.schema.TRANSITION_KEYS` may be `[T - 1, ...]`).
        fps: states per second, None where the file does not say.
        quaternions: key -> the columns of its last axis at which unit quaternions begin; None where the file does not
            say whether there are any.
        quaternion_order: their order, wxyz for all sources that know it.
        velocities: key of a velocity -> how the file or its source made it.
        attributes: whatever else is worth keeping, as JSON: joint, body and site names, frames.
    """

    arrays: Mapping[str, NDArray[Any]]
    fps: float | None = None
    quaternions: Mapping[str, tuple[int, ...]] | None = field(default_factory=dict)
    quaternion_order: Literal["wxyz", "xyzw"] = "wxyz"
    velocities: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_states(self) -> int:
        """T."""
        return max(len(array) for array in self.arrays.values())

    @property
    def dt(self) -> float | None:
        """Seconds from one state to the next: as the file says it, else from the rate; None where neither is known."""
        stated = self.attributes.get("dt")
        if stated is not None:
            return float(stated)
        return None if self.fps is None else 1.0 / self.fps

    def with_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> Recording:
        """Return the same recording with other arrays."""
        return replace(self, arrays=arrays)


class Source(ABC):
    """Reads one raw format.

    A third party adds a format by subclassing this and naming the class under the entry point group
    `iltools_datasets.sources`; the entry point's name is the format's.
    """

    format: ClassVar[str]
    """The format's name, as `iltools export FORMAT` takes it."""
    summary: ClassVar[str]
    """One line on what the format is."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """File name endings, in lower case, that a directory is searched for."""
    owns_suffixes: ClassVar[bool] = True
    """Whether a file with such an ending, that is not recognised, is a damaged one; of containers that hold anything at
    all (pickles, HDF5, JSON) it is just another file."""

    def __init__(self, path: Path | str, *, motion: str | None = None) -> None:
        self.path = Path(path)
        self.motion = motion
        self.notes: list[str] = []
        """What is worth telling about the files read so far, a line each."""
        self._told: dict[str, tuple[int, Path, int]] = {}
        self.only: frozenset[Path] | None = None
        """The files that are meant, where a directory holds others of the same ending; None: all."""
        if not self.path.exists():
            raise SourceNotFoundError(f"{self.path}: no such file or directory")

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Tell, from names and headers alone, whether this one file (or data set directory) has the format."""

    @abstractmethod
    def read(self, file: SourceFile) -> Iterator[Recording]:
        """Yield the recordings of one file in order; SourceError names the file and what is wrong with it."""

    def wanted_files(self) -> list[SourceFile]:
        """Return what `files` lists, as far as it is meant."""
        return [file for file in self.files() if self.only is None or file.path in self.only]

    def with_motion(self, motion: str) -> Self:
        """Return the same source with another `motion`."""
        other = copy(self)
        other.motion, other.notes, other._told = motion, [], {}
        return other

    def note(self, line: str) -> None:
        """Say something worth telling, once."""
        if line not in self.notes:
            self.notes.append(line)

    def about(self, path: Path, what: str) -> None:
        """Say something of a file; the same of several files is one line."""
        if what not in self._told:
            self._told[what] = len(self.notes), path, 0
            self.notes.append(f"{path}: {what}")
            return
        place, first, more = self._told[what]
        if path != first:
            self._told[what] = place, first, more + 1
            self.notes[place] = f"{first} and {more + 1} more files: {what}"

    def count(self, file: SourceFile) -> int:
        """Return how many recordings `read(file)` yields."""
        return sum(1 for _ in self.read(file))

    @property
    def dataset_source(self) -> str:
        """First level of the archive unless the caller names another: the format with underscores."""
        return self.format.replace("-", "_")

    def files(self) -> list[SourceFile]:
        """List what there is to read, natural-sorted.

        A directory stands for all files below it with one of the format's suffixes, in upper or lower case. Each file
        is a motion named after it, unless `motion` was given. Raises SourceError if there are none.
        """
        paths = [self.path] if self.path.is_file() else self._below()
        if not paths:
            raise SourceError(f"{self.path}: no {' or '.join(self.suffixes)} files below it")
        paths.sort(key=lambda path: [natural_key(part) for part in path.parts])
        return [SourceFile(path, self.motion or self._stem(path)) for path in paths]

    def _below(self) -> list[Path]:
        return [path for path in below(self.path, note=self.note) if has_ending(path, self.suffixes)]

    def _stem(self, path: Path) -> str:
        return without_ending(path, self.suffixes)
