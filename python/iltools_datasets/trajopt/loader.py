"""Trajectory optimisation `.npz` files as trajectories and as a Zarr archive."""

from __future__ import annotations

from pathlib import Path

from iltools_datasets.sources.formats.trajopt_npz import TrajoptSource
from iltools_datasets.sources.loader import DatasetMetadata, SourceLoader, Trajectory

__all__ = ["DatasetMetadata", "Trajectory", "TrajoptLoader"]


class TrajoptLoader(SourceLoader):
    """The trajectories of a directory of `.npz` files, one file each; `sources.trajopt_npz` says what they hold.

    Args:
        path: a file, a directory of files, or a directory with a sub-directory per motion.
        motion: the sub-directory to read, or the name of the motion whose files lie directly in `path`. By default
            every sub-directory is a motion.

    Raises:
        SourceNotFoundError: there is nothing at the path.
        SourceError: there are no `.npz` files.
    """

    def __init__(self, path: str | Path, motion: str | None = None) -> None:
        super().__init__(TrajoptSource(path, motion=motion))
