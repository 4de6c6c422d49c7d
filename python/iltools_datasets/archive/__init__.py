"""The Zarr archive: expert motion as arrays in `<root>/<dataset_source>/<motion>/<trajectory>/<key>`."""

from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.archive.schema import ArraySpec, Task, Trajectory
from iltools_datasets.archive.writer import ArchiveWriter

__all__ = ["ArchiveReader", "ArchiveWriter", "ArraySpec", "Task", "Trajectory"]
