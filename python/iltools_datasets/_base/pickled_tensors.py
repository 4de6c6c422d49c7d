"""What a pickle of torch may name: tensors over storages that lie beside it. No torch is needed for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.pickled_arrays import Array, Name, checked_shape

Storages = Callable[[str, int], bytes | memoryview]
"""Takes a storage's name and its size in bytes; returns its content."""

_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
TENSOR_NAMES = {_TENSOR, _PARAMETER, "torch.Size", *(f"torch.{name}" for name in _TYPES)}


@dataclass(frozen=True, slots=True)
class Storage:
    """A tensor's numbers, without its shape."""

    values: NDArray[Any]


def storage_of(described: Any, storages: Storages) -> Storage:
    """Return the storage that a persistent id names: ("storage", type, name, device, count)."""
    if not isinstance(described, tuple) or len(described) != 5 or described[0] != "storage":
        raise ValueError("a reference to something that is no storage")
    _, kind, name, _, count = described
    code = _TYPES.get(str(kind).removeprefix("torch.")) if isinstance(kind, Name) else None
    if code is None or not isinstance(name, str) or type(count) is not int or count < 0:
        raise ValueError(f"a storage of type {kind!s:.60} is not read")
    dtype = np.dtype(code)
    content = storages(name, count * dtype.itemsize)
    if dtype == np.bool_ and np.frombuffer(content, np.uint8).max(initial=0) > 1:
        raise ValueError("bools that are neither 0 nor 1")
    return Storage(np.frombuffer(content, dtype))


def made_of_torch(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a name of `TENSOR_NAMES` makes of its arguments, as arrays; ValueError for others than data has."""
    if name == _PARAMETER and isinstance(arguments[0], Array):
        return arguments[0]
    if name == "torch.Size" and len(arguments) == 1:
        return checked_shape(arguments[0])
    if name != _TENSOR or not isinstance(arguments[0], Storage):
        raise ValueError(f"{name} of {type(arguments[0]).__name__} is not data")
    storage, offset, shape, strides = arguments[:4]
    made = Array()
    made.value = _strided(storage.values, offset, checked_shape(shape), checked_shape(strides))
    return made


def _strided(values: NDArray[Any], offset: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[Any]:
    if type(offset) is not int or offset < 0 or len(shape) != len(strides):
        raise ValueError("a tensor without offset or strides")
    count = prod(shape)
    last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    if count > values.size or (count and last >= values.size):
        raise ValueError(f"a tensor {list(shape)} over a storage of {values.size} numbers")
    if not count:
        return np.empty(shape, values.dtype)
    steps = [stride * values.itemsize for stride in strides]
    array: NDArray[Any] = np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
    return array
