"""What a picture of a clip shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.cli.opened import ClipInfo


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: one clip's array [T, C] with a name per column, its root path, and all clip lengths."""

    path: str
    clip: ClipInfo
    key: str
    names: list[str]
    values: NDArray[Any]
    root: NDArray[Any] | None
    lengths: NDArray[np.int64]
