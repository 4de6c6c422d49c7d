"""A recording as a file that others train from, or as a store; and both read back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iltools_datasets._base.files import replaced_file
from iltools_datasets.collection.expert_file import StreamedArray, check_suffix, load_rollouts, write_npy
from iltools_datasets.collection.recording import Recording
from iltools_datasets.collection.rows import KEYS
from iltools_datasets.errors import SchemaError
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.trajectory_store import TrajectoryStore

__all__ = ["check_suffix", "end_running", "load", "write_file", "write_store"]

_SIGMA = np.float32(0.01)
"""Where the policy gives no deviation."""
_TRUNCATED = 2
_TASK = "expert"


def end_running(recording: Recording) -> None:
    """Cut the episodes that run; their last next state is not known."""
    running = recording.core.running
    if running:
        recording.core.end(running, [_TRUNCATED] * len(running), [])


def write_file(recording: Recording, path: Path, metadata: dict[str, Any], only_valid: bool) -> None:
    """Write `[T, N, width]` arrays as recorded, or of the valid rows alone `[rows, 1, width]`, to a .npy or .pt."""
    steps, envs = recording.core.num_steps, recording.num_envs
    masks = np.stack([recording.mask(step) for step in range(steps)])
    all_valid = bool(masks.all())
    if not all_valid and not only_valid:
        warnings.warn(
            f"{path}: {int((~masks).sum())} rows are no data and are written, marked by valid_mask, which some "
            "consumers ignore; only_valid=True leaves them out",
            stacklevel=3,
        )
    shape = (int(masks.sum()), 1) if only_valid else (steps, envs)
    if 0 in shape:
        raise SchemaError(f"{path}: no valid row was recorded")
    arrays = {}
    for argument in KEYS:
        found = [number for number, column in enumerate(recording.columns) if column.argument == argument]
        if found or argument == "action_mean":
            number = found[0] if found else _number_of(recording, "actions")
            column = recording.columns[number]
            pieces = _pieces(recording, number, masks if only_valid else None)
            arrays[argument] = StreamedArray((*shape, column.width), np.dtype(column.dtype), pieces)
        elif argument == "action_sigma":
            width = recording.columns[_number_of(recording, "actions")].width
            row = np.full((1, shape[1], width), _SIGMA)
            arrays[argument] = StreamedArray((*shape, width), row.dtype, (row for _ in range(shape[0])))
    if not all_valid and not only_valid:
        arrays["valid_mask"] = StreamedArray.whole(masks)
    metadata = {**metadata, "has_valid_mask": "valid_mask" in arrays}
    if path.suffix == ".npy":
        write_npy(path, arrays, metadata)
        return
    held: dict[str, Any] = {key: _tensor(array) for key, array in arrays.items()}
    with replaced_file(path) as file:
        torch.save({**held, "metadata": metadata}, file)


def write_store(recording: Recording, builder: StoreBuilder, boundaries_known: bool) -> None:
    """Add every episode that is over to a store, in the order of their ends.

    An episode of L rows is L transitions. Its last next state is what the env said, or else its last one once more, and
    `next_known` is False there. Where it is not known which episodes ended, observations belong to transitions and have
    no next.
    """
    arguments = [column.argument for column in recording.columns]
    if "action_mean" not in arguments:
        builder.add_alias("action_mean", "action")
    for flag in ("terminated", "truncated"):
        builder.add_alias(flag, ("next", flag))
    count = 0
    for episode in recording.episodes():
        states: dict[Any, NDArray[Any]] = {}
        transitions: dict[Any, NDArray[Any]] = {}
        for number, column in enumerate(recording.columns):
            rows = recording.rows(episode, number)
            if column.is_state and boundaries_known:
                states[column.key] = rows
            else:
                transitions[column.key] = rows[: episode.rows]
        if "action_sigma" not in arguments:
            transitions["action_sigma"] = np.full_like(transitions["action"], _SIGMA, dtype=np.float32)
        transitions["env_id"] = np.full((episode.rows, 1), episode.env, dtype=np.int64)
        if boundaries_known:
            transitions["next_known"] = np.ones((episode.rows, 1), dtype=bool)
            transitions["next_known"][-1] = episode.next_known
        for flag, holds in (("terminated", episode.terminated), ("truncated", episode.truncated)):
            transitions["next", flag] = np.zeros((episode.rows, 1), dtype=bool)
            transitions["next", flag][-1] = holds and boundaries_known
        transitions["next", "done"] = transitions["next", "terminated"] | transitions["next", "truncated"]
        builder.add(0, count, states, transitions, f"env{episode.env}/{episode.first}", _TASK)
        count += 1
    if not count:
        raise SchemaError(f"{builder.path}: no episode is over")


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Return a file's or a store's arrays as tensors `[T, N, width]`, of a store `[rows, 1, width]`, and `metadata`."""
    if path.is_dir() or not path.suffix:
        store = TrajectoryStore.open(path)
        keys = {argument: key for argument, key in KEYS.items() if key in store.keys}
        rows = store.gather(np.arange(len(store)), list(keys.values()))
        held: dict[str, Any] = {
            argument: torch.from_numpy(rows[key]).unsqueeze(1).to(device) for argument, key in keys.items()
        }
        metadata = {"num_trajectories": store.num_trajectories, "num_steps": len(store), "has_valid_mask": False}
        return {**held, "metadata": metadata}
    rollouts = load_rollouts(path)
    # The file's bytes are mapped read-only, and torch has no such tensors.
    held = {key: torch.from_numpy(array.copy()).to(device) for key, array in rollouts.arrays.items()}
    if rollouts.valid is not None:
        held["valid_mask"] = torch.from_numpy(rollouts.valid.copy()).to(device)
    return {**held, "metadata": dict(rollouts.metadata)}


def _number_of(recording: Recording, argument: str) -> int:
    return next(number for number, column in enumerate(recording.columns) if column.argument == argument)


def _pieces(recording: Recording, column: int, masks: NDArray[np.bool_] | None) -> Iterator[NDArray[Any]]:
    for step in range(recording.core.num_steps):
        rows = recording.step(step, column)
        yield rows[None] if masks is None else rows[masks[step], None]


def _tensor(array: StreamedArray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(list(array.pieces)))
