"""TorchRL storages and samplers over the store, and TorchRL's own with a native core: change the import line."""

from iltools_datasets._base.extras import missing_extra

try:
    import tensordict  # noqa: F401
    import torch  # noqa: F401
    import torchrl  # noqa: F401
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.torchrl") from error

from iltools_datasets.store.env_cursors import EnvCursors
from iltools_datasets.torchrl.buffer import TensorDictReplayBuffer
from iltools_datasets.torchrl.lazy import LazyMemmapStorage, LazyTensorStorage
from iltools_datasets.torchrl.samplers.elements import RandomSampler, SamplerWithoutReplacement
from iltools_datasets.torchrl.samplers.segments import (
    AssignedUniformSampler,
    EpochUniformSampler,
    SequentialPerEnvSampler,
)
from iltools_datasets.torchrl.samplers.slices import EveryWindowSampler, SliceSampler, SliceSamplerWithoutReplacement
from iltools_datasets.torchrl.storage import TrajectoryStorage

__all__ = [
    "AssignedUniformSampler",
    "EnvCursors",
    "EpochUniformSampler",
    "EveryWindowSampler",
    "LazyMemmapStorage",
    "LazyTensorStorage",
    "RandomSampler",
    "SamplerWithoutReplacement",
    "SequentialPerEnvSampler",
    "SliceSampler",
    "SliceSamplerWithoutReplacement",
    "TensorDictReplayBuffer",
    "TrajectoryStorage",
]
