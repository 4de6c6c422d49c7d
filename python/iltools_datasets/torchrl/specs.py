"""What a store holds, in TorchRL's terms: the specs of an env that would give these transitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchrl.data import Bounded, Categorical, Composite, TensorSpec, Unbounded

from iltools_datasets.store.keys import parts_of
from iltools_datasets.store.trajectory_store import TrajectoryStore

CPU = torch.device("cpu")
_WITHOUT_ORDER = (torch.uint16, torch.uint32, torch.uint64)
"""Torch does not compare these, so a spec cannot say whether a value is within its bounds."""


def specs_of(store: TrajectoryStore, dtypes: list[torch.dtype], bounds: bool) -> Composite:
    """Return the spec of one transition of a store whose keys become tensors of these dtypes."""
    measured = store.bounds() if bounds else {}
    root: dict[str, Any] = {}
    for key, field, dtype in zip(store.keys, store.layout, dtypes, strict=True):
        if dtype.is_complex:
            continue
        *branches, leaf = parts_of(key)
        content = root
        for branch in branches:
            content = content.setdefault(branch, {})
        content[leaf] = _spec(field.shape, dtype, measured.get(key))
    return _composite(root)


def _spec(shape: tuple[int, ...], dtype: torch.dtype, bounds: tuple[NDArray[Any], NDArray[Any]] | None) -> TensorSpec:
    if dtype is torch.bool:
        return Categorical(2, shape=shape, dtype=dtype, device=CPU)
    if bounds is None or dtype in _WITHOUT_ORDER:
        return Unbounded(shape=shape, dtype=dtype, device=CPU)
    low, high = (torch.from_numpy(np.array(bound)).to(dtype) for bound in bounds)
    return Bounded(low, high, shape=shape, dtype=dtype, device=CPU)


def _composite(content: dict[str, Any]) -> Composite:
    return Composite({name: _composite(x) if isinstance(x, dict) else x for name, x in content.items()}, device=CPU)
