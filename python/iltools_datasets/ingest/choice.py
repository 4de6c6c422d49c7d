"""Which clips of archives go into a store: by name, by length, by the doctor's verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.doctor.examine import examine
from iltools_datasets.errors import ArgumentError

if TYPE_CHECKING:
    from iltools_datasets.archive.schema import Trajectory


@dataclass(frozen=True, slots=True)
class Choice:
    """What a clip has to be to be taken.

    Attributes:
        globs: what it is called, `<dataset_source>/<motion>/<clip>`; `*` passes over slashes, and `!` in front leaves
            out what the others take. Without one that takes, all are taken.
        min_states, max_states: how many states it has.
        healthy: whether the doctor has to find nothing in it; every value is read for that.
    """

    globs: tuple[str, ...] = ()
    min_states: int = 1
    max_states: int | None = None
    healthy: bool = False

    def over(self, readers: Sequence[ArchiveReader]) -> Callable[[Trajectory], bool]:
        """Return the function that tells of a clip of these archives whether it is taken.

        Raises ArgumentError for a glob that none of them is called like.
        """
        paths = [clip.path for reader in readers for clip in reader.trajectories]
        for glob in self.globs:
            if not any(fnmatchcase(path, glob.removeprefix("!")) for path in paths):
                where = ", ".join(str(reader.path) for reader in readers)
                raise ArgumentError(
                    f"{where}: no clip is called like {glob!r}; the first ones are {', '.join(paths[:5])}"
                )
        ill = {finding.clip for reader in readers for finding in examine(reader.path).findings} if self.healthy else ()
        wanted = [glob for glob in self.globs if not glob.startswith("!")] or ["*"]
        unwanted = [glob[1:] for glob in self.globs if glob.startswith("!")]

        def takes(clip: Trajectory) -> bool:
            is_called = _matches(clip.path, wanted) and not _matches(clip.path, unwanted)
            fits = self.min_states <= clip.num_states <= (self.max_states or clip.num_states)
            return is_called and fits and clip.path not in ill

        return takes


def as_choice(select: str | Sequence[str] | Choice) -> Choice:
    """Return a choice as it is, and one by name for globs."""
    if isinstance(select, Choice):
        return select
    return Choice((select,) if isinstance(select, str) else tuple(select))


def _matches(path: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(path, glob) for glob in globs)
