"""The state of TorchRL's `SamplerWithoutReplacement`: the rows that are left of the epoch, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets.errors import StateError
from iltools_datasets.torchrl.tensor_files import load_memmap

_KIND = "TorchRL's SamplerWithoutReplacement"
_FIELDS = ("len_storage", "_sample_list", "drop_last", "_ran_out")


class EpochState(dict[str, Any]):
    """A state of ours that TorchRL's sampler can load: its fields are there when they are asked for.

    They take 8 bytes per row that is left, so they are not in JSON, nor in a pickle where the data is not in it either,
    but only referred to. In other pickles they are plain entries.
    """

    def __init__(self, content: Mapping[str, Any], rest: Callable[[], torch.Tensor] | None) -> None:
        super().__init__(content)
        self._rest = rest

    def __missing__(self, field: str) -> Any:
        if field == "len_storage":
            return self["total"]
        if field == "_ran_out":
            return self["ran_out"]
        if field == "_sample_list":
            return None if self._rest is None else self._rest()
        raise KeyError(field)

    def __deepcopy__(self, memo: dict[int, Any]) -> EpochState:
        return EpochState(self, self._rest)

    def __reduce__(self) -> tuple[Any, ...]:
        theirs = {} if self["store"] else {field: self[field] for field in _FIELDS}
        return dict, ({**self, **theirs},)


def rest_of_epoch(total: int, seed: int, epoch: int, position: int, shuffle: bool) -> torch.Tensor:
    """Return the elements that are left of an epoch, in their order, int64 [n]."""
    stream = _core.EpochShuffle(total, seed, epoch, position, shuffle)
    return torch.from_numpy(stream.next_within_epoch(total - position))


def is_epoch_state(state: Any) -> bool:
    """Whether this is a state that TorchRL's sampler wrote."""
    return isinstance(state, Mapping) and "kind" not in state and all(field in state for field in _FIELDS)


def checked_epoch_state(state: Mapping[str, Any]) -> tuple[bool, bool, int, NDArray[np.int64] | None]:
    """Return `drop_last`, `ran_out`, the number of elements, and those that are left, int64 [n], None before the first.

    Raises `StateError` where they cannot be.
    """
    try:
        drop_last, ran_out, total = (
            bool(state["drop_last"]),
            bool(state["_ran_out"]),
            int(state["len_storage"]),
        )
        rest = None if state["_sample_list"] is None else torch.as_tensor(state["_sample_list"]).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise StateError(f"state of {_KIND}: {error}") from error
    if rest is None:
        return drop_last, ran_out, total, None
    if rest.dtype is not torch.int64 or rest.ndim != 1 or len(rest) > total:
        raise StateError(
            f"state of {_KIND}: _sample_list: expected at most {total} integers, found {rest.dtype} {list(rest.shape)}"
        )
    if len(rest) and not 0 <= int(rest.min()) <= int(rest.max()) < total:
        raise StateError(f"state of {_KIND}: _sample_list: expected integers within 0..={total - 1}")
    return drop_last, ran_out, total, rest.numpy()


def torchrl_state_at(path: Path) -> dict[str, Any]:
    """Return what a sampler of TorchRL's wrote into the directory `path`; one that has no state makes none."""
    if not (path / "meta.json").exists():
        return {}
    found = dict(load_memmap(path).to_dict())
    # A TensorDict has no place for a list that was not begun.
    return {"_sample_list": None, **found} if "len_storage" in found else found
