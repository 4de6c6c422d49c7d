"""What a sampler says of a batch, put into the batch as TorchRL's `TensorDictReplayBuffer` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import is_tensor_collection, is_tensorclass
from tensordict.utils import expand_as_right
from torchrl.data.replay_buffers.utils import _to_torch


def put_info(data: Any, info: Mapping[Any, Any], kept: str | None = None) -> None:
    """Set the entries of `info` in a batch: as tensors, on its device, with all its leading dimensions.

    Args:
        data: the batch.
        info: what came with the index, and the index itself; a tuple of indices, one per dimension of the storage,
            becomes their last dimension.
        kept: an entry that the data has a column of, and that stays.

    Raises:
        RuntimeError: an entry does not fit, as where a transform changed the number of rows; or the batch is none.
    """
    if not is_tensor_collection(data):
        raise RuntimeError("Cannot include info in non-tensordict data")
    if is_tensorclass(data):
        return
    batch_size, device, is_locked = data.batch_size, data.device, data.is_locked
    if is_locked:
        data.unlock_()
    for key, value in info.items():
        if key == kept:
            continue
        if key == "index" and isinstance(value, tuple):
            value = value[0].unsqueeze(-1) if len(value) == 1 else torch.stack(value, -1)
        if (
            type(value) is torch.Tensor
            and value.shape[: len(batch_size)] == batch_size
            and (device is None or value.device == device)
        ):
            # What fits needs no further check.
            path = key if isinstance(key, tuple) else (key,)
            data._set_tuple(path, value, validated=True, inplace=False, non_blocking=False)
        else:
            _convert_and_set(data, key, value)
    if is_locked:
        data.lock_()


def _convert_and_set(data: Any, key: Any, value: Any) -> None:
    try:
        value = _to_torch(value, data.device)
        data.set(key, expand_as_right(value, data) if value.ndim < data.ndim else value)
    except RuntimeError as error:
        raise RuntimeError(
            f"entry {key!r} of the sampler does not fit the batch: shape {list(value.shape)}, the batch has "
            f"{list(data.batch_size)}; probably a transform changed the number of rows. With return_info=True a "
            "ReplayBuffer (not TensorDictReplayBuffer) returns such entries beside the batch"
        ) from error
