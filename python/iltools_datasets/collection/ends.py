"""What a caller says of ends: which envs, how, and what they saw last; checked before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integers
from iltools_datasets.collection.recording import Recording
from iltools_datasets.collection.rows import as_rows
from iltools_datasets.errors import OutOfRangeError, SchemaError

TERMINATED, TRUNCATED, KNOWN = 1, 2, 4
"""Bits of the native recorder: how an episode ended, and whether its last next state is known."""


def checked_envs(env_ids: Any, running: Sequence[int], num_envs: int) -> NDArray[np.int64]:
    """Return ids, or those of a bool mask `[num_envs]`, all of them running and none twice; else `OutOfRangeError`."""
    plain = env_ids.detach().cpu().numpy() if isinstance(env_ids, torch.Tensor) else np.asarray(env_ids)
    if plain.dtype == np.bool_:
        if plain.shape != (num_envs,):
            raise OutOfRangeError(f"env_ids: expected a mask of {num_envs} envs, found {list(plain.shape)}")
        plain = np.flatnonzero(plain)
    ids = checked_integers("env_ids", plain if plain.size else np.empty(0, dtype=np.int64)).reshape(-1)
    if len(np.unique(ids)) != len(ids):
        raise OutOfRangeError(f"env_ids: an env is named twice in {ids.tolist()}")
    idle = sorted(set(ids.tolist()) - set(running))
    if idle:
        raise OutOfRangeError(f"env_ids: no episode is running in env {idle[0]}")
    return ids


def final_rows(
    given: tuple[Any, Any], ids: NDArray[np.int64], recording: Recording, float_dtype: str | None
) -> list[bytes]:
    """Return the last rows of these envs, the bytes of `[len(ids), width]` per state column; none if none are given."""
    states = [column for column in recording.columns if column.is_state]
    if all(value is None for value in given):
        return []
    for argument, value in zip(("observations", "student_observations"), given, strict=True):
        if (value is not None) != any(column.argument == argument for column in states):
            raise SchemaError(f"final_{argument}: expected exactly where {argument} are recorded, with the other ones")
    rows = []
    for column, value in zip(states, given, strict=False):
        argument = f"final_{column.argument}"
        found = as_rows(argument, value, column.width, float_dtype)
        if len(found) == recording.num_envs:
            found = found[ids]
        if len(found) != len(ids) or str(found.dtype) != column.dtype:
            raise SchemaError(
                f"{argument}: expected {column.dtype} [{len(ids)} or {recording.num_envs}, {column.width}], found "
                f"{found.dtype} {list(found.shape)}"
            )
        rows.append(found.tobytes())
    return rows


def how_of(terminated: Any, truncated: Any, ids: NDArray[np.int64], num_envs: int) -> NDArray[np.int64]:
    """Return how each of these episodes ended, in the recorder's bits: `TERMINATED` unless cut, `TRUNCATED`."""
    cut = flags_of("truncated", truncated, ids, num_envs, default=np.zeros(len(ids), dtype=bool))
    fell = flags_of("terminated", terminated, ids, num_envs, default=~cut)
    return fell * TERMINATED + cut * TRUNCATED


def names_of(tasks: Any, count: int, default: str) -> list[str]:
    """Return a task's name per id, from one for all or one per id; `SchemaError` for anything else."""
    names = [default if tasks is None else tasks] * count if tasks is None or isinstance(tasks, str) else list(tasks)
    if len(names) != count or not all(isinstance(name, str) and name for name in names):
        raise SchemaError(f"tasks: expected one name, or {count}, found {tasks!r}")
    return names


def flags_of(
    argument: str, value: Any, ids: NDArray[np.int64], num_envs: int, default: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return a flag per id, from one for all, one per id or one per env; `SchemaError` for anything else."""
    if value is None:
        return default
    flags = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    if flags.dtype != np.bool_ and not np.isin(flags, (0, 1)).all():
        raise SchemaError(f"{argument}: expected bools, found {flags.dtype}")
    if flags.shape == (num_envs,) and num_envs != len(ids):
        flags = flags[ids]
    if flags.shape not in ((), (len(ids),)):
        raise SchemaError(f"{argument}: expected one flag, or {len(ids)}, or {num_envs}, found {list(flags.shape)}")
    return np.broadcast_to(flags.astype(bool), (len(ids),))
