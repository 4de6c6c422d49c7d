"""How a state is put into storage, sampler and writer so that a part which refuses it leaves all others as they were.

What is of this package checks a state whole before it changes. TorchRL's parts change while they read, so small ones
are put back, and storages, too large for that, are compared with the state before.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, is_tensor_collection
from torchrl.data.replay_buffers.checkpointers import TensorStorageCheckpointer
from torchrl.data.replay_buffers.storages import Storage, TensorStorage

from iltools_datasets._base.files import read_json
from iltools_datasets._base.integers import checked_integer
from iltools_datasets._base.saved_state import Changes, TakeOver
from iltools_datasets.errors import StateError
from iltools_datasets.torchrl.samplers.base import STATE_FILE, SeededSampler
from iltools_datasets.torchrl.samplers.torchrl_state import torchrl_state_at
from iltools_datasets.torchrl.storage import StoreReferenceCheckpointer, TrajectoryStorage
from iltools_datasets.torchrl.tensor_files import load_memmap


def prepare_state(changes: Changes, part: Any, state: Any) -> None:
    """Have `changes` load the state that `part.state_dict()` gave; raises what the part raises, or `StateError`."""
    if isinstance(part, SeededSampler) and part.is_torchrl_state(state):
        changes.add(part.prepare_torchrl(state))
    elif isinstance(part, SeededSampler | TrajectoryStorage):
        changes.add(part.prepare_load(state))
    elif isinstance(part, TensorStorage):
        _check_tensors(part, state)
        changes.add(lambda: part.load_state_dict(state))
    else:
        changes.add(lambda: part.load_state_dict(state), _undo_of(part))


def prepare_directory(changes: Changes, part: Any, path: Path, of_torchrl: bool) -> None:
    """Have `changes` load what `part.dumps(path)` wrote, or TorchRL's part in its place; raises likewise."""
    # What TensorDict keeps of other objects: its loader, which TorchRL's parts call, would run it.
    pickled = next((file for name in ("other.pickle", "pickle.pkl") for file in path.rglob(name)), None)
    if pickled is not None:
        raise StateError(f"{pickled}: a pickle, which is not run here")
    if isinstance(part, SeededSampler):
        is_ours = not of_torchrl or (path / STATE_FILE).exists()
        changes.add(part.prepare_load(part.saved_at(path)) if is_ours else part.prepare_torchrl(torchrl_state_at(path)))
    elif isinstance(part, TrajectoryStorage) and isinstance(part.checkpointer, StoreReferenceCheckpointer):
        changes.add(part.prepare_load(part.checkpointer.saved_at(path)))
    elif isinstance(part, TensorStorage):
        if type(part.checkpointer) is TensorStorageCheckpointer:
            _check_directory(part, path)
        changes.add(lambda: part.loads(path))
    else:
        changes.add(lambda: part.loads(path), _undo_of(part))


def prepare_module(changes: Changes, module: torch.nn.Module, state: Any) -> None:
    """Have `changes` load the state of a buffer's transforms."""
    before = copy.deepcopy(module.state_dict())
    changes.add(lambda: module.load_state_dict(state), lambda: module.load_state_dict(before))


def _undo_of(part: Any) -> TakeOver:
    try:
        before = part.state_dict()
    except NotImplementedError:  # somebody's sampler without a state; what it loads is its own affair
        return lambda: None
    return lambda: part.load_state_dict(before)


def _check_tensors(storage: TensorStorage, state: Any) -> None:
    """Compare a storage with a state, so that loading it only copies."""
    expected = {"_storage", "initialized", "_len"}
    if not isinstance(state, Mapping) or not expected <= state.keys():
        raise StateError(f"state of {_kind(storage)}: expected {sorted(expected)}, found {_keys(state)}")
    data = state["_storage"]
    if isinstance(data, Mapping):
        data = TensorDict().load_state_dict(data, strict=False) if data else None
    elif not isinstance(data, torch.Tensor):
        raise StateError(f"state of {_kind(storage)}: _storage: expected tensors, found {type(data).__name__}")
    if type(state["initialized"]) is not bool:
        raise StateError(f"state of {_kind(storage)}: initialized: expected true or false")
    _check_data(storage, data, state["_len"])


def _check_directory(storage: TensorStorage, path: Path) -> None:
    metadata = read_json(path / "storage_metadata.json")
    if not isinstance(metadata, Mapping) or not {"is_pytree", "len"} <= metadata.keys():
        raise StateError(f"{path / 'storage_metadata.json'}: expected is_pytree and len, found {_keys(metadata)}")
    if not metadata["is_pytree"] and not storage.checkpointer._load_hooks:
        _check_data(storage, load_memmap(path), metadata["len"])


def _check_data(storage: TensorStorage, data: torch.Tensor | TensorDictBase | None, length: Any) -> None:
    name = f"state of {_kind(storage)}"
    found = _shapes(data)
    rows = min((math.prod(shape[: storage.ndim]) for shape in found.values()), default=0)
    checked_integer(f"{name}: _len", length, low=0, high=rows, outside=StateError, other=StateError)
    if not storage.initialized:
        return
    expected = _shapes(storage._storage)
    if found != expected:
        differing = sorted(found.items() ^ expected.items(), key=str)
        raise StateError(f"{name}: expected {_some(expected, differing)}, found {_some(found, differing)}")


def _shapes(data: Any) -> dict[Any, tuple[int, ...]]:
    if is_tensor_collection(data):
        return {key: tuple(leaf.shape) for key, leaf in data.items(include_nested=True, leaves_only=True)}
    return {} if data is None else {(): tuple(data.shape)}


def _some(shapes: Mapping[Any, tuple[int, ...]], differing: list[tuple[Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"{key!r} {list(shape)}" for key, shape in differing[:4] if shapes.get(key) == shape) or "nothing"


def _kind(storage: Storage) -> str:
    return type(storage).__name__


def _keys(state: Any) -> str:
    return repr(sorted(state, key=str))[:80] if isinstance(state, Mapping) else type(state).__name__
