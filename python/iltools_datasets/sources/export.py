"""Raw files of any format to one Zarr archive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from iltools_datasets._base.integers import checked_integer
from iltools_datasets.archive.place import Location
from iltools_datasets.archive.writer import ArchiveWriter
from iltools_datasets.errors import ArgumentError, IltoolsError, SourceError
from iltools_datasets.sources.protocol import Recording, Source, SourceFile
from iltools_datasets.sources.readers import Job, Readers, read_file
from iltools_datasets.sources.summary import DatasetMetadata, Summary

Progress = Callable[[int, int, Path], None]


@dataclass(frozen=True, slots=True)
class ExportFailure:
    """A file that could not be exported, wholly or from some trajectory on, and why."""

    path: Path
    reason: str


@dataclass(slots=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: where the archive lies.
        formats: format -> number of files taken for it.
        metadata: the archive's description.
        failures: files that were left out (with `keep_going`; otherwise the first one is an error).
        notes: what the sources found worth saying.
        quaternion_orders: order -> number of trajectories whose file had its quaternions in it, as far as is known.
    """

    path: Location
    formats: dict[str, int] = field(default_factory=dict)
    metadata: DatasetMetadata = field(default_factory=lambda: DatasetMetadata("", ""))
    failures: list[ExportFailure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quaternion_orders: dict[str, int] = field(default_factory=dict)

    @property
    def trajectory_lengths(self) -> list[int]:
        """States of each trajectory, in the order in which an archive numbers them."""
        return self.metadata.trajectory_lengths

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories written."""
        return len(self.trajectory_lengths)

    @property
    def num_states(self) -> int:
        """Number of states written, over all trajectories."""
        return sum(self.trajectory_lengths)


def export(
    sources: Source | Iterable[Source],
    out: Location,
    *,
    dataset_source: str | None = None,
    fps: float | None = None,
    layout: Literal["nested", "packed"] = "nested",
    overwrite: bool = False,
    keep_going: bool = False,
    max_trajectories_per_motion: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    jobs: int = 1,
) -> ExportReport:
    """Write every recording of the sources as `<dataset_source>/<motion>/traj<i>` of a Zarr archive.

    Arrays keep the values and dtypes that their source gives them. Each trajectory's attributes say where it came
    from, its rate and its frames.

    Args:
        sources: what to export; several are written to one archive.
        out: the archive, as `ArchiveWriter` takes it.
        dataset_source: first level of the archive; by default each source names its own.
        fps: states per second of the archive; recordings of another rate are resampled (`resample.resample`).
        layout: see `ArchiveWriter`.
        overwrite: replace an archive that is there.
        keep_going: leave out a file that cannot be read and list it in the report.
        max_trajectories_per_motion: stop reading a motion after so many trajectories.
        metadata: entries of the archive's description (fields of `DatasetMetadata`: `name`, `version`, ...).
        progress: called as `progress(files_done, files_in_all, next_file)` before each file.
        jobs: so many processes read files and resample, which begin as multiprocessing's "spawn" does; one reads here.
            The archive is the same, bit for bit.

    Raises:
        ArgumentError: a rate that is none, or a number of processes.
        SourceError: a file is damaged or not what it claims to be, the process that read it is gone, or nothing is left
            to write. Nothing has changed.
        SchemaError: its arrays do not fit together.
        ArchiveExistsError: there is an archive and `overwrite` is False.

    Examples:
        >>> from iltools_datasets.archive import ArchiveReader
        >>> from iltools_datasets.sources import open_sources
        >>> report = export(open_sources(["recordings"]), "walk.zarr")
        >>> ArchiveReader("walk.zarr").trajectories[0].length
        30
    """
    if fps is not None and not (isfinite(fps) and fps > 0):
        raise ArgumentError(f"fps: expected a positive number, found {fps:g}")
    processes = checked_integer("jobs", jobs, 1)
    opened = [sources] if isinstance(sources, Source) else list(sources)
    report = ExportReport(out)
    files = [(source, file) for source in opened for file in _files(source, keep_going, report)]
    summary = Summary()
    with ArchiveWriter(out, overwrite, layout=layout) as writer, _reading(files, processes, fps) as read:
        for number, (source, file) in enumerate(files):
            if progress is not None:
                progress(number, len(files), file.path)
            target = dataset_source or source.dataset_source
            try:
                for index, recording in enumerate(read(number)):
                    task = (target, file.motion)
                    count = summary.count(task)
                    if max_trajectories_per_motion is not None and count >= max_trajectories_per_motion:
                        break
                    attributes = describe(source, file, index, recording)
                    writer.add(*task, f"traj{count}", recording.arrays, attributes)
                    summary.add(task, recording)
                    if (order := recording.attributes.get("quaternion_order_in_file")) is not None:
                        report.quaternion_orders[order] = report.quaternion_orders.get(order, 0) + 1
            except IltoolsError as error:
                if not keep_going:
                    raise
                report.failures.append(ExportFailure(file.path, str(error)))
            else:
                report.formats[source.format] = report.formats.get(source.format, 0) + 1
        if not summary.trajectory_lengths():
            reasons = "".join(f"\n{failure.reason}" for failure in report.failures)
            raise SourceError(f"nothing to export to {out}{reasons}")
        report.metadata = replace(summary.metadata(opened), **(metadata or {}))
        writer.metadata = asdict(report.metadata)
    report.notes = [note for source in opened for note in source.notes] + summary.remarks()
    return report


@contextmanager
def _reading(files: Sequence[Job], processes: int, fps: float | None) -> Iterator[Callable[[int], Iterator[Recording]]]:
    """Yield what reads the file of a number: here, or in processes of its own."""
    if processes == 1 or len(files) < 2:
        yield lambda number: read_file(*files[number], fps)
        return
    with Readers(files, processes, fps) as readers:
        yield readers.read


def describe(source: Source, file: SourceFile, index: int, recording: Recording) -> dict[str, Any]:
    """Return a trajectory's attributes: provenance, rate, frames, and what the source adds."""
    attributes: dict[str, Any] = {
        "source_format": source.format,
        "source_file": file.path.name,
        "source_index": index,
    }
    if recording.fps is not None:
        attributes |= {"fps": recording.fps, "dt": recording.dt}
    if recording.quaternions:
        attributes["quaternion_order"] = recording.quaternion_order
        attributes["quaternions"] = {key: list(columns) for key, columns in recording.quaternions.items()}
    if recording.velocities:
        attributes["velocities"] = dict(recording.velocities)
    return {**attributes, **recording.attributes}


def _files(source: Source, keep_going: bool, report: ExportReport) -> Iterator[SourceFile]:
    try:
        yield from source.wanted_files()
    except IltoolsError as error:
        if not keep_going:
            raise
        report.failures.append(ExportFailure(source.path, str(error)))
