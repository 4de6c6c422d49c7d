"""Transitions in batches: data sets, the loader for JAX, statistics and transforms. Names are found on first use."""

from typing import TYPE_CHECKING

from iltools_datasets._base.lazy_names import names_on_first_use

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

__getattr__, __dir__ = names_on_first_use(__name__, _HOMES)
