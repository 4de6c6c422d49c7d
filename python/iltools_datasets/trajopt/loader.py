"""Trajectory optimisation `.npz` files as trajectories and as a Zarr archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from iltools_datasets.sources.formats.trajopt_npz import TrajoptSource
from iltools_datasets.sources.loader import DatasetMetadata, SourceLoader, Trajectory, trajectory_dataset_type

if TYPE_CHECKING:
    from iltools_datasets.sources.torch_dataset import TrajectoryDicts as TrajoptTrajectoryDataset

__all__ = ["DatasetMetadata", "Trajectory", "TrajoptLoader", "TrajoptTrajectoryDataset"]


class TrajoptLoader(SourceLoader):
    """The trajectories of a directory of `.npz` files, one file each; `sources.trajopt_npz` says what they hold.

    Args:
        data_path: a file, a directory of files, or a directory with a sub-directory per motion.
        motion: the sub-directory to read, or the name of the motion whose files lie directly in `data_path`. By default
            every sub-directory is a motion.

    Raises:
        SourceNotFoundError: there is nothing at the path.
        SourceError: there are no `.npz` files.
    """

    def __init__(self, data_path: str | Path, motion: str | None = None) -> None:
        super().__init__(TrajoptSource(data_path, motion=motion))


def __getattr__(name: str) -> Any:
    # The type of `as_dataset()`; naming it needs torch, the rest of this module does not.
    if name == "TrajoptTrajectoryDataset":
        return trajectory_dataset_type()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
