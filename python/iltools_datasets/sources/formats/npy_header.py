"""The header of a `.npy`, alone or within an `.npz`."""

from __future__ import annotations

import tokenize
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of the array that follows, and leave the file there.

    Raises ValueError for a header that is none: numpy lets errors of Python's tokenizer through.
    """
    try:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
    except (tokenize.TokenError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"a damaged header: {error or type(error).__name__}") from error
    return shape, dtype
