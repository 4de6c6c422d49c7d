"""Transitions in batches: data sets, the loader for JAX, statistics and transforms. Names are found on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iltools_datasets.data.data_loader import JaxDataLoader
    from iltools_datasets.data.dataset import BatchDataset, Dataset
    from iltools_datasets.data.lerobot_config import LeRobotDatasetConfig
    from iltools_datasets.data.lerobot_dataset import LeRobotDatasetAdapter
    from iltools_datasets.data.normalize import (
        NormStats,
        compute_norm_stats,
        load_norm_stats,
        quantile_normalize,
        quantile_unnormalize,
        save_norm_stats,
        z_score_normalize,
        z_score_unnormalize,
    )
    from iltools_datasets.data.store_dataset import StoreDataset
    from iltools_datasets.data.transforms import (
        LambdaTransform,
        Normalize,
        Pad,
        Resize,
        Tokenize,
        Transform,
        TransformGroup,
    )
    from iltools_datasets.data.transition import Transition

_HOMES = {
    "BatchDataset": "dataset",
    "Dataset": "dataset",
    "JaxDataLoader": "data_loader",
    "LambdaTransform": "transforms",
    "LeRobotDatasetAdapter": "lerobot_dataset",
    "LeRobotDatasetConfig": "lerobot_config",
    "NormStats": "normalize",
    "Normalize": "transforms",
    "Pad": "transforms",
    "Resize": "transforms",
    "StoreDataset": "store_dataset",
    "Tokenize": "transforms",
    "Transform": "transforms",
    "TransformGroup": "transforms",
    "Transition": "transition",
    "compute_norm_stats": "normalize",
    "load_norm_stats": "normalize",
    "quantile_normalize": "normalize",
    "quantile_unnormalize": "normalize",
    "save_norm_stats": "normalize",
    "z_score_normalize": "normalize",
    "z_score_unnormalize": "normalize",
}

__all__ = [
    "BatchDataset",
    "Dataset",
    "JaxDataLoader",
    "LambdaTransform",
    "LeRobotDatasetAdapter",
    "LeRobotDatasetConfig",
    "NormStats",
    "Normalize",
    "Pad",
    "Resize",
    "StoreDataset",
    "Tokenize",
    "Transform",
    "TransformGroup",
    "Transition",
    "compute_norm_stats",
    "load_norm_stats",
    "quantile_normalize",
    "quantile_unnormalize",
    "save_norm_stats",
    "z_score_normalize",
    "z_score_unnormalize",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
