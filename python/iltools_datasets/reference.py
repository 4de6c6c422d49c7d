"""Public address of `iltools_datasets.replay.reference`."""

from iltools_datasets.replay.reference import JointMapping, ReferenceManager

__all__ = ["JointMapping", "ReferenceManager"]
