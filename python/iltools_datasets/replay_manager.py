"""Public address of `iltools_datasets.replay.manager`."""

from iltools_datasets.replay.manager import (
    AssignedUniformSampler,
    EnvAssignment,
    ExpertReplayManager,
    ExpertReplaySpec,
    SequentialPerEnvSampler,
)

__all__ = [
    "AssignedUniformSampler",
    "EnvAssignment",
    "ExpertReplayManager",
    "ExpertReplaySpec",
    "SequentialPerEnvSampler",
]
