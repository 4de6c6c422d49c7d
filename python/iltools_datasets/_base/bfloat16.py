"""Numbers of bfloat16, which numpy has only with JAX's dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra


def as_bfloat16(bits: NDArray[np.uint16]) -> NDArray[Any]:
    """Return bfloat16 values of the bits a store keeps them as, without a copy.

    Raises MissingExtraError where JAX's dtypes are not installed.
    """
    try:
        import ml_dtypes
    except ImportError as error:
        raise missing_extra("jax", "bfloat16 in arrays of numpy") from error
    return bits.view(ml_dtypes.bfloat16)
