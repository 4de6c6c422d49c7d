"""What a caller hands over per step, as rows of fixed columns: checked whole before anything is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from iltools_datasets.errors import SchemaError
from iltools_datasets.sources.formats.expert_file import REQUIRED_KEYS, ROLLOUT_KEYS

DATA, LEFT_OUT = 1, 2
"""Bytes of a recorded mask: the row is data; it is none, as there are enough episodes. Others are no data either."""

OnNan = Literal["error", "drop", "keep"]

_STATES = ("observations", "student_observations")
"""Which arguments of `add_step`, the keys of `ROLLOUT_KEYS`, say what was seen."""


@dataclass(frozen=True, slots=True)
class RecordedColumn:
    """A column of a recording: its key in a store, its argument's name, its width and numpy's name of its dtype."""

    key: str
    argument: str
    width: int
    dtype: str
    is_state: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one env's row."""
        return self.width * np.dtype(self.dtype).itemsize


def as_rows(argument: str, value: Any, width: int, float_dtype: str | None) -> NDArray[Any]:
    """Return an argument `[N, width]` as numpy rows in C order; a float64 becomes `float_dtype`, where one is given.

    Raises `SchemaError` naming the argument for anything else, also for a value that the dtype cannot hold.
    """
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.bfloat16:
            raise SchemaError(f"{argument}: expected numbers that numpy has, found {value.dtype}")
        value = value.detach().cpu().numpy()
    rows = np.asarray(value)
    if rows.dtype.kind not in "biuf":
        raise SchemaError(f"{argument}: expected numbers, found {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] != width:
        raise SchemaError(f"{argument}: expected [num_envs, {width}], found {list(rows.shape)}")
    if rows.dtype == np.float64 and float_dtype is not None:
        with np.errstate(over="ignore"):
            narrow = rows.astype(float_dtype)
        lost = np.isinf(narrow) & np.isfinite(rows)
        if lost.any():
            env, column = (int(i) for i in np.argwhere(lost)[0])
            raise SchemaError(f"{argument}: env {env}, column {column}: {float_dtype} cannot hold {rows[env, column]}")
        rows = narrow
    return np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("="))


def checked_rows(
    given: dict[str, Any],
    widths: dict[str, int],
    columns: list[RecordedColumn] | None,
    num_envs: int | None,
    float_dtype: str | None,
) -> dict[RecordedColumn, NDArray[Any]]:
    """Return a step's arguments as rows by column; those that are None are left out.

    Args:
        given: argument -> `[N, width]`, in the order of `ROLLOUT_KEYS`.
        widths: argument -> width.
        columns: those of the first step; None for the first step itself, which makes them.
        num_envs: N; None = as many as the observations have.
        float_dtype: what float64 becomes.

    Raises `SchemaError` naming the argument that does not fit, is new or is missing.
    """
    for argument in REQUIRED_KEYS:
        if given[argument] is None:
            raise SchemaError(f"{argument}: expected [num_envs, {widths[argument]}], found None")
    arrays = {
        argument: as_rows(argument, value, widths[argument], float_dtype)
        for argument, value in given.items()
        if value is not None
    }
    if columns is None:
        columns = [
            RecordedColumn(ROLLOUT_KEYS[argument], argument, rows.shape[1], str(rows.dtype), argument in _STATES)
            for argument, rows in arrays.items()
        ]
    known = [column.argument for column in columns]
    if list(arrays) != known:
        raise SchemaError(f"expected {known} with every step, as with the first, found {list(arrays)}")
    for column in columns:
        check_like(column, arrays[column.argument], len(arrays["observations"]) if num_envs is None else num_envs)
    return {column: arrays[column.argument] for column in columns}


def check_like(column: RecordedColumn, rows: NDArray[Any], num_envs: int) -> None:
    """Raise `SchemaError` unless rows fit the column that the first step made."""
    if rows.shape[0] != num_envs:
        raise SchemaError(f"{column.argument}: expected {num_envs} envs, found {rows.shape[0]}")
    if str(rows.dtype) != column.dtype:
        raise SchemaError(f"{column.argument}: expected {column.dtype} as in the first step, found {rows.dtype}")


def as_mask(valid_mask: Any, num_envs: int) -> NDArray[np.uint8]:
    """Return a mask `[num_envs]` as zeros and ones, a copy; None is all ones."""
    if valid_mask is None:
        return np.ones(num_envs, dtype=np.uint8)
    mask = np.asarray(valid_mask.detach().cpu() if isinstance(valid_mask, torch.Tensor) else valid_mask)
    if mask.shape != (num_envs,):
        raise SchemaError(f"valid_mask: expected [{num_envs}], found {list(mask.shape)}")
    if mask.dtype != np.bool_ and (mask.dtype.kind not in "iuf" or not np.isin(mask, (0, 1)).all()):
        raise SchemaError(f"valid_mask: expected bools, or 0 and 1, found {mask.dtype} with other values")
    return mask.astype(np.uint8)


def checked_mask(rows: dict[RecordedColumn, NDArray[Any]], valid_mask: Any, on_nan: OnNan) -> NDArray[np.uint8]:
    """Return which rows of a step are data, a copy; raise `SchemaError` where a row that is holds what it may not."""
    mask = mask_out_nan(rows, as_mask(valid_mask, len(next(iter(rows.values())))), on_nan)
    check_sigma(rows, mask)
    return mask


def mask_out_nan(rows: dict[RecordedColumn, NDArray[Any]], mask: NDArray[np.uint8], on_nan: OnNan) -> NDArray[np.uint8]:
    """Return the mask without the rows that hold NaN or infinity, or raise `SchemaError` naming env and column."""
    if on_nan == "keep":
        return mask
    for column, values in rows.items():
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        bad = ~np.isfinite(values).all(axis=1)
        if on_nan == "error" and (bad & (mask != 0)).any():
            env = int(np.flatnonzero(bad & (mask != 0))[0])
            at = int(np.flatnonzero(~np.isfinite(values[env]))[0])
            raise SchemaError(
                f"{column.argument}: env {env}, column {at}: {values[env, at]}; on_nan='drop' leaves it out"
            )
        mask = mask & ~bad
    return mask


def check_sigma(rows: dict[RecordedColumn, NDArray[Any]], mask: NDArray[np.uint8]) -> None:
    """Raise `SchemaError` where a valid row has a deviation that is not positive."""
    for sigma in (values for column, values in rows.items() if column.argument == "action_sigma"):
        if sigma.min(initial=1) > 0:
            continue
        bad = (sigma <= 0).any(axis=1) & (mask != 0)
        if bad.any():
            env = int(np.flatnonzero(bad)[0])
            raise SchemaError(f"action_sigma: env {env}: expected positive deviations, found {sigma[env].min()}")
