"""Small Zarr archives for the replay tests, written with zarr itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

Clip = Mapping[str, NDArray[Any]]


def write_archive(path: Path, clips: Mapping[str, Clip], zarr_format: int = 3) -> Path:
    """Write `{"<source>/<motion>/<trajectory>": {key: array}}` in the nested layout."""
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    for name, arrays in clips.items():
        group = root.require_group(name)
        for key, array in arrays.items():
            group.create_array(key, data=array)
    return path


def motion_clips(seed: int = 0, lengths: tuple[int, ...] = (5, 9, 3), nq: int = 4, nv: int = 3) -> dict[str, Clip]:
    """Two motions of random clips with positions, velocities and actions, float64 as simulators write them."""
    rng = np.random.default_rng(seed)
    return {
        f"lab/{motion}/traj{number}": {
            "qpos": rng.standard_normal((length, nq)),
            "qvel": rng.standard_normal((length, nv)),
            "action": rng.standard_normal((length, 2)),
        }
        for motion in ("run", "walk")
        for number, length in enumerate(lengths)
    }
