"""Public address of `iltools_datasets.windows.dataset`."""

from iltools_datasets.windows.dataset import VectorizedTrajectoryDataset

__all__ = ["VectorizedTrajectoryDataset"]
