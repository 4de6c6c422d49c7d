"""What a caller can ask of an export, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from iltools_datasets.errors import ArgumentError

if TYPE_CHECKING:
    from iltools_datasets.archive.schema import Trajectory

ACTION_NAMES = ("action", "actions")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What a caller of the export asked for; see `build_store` for the meaning of each field."""

    obs_keys: tuple[str, ...]
    act_key: str | None = None
    concat_obs_to_key: str | None = "observation"
    include_terminated: bool = True
    include_truncated: bool | None = None
    original_obs_td_key: str = "lmj_observation"
    strict: bool = True
    infer_terminated_if_missing: bool = True
    float_dtype: str | None = "float32"
    on_nan: Literal["error", "keep"] = "error"
    exclude_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.obs_keys:
            raise ArgumentError("obs_keys is empty: name at least one array to export as observation")
        if len(set(self.obs_keys)) != len(self.obs_keys):
            raise ArgumentError(f"obs_keys names an array twice: {list(self.obs_keys)}")
        if excluded := set(self.exclude_keys) & {*self.obs_keys, self.act_key}:
            raise ArgumentError(f"exclude_keys and obs_keys or act_key both name {sorted(map(str, excluded))}")
        if self.on_nan not in ("error", "keep"):
            raise ArgumentError(f"on_nan must be 'error' or 'keep', got {self.on_nan!r}")
        if self.float_dtype is not None and _kind_of(self.float_dtype) != "f":
            raise ArgumentError(
                f"float_dtype must name a floating dtype ('float16', 'float32', 'float64') or be None, "
                f"got {self.float_dtype!r}"
            )


def _kind_of(dtype: object) -> str | None:
    try:
        return np.dtype(dtype).kind  # type: ignore[call-overload, no-any-return]
    except TypeError:
        return None


def where(trajectory: Trajectory) -> str:
    """Return how an error message names a trajectory."""
    return f"trajectory {trajectory.path}"
