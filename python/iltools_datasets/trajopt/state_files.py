"""The states of trajectory optimisation `.npz` files by number, without their actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integer
from iltools_datasets.errors import OutOfRangeError
from iltools_datasets.sources.formats.npz import Npz
from iltools_datasets.sources.formats.trajopt_npz import TrajoptSource, read_states, true_length

__all__ = ["StateFiles"]


class StateFiles:
    """One trajectory per file, in natural order. Headers are read at once, values when asked for.

    Args:
        path: a file, a directory of files, or a directory with a sub-directory per motion.

    Attributes:
        paths: the files.
        lengths: states of each.
        widths: width of `qpos` and `qvel` of each.

    Raises:
        SourceNotFoundError: there is nothing at the path.
        SourceError: there are no `.npz` files, or one is damaged or lacks `qpos` or `qvel`.
    """

    def __init__(self, path: str | Path) -> None:
        self.paths = [file.path for file in TrajoptSource(path).files()]
        self.lengths: list[int] = []
        self.widths: list[tuple[int, int]] = []
        for file in self.paths:
            with Npz(file) as npz:
                self.lengths.append(true_length(npz))
                self.widths.append((npz.arrays["qpos"].shape[1], npz.arrays["qvel"].shape[1]))

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> dict[str, NDArray[Any]]:
        """Return `qpos [T, nq]`, `qvel [T, nv]` and, where the file has it, `ee_pos [T, 5, 3]`.

        Raises OutOfRangeError if there is no such trajectory, SourceError if its file is damaged.
        """
        if not 0 <= (number := checked_integer("trajectory", index)) < len(self.paths):
            raise OutOfRangeError(f"trajectory {index} is outside [0, {len(self.paths)})")
        with Npz(self.paths[number]) as npz:
            return read_states(npz)
