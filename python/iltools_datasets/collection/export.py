"""A recording as a file that others train from, or as a store; and both read back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets._base.files import replaced_file
from iltools_datasets.collection.columns import SIGMA
from iltools_datasets.collection.expert_file import StreamedArray, check_suffix, load_rollouts, write_npy
from iltools_datasets.collection.grown_steps import GrownSteps
from iltools_datasets.collection.histories import FrameStack, HistoryRule
from iltools_datasets.collection.recording import Recording
from iltools_datasets.errors import ArgumentError, SchemaError
from iltools_datasets.sources.formats.expert_file import ROLLOUT_KEYS
from iltools_datasets.store.trajectory_store import TrajectoryStore

__all__ = ["check_suffix", "load", "write_file", "write_store"]


def write_file(recording: Recording, path: Path, metadata: dict[str, Any], only_valid: bool) -> None:
    """Write `[T, N, width]` arrays as recorded, or of the valid rows alone `[rows, 1, width]`, to a .npy or .pt."""
    found = GrownSteps(recording) if recording.place.grows else recording
    steps, envs, valid = recording.core.num_steps, recording.num_envs, recording.core.num_rows
    all_valid = valid == steps * envs
    if not all_valid and not only_valid:
        warnings.warn(
            f"{path}: {steps * envs - valid} rows are no data and are written, marked by valid_mask, which some "
            "consumers ignore; only_valid=True leaves them out",
            stacklevel=3,
        )
    shape = (valid, 1) if only_valid else (steps, envs)
    if 0 in shape:
        raise SchemaError(f"{path}: no valid row was recorded")
    arrays = {}
    for argument in ROLLOUT_KEYS:
        number = recording.number_of("actions" if argument == "action_mean" else argument)
        given = recording.number_of(argument)
        if argument == "student_observations" and recording.history is not None:
            frames = 0 if given is None else given  # the observation comes first
            pieces = _stacked(found, steps, frames, recording.history, only_valid)
            dtype = np.dtype(recording.columns[frames].dtype)
            arrays[argument] = StreamedArray((*shape, recording.history.width), dtype, pieces)
        elif (number := number if given is None else given) is not None:
            column = recording.columns[number]
            pieces = _pieces(found, steps, number, only_valid)
            arrays[argument] = StreamedArray((*shape, column.width), np.dtype(column.dtype), pieces)
        elif argument == "action_sigma":
            width = arrays["actions"].shape[2]
            row = np.full((1, shape[1], width), SIGMA)
            arrays[argument] = StreamedArray((*shape, width), row.dtype, (row for _ in range(shape[0])))
    if not all_valid and not only_valid:
        masks = (found.mask(step)[None] for step in range(steps))
        arrays["valid_mask"] = StreamedArray((steps, envs), np.dtype(bool), masks)
    metadata = {**metadata, "has_valid_mask": "valid_mask" in arrays}
    if path.suffix == ".npy":
        write_npy(path, arrays, metadata)
        return
    held: dict[str, Any] = {key: _tensor(array) for key, array in arrays.items()}
    with replaced_file(path) as file:
        torch.save({**held, "metadata": metadata}, file)


def write_store(recording: Recording, path: Path, attributes: str) -> None:
    """Write a store of all episodes, in the order of their ends; those that run are cut.

    Raises ArgumentError for one whose store grows already: what that has taken out of the journal is gone from there.
    """
    if recording.place.grows:
        raise ArgumentError(
            f"{path}: the store of this recording grows at {recording.place.directory}: flush and open that one, or "
            "copy it once it is closed"
        )
    recording.core.end_running()
    if not recording.core.num_episodes:
        raise SchemaError(f"{path}: no episode is over")
    recording.core.write_store(_core.StoreWriter(str(path), False, attributes))


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Return a file's or a store's arrays as tensors `[T, N, width]`, of a store `[rows, 1, width]`, and `metadata`."""
    if path.is_dir() or not path.suffix:
        store = TrajectoryStore.open(path)
        keys = {argument: key for argument, key in ROLLOUT_KEYS.items() if key in store.keys}
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


def _pieces(found: Recording | GrownSteps, steps: int, column: int, only_valid: bool) -> Iterator[NDArray[Any]]:
    for step in range(steps):
        rows = found.step(step, column)
        yield rows[found.mask(step), None] if only_valid else rows[None]


def _stacked(
    found: Recording | GrownSteps, steps: int, column: int, rule: HistoryRule, only_valid: bool
) -> Iterator[NDArray[Any]]:
    """Yield students' observations step by step, out of their frames; zeros where a row is no data."""
    stack = FrameStack(rule)
    begins = found.begins()
    begins = begins[np.argsort(begins[:, 1], kind="stable")]
    for step in range(steps):
        first, last = np.searchsorted(begins[:, 1], [step, step + 1])
        frame, mask = found.step(step, column), found.mask(step)
        begun = np.zeros(len(frame), dtype=bool)
        begun[begins[first:last, 0]] = True
        rows = stack.observation(frame, begun)
        stack.keep(frame, begun)
        rows[~mask] = 0
        yield rows[mask, None] if only_valid else rows[None]


def _tensor(array: StreamedArray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(list(array.pieces)))
