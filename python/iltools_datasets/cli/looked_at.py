"""What a clip, a key, and anything that holds clips is to whoever looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from iltools_datasets._base.files import bytes_below


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """One clip: the name of its task, its own name, T, and the states per second it declares.

    `lacks_next` says that its T rows are transitions whose next states are not known.
    """

    task: str
    name: str
    num_states: int
    fps: float | None
    lacks_next: bool = False

    @property
    def num_transitions(self) -> int:
        """Steps from one state to the next, or rows that are such steps."""
        return self.num_states if self.lacks_next else self.num_states - 1

    @property
    def path(self) -> str:
        """`<task>/<name>`."""
        return f"{self.task}/{self.name}"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key: dtype and shape of a row, of the first clip that has it, and the number of clips that have it.

    `others` are the dtypes and shapes in which clips have it besides.
    """

    dtype: str
    shape: tuple[int, ...]
    num_clips: int
    others: tuple[tuple[str, tuple[int, ...]], ...] = ()


class Opened(Protocol):
    """What can be asked of an archive, of a store and of a LeRobot set alike.

    `numbers` is what each clip is called where it is called by a number.
    """

    kind: Literal["archive", "store", "LeRobot set"]
    path: str
    clips: list[ClipInfo]
    numbers: Sequence[int]
    keys: dict[str, KeyInfo]
    array_bytes: int | None
    notes: list[str]

    @property
    def bytes_on_disk(self) -> int | None:
        """Bytes of all files, None where that is not known; not kept, for each file is looked at."""

    def attributes(self, position: int) -> Mapping[str, Any]:
        """Return what is declared about a clip."""

    def read(self, position: int, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return whole arrays of a clip, [T, ...] or [T - 1, ...]; MissingKeyError if it lacks one."""


def size_on_disk(path: str) -> int | None:
    """Return the bytes of all files at a path, None behind a URL."""
    if "://" in path:
        return None
    place = Path(path)
    return place.stat().st_size if place.is_file() else bytes_below(place)
