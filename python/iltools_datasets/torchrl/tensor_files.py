"""Tensors on disk: without a pickle that could run code, and never longer than their files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, is_tensor_collection
from tensordict.utils import _encode_key_for_filesystem

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


def load_memmap(directory: Path) -> TensorDictBase:
    """Return a directory that TensorDict wrote, mapped; `StateError` if it is damaged.

    A file that is shorter than `meta.json` says would be made longer, with zeros, by TensorDict itself.
    """
    try:
        _check_lengths(directory)
        return TensorDict.load_memmap(directory, allow_pickle=False)
    except StateError:
        raise
    except Exception as error:  # load_memmap raises whatever it stumbles over
        raise StateError(f"{directory}: {type(error).__name__}: {error}") from error


def _check_lengths(directory: Path) -> None:
    for key, entry in json.loads((directory / "meta.json").read_text()).items():
        if not isinstance(entry, Mapping):
            continue
        places = [directory / _encode_key_for_filesystem(key), directory / key]
        if "dtype" not in entry:
            nested = next((place for place in places if (place / "meta.json").exists()), places[0])
            if entry.get("type") == "TensorDict":
                _check_lengths(nested)
            continue
        item = torch.empty((), dtype=getattr(torch, entry["dtype"].removeprefix("torch."))).element_size()
        expected = math.prod(entry["shape"]) * item
        files = [place.with_name(f"{place.name}.memmap") for place in places]
        file = next((file for file in files if file.exists()), files[0])
        found = file.stat().st_size if file.exists() else 0
        if found != expected and not entry["is_nested"]:
            raise StateError(f"{file}: expected {expected} bytes, found {found}")


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
