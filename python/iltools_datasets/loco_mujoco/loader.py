"""LocoMuJoCo `.npz` files, of 1.0 and of 0.4, as trajectories and as a Zarr archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.loco_mujoco_legacy_npz import LocoMujocoLegacySource
from iltools_datasets.sources.formats.loco_mujoco_npz import LocoMujocoSource
from iltools_datasets.sources.loader import DatasetMetadata, SourceLoader, Trajectory
from iltools_datasets.sources.registry import open_source

__all__ = ["DatasetMetadata", "LocoMuJoCoLoader", "Trajectory"]


class LocoMuJoCoLoader(SourceLoader):
    """The clips of LocoMuJoCo trajectory files of one version.

    Args:
        path: a file, or a directory of files.
        motion: one name for all files; by default each file is a motion named after it.
        frequency: states per second of files that do not say: by default 500 for 0.4, none for 1.0.

    Raises:
        SourceNotFoundError: there is nothing at the path.
        SourceError: no file is of either version.
    """

    def __init__(self, path: str | Path, motion: str | None = None, frequency: float | None = None) -> None:
        given: dict[str, Any] = {} if frequency is None else {"frequency": frequency}
        source = open_source(path, motion=motion, **given)
        if not isinstance(source, LocoMujocoSource | LocoMujocoLegacySource):
            raise SourceError(f"{path}: is {source.format}, expected a LocoMuJoCo file")
        super().__init__(source)
