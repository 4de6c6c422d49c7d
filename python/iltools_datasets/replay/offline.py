"""Looking into a Zarr archive: what it holds, its arrays, and a replay built from it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iltools_datasets.archive.reader import ArchiveReader, read_metadata
from iltools_datasets.archive.schema import Trajectory
from iltools_datasets.errors import SourceNotFoundError
from iltools_datasets.sources.summary import DatasetMetadata

if TYPE_CHECKING:
    from iltools_datasets.replay.manager import ExpertReplayManager
    from iltools_datasets.store.segments import EnvAssignment

DEFAULT_ZARR_NAME = "trajectories.zarr"


class OfflineDataset:
    """An archive on disk and its description.

    Listing and reading need numpy and zarr only; building a replay needs the torch extra.

    Attributes:
        reader: the open archive.
        metadata: the description in `meta.json` (or in the archive's root attributes), None if there is none. What of
            it has no attribute of its own is in its `metadata`.
    """

    def __init__(self, reader: ArchiveReader, metadata: dict[str, Any] | None = None) -> None:
        self.reader = reader
        described = reader.metadata if metadata is None else metadata
        self.metadata = None if described is None else DatasetMetadata.of(described)

    @classmethod
    def from_zarr_root(
        cls,
        root_dir: str | os.PathLike[str],
        zarr_name: str | None = None,
        metadata_filename: str = "meta.json",
    ) -> OfflineDataset:
        """Open the archive in a directory.

        Args:
            root_dir: the directory that holds the archive and its description, or the archive itself.
            zarr_name: the archive's name in `root_dir`. By default `trajectories.zarr`, and if there is none the
                archive is `root_dir` itself.
            metadata_filename: the description's name, in `root_dir` or beside the archive; it may be missing.

        Raises:
            SourceNotFoundError: there is no archive (a FileNotFoundError).
            SourceError: the archive or the description is damaged.
        """
        root = Path(root_dir)
        zarr_path = root / (DEFAULT_ZARR_NAME if zarr_name is None else zarr_name)
        if zarr_name is None and not zarr_path.exists():
            zarr_path = root
        if not zarr_path.exists():
            raise SourceNotFoundError(f"{zarr_path}: no such archive")
        described = [place for place in (root, zarr_path.parent) if (place / metadata_filename).is_file()]
        metadata = read_metadata(described[0] / metadata_filename) if described else None
        return cls(ArchiveReader(zarr_path), metadata)

    @property
    def trajectories(self) -> list[Trajectory]:
        """Every trajectory's ids, names, length in states, keys and attributes, by task, natural-sorted within it."""
        return self.reader.trajectories

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories."""
        return len(self.reader.trajectories)

    @property
    def total_steps(self) -> int:
        """Number of states over all trajectories; a trajectory of T states gives T - 1 transitions."""
        return sum(trajectory.num_states for trajectory in self.reader.trajectories)

    def iter_trajectories(self) -> Iterator[Trajectory]:
        """Yield what `trajectories` lists, without reading an array; `reader.stream()` yields the arrays with it."""
        return iter(self.reader.trajectories)

    def build_replay_manager(
        self, scratch_dir: str | os.PathLike[str], obs_keys: Sequence[str], **options: Any
    ) -> ExpertReplayManager:
        """Build a store in `scratch_dir` and return its replay manager.

        `options`, and the errors raised, are those of `replay_export.build_replay_from_zarr`.
        """
        from iltools_datasets.replay.from_archive import build_replay_from_zarr

        return build_replay_from_zarr(self._zarr_path(), scratch_dir, obs_keys, **options)

    def make_sequential_replay(
        self, scratch_dir: str | os.PathLike[str], num_envs: int, obs_keys: Sequence[str], **options: Any
    ) -> tuple[ExpertReplayManager, list[EnvAssignment]]:
        """Build a replay whose envs march through the clips, and return it with where each env starts.

        Env e starts at step 0 of the e-th trajectory that has a transition, beginning again after the last one.
        """
        from iltools_datasets.store.segments import EnvAssignment

        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        manager = self.build_replay_manager(scratch_dir, obs_keys, **options)
        segments = manager.segments
        assignments = [
            EnvAssignment(segment.task_id, segment.traj_id, 0)
            for segment in (segments[env % len(segments)] for env in range(num_envs))
        ]
        manager.set_assignment(assignments)
        return manager, assignments

    def __len__(self) -> int:
        return self.num_trajectories

    def __repr__(self) -> str:
        return (
            f"OfflineDataset({str(self.reader.path)!r}: {self.num_trajectories} trajectories, {self.total_steps} steps)"
        )

    def _zarr_path(self) -> str | Path:
        path = self.reader.path
        if not isinstance(path, str | Path):
            raise TypeError(f"a replay is built from a path or URL, not from {path!r}")
        return path
