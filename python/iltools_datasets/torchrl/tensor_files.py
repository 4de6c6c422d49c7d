"""Tensors on disk without a pickle that could run code: torch loads the files with `weights_only=True`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, is_tensor_collection

from iltools_datasets.errors import StateError


def save_tensors(value: Any, file: Path) -> None:
    """Write nested dicts, lists, tuples and TensorDicts of tensors and numbers; `TypeError` for anything else."""
    torch.save(_plain(value), file)


def load_tensors(file: Path) -> Any:
    """Return what `save_tensors` wrote; `StateError` if it is something else."""
    try:
        return _rebuilt(torch.load(file, weights_only=True))
    except Exception as error:  # torch.load raises whatever it stumbles over
        raise StateError(f"{file}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone().as_subclass(torch.Tensor)
    if isinstance(value, TensorDict):
        entries = {key: _plain(entry) for key, entry in value.items()}
        device = None if value.device is None else str(value.device)
        return {"tensordict": entries, "batch_size": list(value.batch_size), "device": device}
    if isinstance(value, Mapping) and not is_tensor_collection(value):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(entry) for entry in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} would have to be saved as a pickle; only tensors and numbers can be")


def _rebuilt(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tensordict", "batch_size", "device"}:
            entries = {key: _rebuilt(entry) for key, entry in value["tensordict"].items()}
            return TensorDict(entries, batch_size=value["batch_size"], device=value["device"])
        return {key: _rebuilt(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_rebuilt(entry) for entry in value)
    return value
