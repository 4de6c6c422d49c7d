"""Roll-outs of an expert in one `.npy`: a dictionary of `[T, N, ...]` arrays, as MOSAIC's collector saves it.

Numpy writes such a dictionary as a pickle, which is a program. It is read as data (`_base.pickled_data`): nothing it
names is imported or called, and its arrays stay in the file until they are asked for.
"""

from __future__ import annotations

import mmap
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.pickled_data import read_pickled_data
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.sources.formats.npy_header import read_npy_header

__all__ = ["REQUIRED_KEYS", "ROLLOUT_KEYS", "Rollouts", "check_rollouts", "holds_rollouts", "read_rollouts"]

ROLLOUT_KEYS = {
    "observations": "observation",
    "student_observations": "student_observation",
    "actions": "action",
    "action_mean": "action_mean",
    "action_sigma": "action_sigma",
}
"""Arrays `[T, N, width]` of the file -> what an archive and a store call them."""
REQUIRED_KEYS = ("observations", "actions")
_OTHERS = ("valid_mask", "metadata")
_HEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What N envs did over T steps.

    Attributes:
        arrays: key of `ROLLOUT_KEYS` -> `[T, N, width]`, read-only views of the file.
        valid: bool [T, N], False where a row is no data; None if the file does not say.
        metadata: what the file says of itself; nothing here is believed.
        unknown: what else the dictionary holds, which is not looked at.
    """

    arrays: Mapping[str, NDArray[Any]]
    valid: NDArray[np.bool_] | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(T, N)."""
        steps, envs = self.arrays[REQUIRED_KEYS[0]].shape[:2]
        return steps, envs


def holds_rollouts(path: Path) -> bool:
    """Tell from the first bytes whether a file is such a dictionary; it may still be damaged."""
    if path.suffix.lower() != ".npy" or not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            is_one_object = _is_one_object(file)
        except ValueError:
            return False
        # The other one may lie gigabytes further on.
        head = file.read(_HEAD)
    return is_one_object and any(text in head for key in REQUIRED_KEYS for text in _pickled(key))


def _pickled(text: str) -> tuple[bytes, bytes]:
    """Return how protocols up to 3, and later ones, write a short text."""
    size = len(text)
    return (
        pickle.BINUNICODE + struct.pack("<I", size) + text.encode(),
        pickle.SHORT_BINUNICODE + bytes([size]) + text.encode(),
    )


def read_rollouts(path: Path) -> Rollouts:
    """Open a file of roll-outs. Its arrays are views of the mapped file: opening reads a few kilobytes.

    Raises:
        SourceNotFoundError: there is no file.
        SourceError: it is no dictionary of such arrays, is cut, or holds anything but data; the key is named.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        try:
            is_one_object = _is_one_object(file)
        except ValueError as error:
            raise SourceError(f"{path}: not a .npy file: {error}") from error
        if not is_one_object:
            raise SourceError(f"{path}: expected a dictionary saved with numpy.save, found an array")
        begin = file.tell()
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[begin:]
    held = read_pickled_data(content, str(path))
    if not (isinstance(held, np.ndarray) and held.shape == () and isinstance(held[()], dict)):
        raise SourceError(f"{path}: expected a dictionary, found {type(held).__name__}")
    return check_rollouts(str(path), held[()])


def check_rollouts(label: str, held: Mapping[Any, Any]) -> Rollouts:
    """Return what a file holds after a check of every key: presence, type, and that all agree in T and N.

    A flat array `[B, width]` is the roll-out of one env.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for key in ROLLOUT_KEYS:
        if key not in held or (held[key] is None and key not in REQUIRED_KEYS):
            if key in REQUIRED_KEYS:
                raise SourceError(f"{label}: no {key!r}; there are {sorted(map(str, held))}")
            continue
        arrays[key] = _checked_array(label, key, held[key])
    steps = {key: array.shape[:2] for key, array in arrays.items()}
    reference = REQUIRED_KEYS[0]
    first = steps[reference]
    for key, found in steps.items():
        if found != first:
            raise SourceError(
                f"{label}, {key!r}: expected [{first[0]}, {first[1]}, ...] as in {reference!r}, found {list(found)}"
            )
    metadata = held.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise SourceError(f"{label}, 'metadata': expected a dictionary, found {type(metadata).__name__}")
    unknown = tuple(str(key) for key in held if key not in (*ROLLOUT_KEYS, *_OTHERS))
    return Rollouts(arrays, _checked_mask(label, held.get("valid_mask"), first), metadata, unknown)


def _is_one_object(file: Any) -> bool:
    """Read the header of a `.npy` file; return whether it says that one Python object follows."""
    shape, dtype = read_npy_header(file)
    return bool(shape == () and dtype == np.dtype(object))


def _checked_array(label: str, key: str, found: Any) -> NDArray[Any]:
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise SourceError(f"{label}, {key!r}: expected an array of numbers, found {what}")
    array: NDArray[Any] = found[:, None] if found.ndim == 2 else found
    if array.ndim != 3 or 0 in array.shape:
        raise SourceError(f"{label}, {key!r}: expected [steps, envs, width], found {list(array.shape)}")
    if not array.flags.c_contiguous:
        raise SourceError(f"{label}, {key!r}: expected values in C order, found Fortran's")
    return array


def _checked_mask(label: str, found: Any, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    if found is None:
        return None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        raise SourceError(f"{label}, 'valid_mask': expected an array of bools, found {type(found).__name__}")
    mask: NDArray[Any] = found[:, None] if found.ndim == 1 else found
    if mask.shape != shape:
        raise SourceError(f"{label}, 'valid_mask': expected {list(shape)}, found {list(mask.shape)}")
    if mask.dtype != np.bool_ and not np.isin(mask, (0, 1)).all():
        raise SourceError(f"{label}, 'valid_mask': expected bools or 0 and 1, found {mask.dtype} with other values")
    flags: NDArray[np.bool_] = mask.astype(np.bool_, copy=False)
    return flags
