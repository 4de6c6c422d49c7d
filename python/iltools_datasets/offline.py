"""Public address of `iltools_datasets.replay.offline`."""

from iltools_datasets.replay.offline import OfflineDataset

__all__ = ["OfflineDataset"]
