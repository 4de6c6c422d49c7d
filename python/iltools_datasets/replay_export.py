"""Public address of `iltools_datasets.replay.from_archive`."""

from iltools_datasets.replay.from_archive import build_replay_from_zarr

__all__ = ["build_replay_from_zarr"]
