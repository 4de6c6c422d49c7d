"""A raw data set as a sequence of trajectories, exported with one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.files import write_json
from iltools_datasets.archive.schema import TRANSITION_KEYS
from iltools_datasets.errors import OutOfRangeError
from iltools_datasets.sources.export import ExportReport, export
from iltools_datasets.sources.protocol import Recording, Source, SourceFile
from iltools_datasets.sources.summary import DatasetMetadata, Summary

if TYPE_CHECKING:
    from iltools_datasets.sources.torch_dataset import TrajectoryDicts

__all__ = ["DatasetMetadata", "SourceLoader", "Trajectory", "to_trajectory"]

ACTION_KEYS = ("action", "actions")
REWARD_KEYS = ("rewards", "reward")
METADATA_FILENAME = "meta.json"


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One trajectory of T states.

    Attributes:
        observations: `[T, ...]` by key.
        actions: `[T, ...]` or `[T - 1, ...]`, None if there are none.
        rewards: `[T]` or `[T - 1]`, None if there are none.
        infos: everything else: flags and further steps by key, and the attributes of its recording.
        dt: seconds from one state to the next, None where the file does not say.
    """

    observations: dict[str, NDArray[Any]]
    actions: NDArray[Any] | None
    rewards: NDArray[Any] | None
    infos: dict[str, Any]
    dt: float | None


class SourceLoader(Sequence[Trajectory]):
    """The trajectories of a source, read when they are asked for: one file is kept at a time.

    Args:
        source: where they come from.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._places = [(file, index) for file in source.wanted_files() for index in range(source.count(file))]
        self._open: tuple[SourceFile, list[Recording]] | None = None
        self._metadata: DatasetMetadata | None = None
        self.report: ExportReport | None = None
        """What the last `save` did."""

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Trajectory: ...
    @overload
    def __getitem__(self, index: slice) -> list[Trajectory]: ...
    def __getitem__(self, index: int | slice) -> Trajectory | list[Trajectory]:
        """Return a trajectory; OutOfRangeError (an IndexError) if there is none, SourceError if its file is damaged."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise OutOfRangeError(f"{self.source.path}: trajectory {index} of {len(self)}")
        file, position = self._places[index]
        return to_trajectory(self._recordings(file)[position])

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[index] for index in range(len(self)))

    @property
    def metadata(self) -> DatasetMetadata:
        """The data set's description, made by reading every trajectory once."""
        if self._metadata is None:
            summary = Summary()
            for file, index in self._places:
                summary.add((self.source.dataset_source, file.motion), self._recordings(file)[index])
            self._metadata = summary.metadata([self.source])
        return self._metadata

    def save(
        self,
        out_dir: str | Path,
        dataset_source: str | None = None,
        motion: str | None = None,
        zarr_name: str = "trajectories.zarr",
        max_trajs_per_motion: int | None = None,
        *,
        fps: float | None = None,
        layout: Literal["nested", "packed"] = "nested",
        overwrite: bool = False,
    ) -> str:
        """Write the trajectories to the archive `out_dir/zarr_name` and its description to `out_dir/meta.json`.

        Args:
            out_dir: a directory, made if need be.
            dataset_source: first level of the archive; by default the source's.
            motion: as the source takes it; by default the one it was opened with.
            zarr_name: the archive's name.
            max_trajs_per_motion: write at most so many trajectories of each motion.
            fps: resample to this rate.
            layout: see `archive.ArchiveWriter`.
            overwrite: replace an archive that is there.

        Returns:
            The archive's path. `report` says what was done.

        Raises:
            SourceError, SchemaError: a file cannot be read or written as it is; nothing has changed.
            ArchiveExistsError: there is an archive already.
        """
        path = Path(out_dir) / zarr_name
        report = export(
            self.source if motion is None else self.source.with_motion(motion),
            path,
            dataset_source=dataset_source,
            fps=fps,
            layout=layout,
            overwrite=overwrite,
            max_trajectories_per_motion=max_trajs_per_motion,
        )
        write_json(Path(out_dir) / METADATA_FILENAME, asdict(report.metadata), indent=2)
        self.report = report
        return str(path)

    def as_dataset(self, device: str = "cpu") -> TrajectoryDicts:
        """Return a torch data set of one dict per trajectory; see `sources.torch_dataset.TrajectoryDicts`.

        Raises MissingExtraError without torch.
        """
        return trajectory_dataset_type()(self, device)

    def _recordings(self, file: SourceFile) -> list[Recording]:
        if self._open is None or self._open[0] != file:
            self._open = file, list(self.source.read(file))
        return self._open[1]


def trajectory_dataset_type() -> type[TrajectoryDicts]:
    """Return the type of `SourceLoader.as_dataset`; MissingExtraError without torch."""
    try:
        from iltools_datasets.sources.torch_dataset import TrajectoryDicts
    except ImportError as error:
        raise missing_extra("torch", "as_dataset") from error
    return TrajectoryDicts


def to_trajectory(recording: Recording) -> Trajectory:
    """Sort a recording's arrays into observations, actions, rewards and the rest."""
    actions = next((recording.arrays[key] for key in ACTION_KEYS if key in recording.arrays), None)
    rewards = next((recording.arrays[key] for key in REWARD_KEYS if key in recording.arrays), None)
    observations, infos = {}, dict(recording.attributes)
    for key, array in recording.arrays.items():
        if key not in TRANSITION_KEYS:
            observations[key] = array
        elif key not in (*ACTION_KEYS, *REWARD_KEYS):
            infos[key] = array
    return Trajectory(observations, actions, rewards, infos, recording.dt)
