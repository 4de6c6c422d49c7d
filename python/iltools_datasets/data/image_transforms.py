"""Pictures through transforms that were written for torchvision, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import SchemaError


def transformed(transform: Callable[[Any], Any], pictures: NDArray[np.uint8]) -> NDArray[Any]:
    """Return pictures `[B, ..., H, W, C]` as a transform makes them, in the dtype that it returns.

    It is called once for each item, with a float32 tensor `[..., C, H, W]` within [0, 1]: all steps of a window
    together, as lerobot does.

    Raises:
        MissingExtraError: torch is not installed.
        SchemaError: it returned no pictures, or such of different sizes.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_extra("torch", "image_transforms=") from error

    results: list[NDArray[Any]] = []
    for item in pictures:
        channels_first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(item, -1, -3)))
        result = np.asarray(transform(channels_first.to(torch.float32) / 255))
        if result.ndim != item.ndim or (results and result.shape != results[0].shape):
            expected = results[0].shape if results else f"{item.ndim} axes [..., C, H, W]"
            raise SchemaError(f"image_transforms: expected {expected}, found shape {list(result.shape)}")
        results.append(result)
    return np.ascontiguousarray(np.moveaxis(np.stack(results), -3, -1))
