"""What an archive may hold: names, lengths and their order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from iltools_datasets.errors import SchemaError

TRANSITION_KEYS = frozenset(
    {
        *("action", "actions", "reward", "rewards", "observations", "next_observations"),
        *("terminated", "truncated", "done", "dones", "absorbing", "absorbings"),
    }
)
"""Keys that may have one row less than the states, because they belong to the step between two of them."""

ROWS_ATTRIBUTE, ROWS_ARE_TRANSITIONS = "rows", "transitions"
"""An attribute of a trajectory, and its value where each row is a step whose next state nobody recorded."""

PACKED_INDEX_KEYS = ("start", "length")
"""Arrays of a packed motion that say where each trajectory's rows lie; no trajectory may use these names."""

_NUMERIC = "biuf"
_MAX_NAME = 255
_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape `[T, ...]` and native dtype of one array of a trajectory."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Task:
    """One (dataset_source, motion), numbered in natural order."""

    task_id: int
    dataset_source: str
    motion: str

    @property
    def name(self) -> str:
        """`<dataset_source>/<motion>`."""
        return f"{self.dataset_source}/{self.motion}"


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One clip: its ids, its place in the archive and what it holds.

    Attributes:
        task_id: number of its task.
        traj_id: number within the task, restarting at 0, natural order of the names.
        name: its name in the archive.
        path: `<dataset_source>/<motion>/<name>`.
        num_states: T, the number of states, or of rows.
        keys: the arrays, each `[T, ...]` or, for a key of `TRANSITION_KEYS`, possibly `[T - 1, ...]`.
        attributes: what its source said about it (rate, joint names, quaternion order, provenance).
        misfit: what does not fit together (an array of another length), None where all does. Whoever uses the arrays
            together has to look; each by itself can be read.
    """

    task_id: int
    traj_id: int
    name: str
    path: str
    num_states: int
    keys: Mapping[str, ArraySpec]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    misfit: str | None = None

    @property
    def lacks_next(self) -> bool:
        """Whether each row is a transition whose next state is not known, so that rows do not follow each other."""
        return self.attributes.get(ROWS_ATTRIBUTE) == ROWS_ARE_TRANSITIONS

    @property
    def num_transitions(self) -> int:
        """T - 1, or T where each row is a transition by itself."""
        return self.num_states if self.lacks_next else self.num_states - 1

    @property
    def dataset_source(self) -> str:
        """First part of its path."""
        return self.path.split("/")[0]

    @property
    def motion(self) -> str:
        """Second part of its path."""
        return self.path.split("/")[1]

    @property
    def trajectory(self) -> str:
        """Its name, the last part of its path."""
        return self.name

    @property
    def length(self) -> int:
        """T, the number of states."""
        return self.num_states


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts `traj2` before `traj10`; names that differ in leading zeros only keep a fixed order."""
    return [int(part) if part.isascii() and part.isdigit() else part for part in _DIGITS.split(name)], name


def check_name(name: object, what: str) -> str:
    """Return `name` if it can be one path component on every file system and object store, else raise SchemaError."""
    if not isinstance(name, str):
        raise SchemaError(f"{what} must be a string, got {type(name).__name__}")
    if not name or name in (".", "..") or name.startswith("__") or name == "zarr.json" or name.startswith(".z"):
        raise SchemaError(f"{what} {name!r} cannot be a name in a Zarr archive")
    if any(character in "/\\\0" or not character.isprintable() for character in name):
        raise SchemaError(f"{what} {name!r} holds a slash, a backslash or an unprintable character")
    if len(name.encode()) > _MAX_NAME:
        raise SchemaError(
            f"{what} {name[:40]!r}... is {len(name.encode())} bytes long, at most {_MAX_NAME} are possible"
        )
    return name


def is_per_state(dtype: np.dtype[Any] | None, shape: tuple[int, ...]) -> bool:
    """Tell whether an array can be a row per state: numeric or bool, with a time axis."""
    return dtype is not None and dtype.kind in _NUMERIC and len(shape) >= 1


def count_states(lengths: Mapping[str, int], where: str) -> int:
    """Return T of a trajectory from the first dimension of each of its arrays.

    All arrays must have T rows; a key of `TRANSITION_KEYS` may have T - 1. Raises SchemaError naming `where` and the
    first key that does not fit.
    """
    if not lengths:
        raise SchemaError(f"{where}: no array with a row per state")
    states, misfit = longest_and_misfit(lengths)
    if misfit is not None:
        raise SchemaError(f"{where}: {misfit}")
    return states


def longest_and_misfit(lengths: Mapping[str, int]) -> tuple[int, str | None]:
    """Return T of a trajectory as its longest array has it, and what is wrong with the first key that does not fit."""
    states = {key: rows for key, rows in lengths.items() if key not in TRANSITION_KEYS}
    reference, expected = max((states or lengths).items(), key=lambda item: item[1])
    for key, rows in lengths.items():
        if rows != expected and not (key in TRANSITION_KEYS and rows == expected - 1):
            allowed = f"{expected} or {expected - 1}" if key in TRANSITION_KEYS else str(expected)
            return expected, f"{key!r} has {rows} rows, expected {allowed} like {reference!r}"
    return expected, None
