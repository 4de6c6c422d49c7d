"""What a slice sampler says about its batch beside the index: where slices begin and end, and what is only padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data.replay_buffers.storages import Storage, TensorStorage

from iltools_datasets.torchrl.storage import TrajectoryStorage

Coordinates = tuple[torch.Tensor, ...]


def slice_info(
    storage: Storage,
    index: Coordinates,
    lengths: torch.Tensor | int,
    num_slices: int,
    *,
    truncated_key: Any,
    init_key: Any,
    padded_length: int | None = None,
    real: torch.Tensor | None = None,
) -> dict[Any, torch.Tensor]:
    """Return TorchRL's entries for a batch of slices, one slice after another.

    Args:
        storage: the storage, of which only the flags named below are read.
        index: int64 [B] per dimension of the storage.
        lengths: steps of each slice, int64 [num_slices], or of all.
        num_slices: number of slices.
        truncated_key: where to say that a slice ends here. Beside it goes `done`, stored or truncated, and
            `terminated`, as stored. None leaves the three out.
        init_key: where to say that a slice begins here, if the storage has such flags. None leaves it out.
        padded_length: steps of each slice with its padding, if slices were padded.
        real: bool [B], what is not padding.

    Returns:
        bool tensors [B, 1], as the storage has them, and `("collector", "mask")`, bool [B], if there is padding.
    """
    device = index[0].device
    if isinstance(lengths, int):
        begins = torch.arange(num_slices, device=device) * lengths
        ends = begins + lengths - 1
    elif padded_length is not None:
        begins = torch.arange(num_slices, device=device) * padded_length
        ends = begins + (lengths.to(device) - 1).clamp(min=0)
    else:
        behind = lengths.to(device).cumsum(0)
        begins, ends = behind - lengths.to(device), behind - 1
    done_key, terminated_key = (_beside(truncated_key, name) for name in ("done", "terminated"))
    keys = [key for key in (truncated_key and done_key, truncated_key and terminated_key, init_key) if key is not None]
    stored = read_keys(storage, index, keys)
    info: dict[Any, torch.Tensor] = {}
    if truncated_key is not None:
        truncated = torch.zeros((len(index[0]), 1), dtype=torch.bool, device=device)
        truncated[ends] = True
        done, terminated = stored.get(done_key), stored.get(terminated_key)
        info[truncated_key] = truncated
        info[done_key] = truncated.clone() if done is None else done | truncated
        info[terminated_key] = torch.zeros_like(truncated) if terminated is None else terminated
    if real is not None:
        info["collector", "mask"] = real
    is_init = stored.get(init_key)
    if is_init is not None:
        marks = torch.zeros_like(is_init)
        marks[begins] = True
        info[init_key] = marks | is_init
    return info


def _beside(key: Any, name: str) -> Any:
    return (*key[:-1], name) if isinstance(key, tuple) else name


def read_keys(storage: Storage, index: Coordinates, keys: Sequence[Any]) -> dict[Any, torch.Tensor]:
    """Return the rows at `index` of those keys that the storage has, without reading the others."""
    if isinstance(storage, TrajectoryStorage):
        return storage.read_keys(index[0], keys)
    if not (isinstance(storage, TensorStorage) and isinstance(storage._storage, TensorDictBase)):
        # No way to a single column: read the rows.
        batch = storage[index]
        found = {key: batch.get(key, None) for key in keys}
        return {key: value for key, value in found.items() if value is not None}
    found = {key: storage._storage.get(key, None) for key in keys}
    return {key: column[index] for key, column in found.items() if column is not None}
