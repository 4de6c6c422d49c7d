"""What a slice sampler says about its batch beside the index: where slices begin and end, and what is only padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torchrl.data.replay_buffers.storages import Storage, TensorStorage

Stored = dict[Any, torch.Tensor]
"""Flags at the rows of a batch, of those keys that the storage has."""


@lru_cache(maxsize=32)
def flags_of(truncated_key: Any, init_key: Any) -> Flags:
    """Return what is said under these keys."""
    return Flags(truncated_key, init_key)


class Flags:
    """TorchRL's entries for a batch of slices.

    Args:
        truncated_key: where to say that a slice ends here. Beside it goes `done`, stored or truncated, and
            `terminated`, as stored. None leaves the three out.
        init_key: where to say that a slice begins here, if the storage has such flags. None leaves it out.
    """

    def __init__(self, truncated_key: Any, init_key: Any) -> None:
        self.truncated, self.init = truncated_key, init_key
        self.done = self.terminated = None
        if truncated_key is not None:
            beside = truncated_key[:-1] if isinstance(truncated_key, tuple) else None
            self.done, self.terminated = (
                name if beside is None else (*beside, name) for name in ("done", "terminated")
            )
        self.keys = tuple(key for key in (self.done, self.terminated, init_key) if key is not None)
        """The flags of the storage that this looks at."""
        self.may_set_done = self.done is not None and self.done != init_key
        """Whether `done` may be set in the rows that came: what else is told does not look at it."""

    def info(
        self,
        stored: Stored,
        ends: torch.Tensor,
        length: int,
        real: torch.Tensor | NDArray[np.bool_] | None,
        *,
        is_done_set: bool = False,
    ) -> dict[Any, torch.Tensor]:
        """Return the entries.

        Args:
            stored: the flags at the rows of the batch, of those of `keys` that the storage has.
            ends: bool [B, 1], the last step of each slice.
            length: steps of each slice with its padding, if slices were padded.
            real: bool [B], what is not padding, if slices were padded.
            is_done_set: the stored `done` says already where slices end.

        Returns:
            bool tensors [B, 1], as the storage has them, and `("collector", "mask")`, bool [B], if there is padding.
        """
        info: dict[Any, torch.Tensor] = {}
        if self.truncated is not None:
            done, terminated = stored.get(self.done), stored.get(self.terminated)
            info[self.truncated] = ends
            if done is None:
                info[self.done] = ends.clone()
            else:
                info[self.done] = done if is_done_set else done | ends
            info[self.terminated] = torch.zeros_like(ends) if terminated is None else terminated
        if real is not None:
            info["collector", "mask"] = torch.as_tensor(real)
        is_init = stored.get(self.init)
        if is_init is not None:
            marks = torch.zeros_like(is_init)
            # A slice begins behind the end of the one before, the first one behind the last; padding comes behind ends.
            marks[ends.squeeze(-1).roll(1) if real is None else slice(None, None, length)] = True
            info[self.init] = marks | is_init
        return info


def read_keys(storage: Storage, index: tuple[torch.Tensor, ...], keys: Sequence[Any]) -> Stored:
    """Return the rows at `index` of those of the keys that the storage has, without reading others."""
    if not (isinstance(storage, TensorStorage) and isinstance(storage._storage, TensorDictBase)):
        # No way to a single column: read the rows.
        batch = storage[index]
        found = {key: batch.get(key, None) for key in keys}
        return {key: value for key, value in found.items() if value is not None}
    found = {key: storage._storage.get(key, None) for key in keys}
    return {key: column[index] for key, column in found.items() if column is not None}
