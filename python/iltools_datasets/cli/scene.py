"""What a picture of a clip shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.cli.looked_at import ClipInfo


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows.

    One clip's array [T, C] with a name per column, its root path, all clip lengths, and by camera some pictures
    (seconds [n], uint8 [n, H, W, C]); `notes` say what could not be shown.
    """

    path: str
    clip: ClipInfo
    key: str
    names: list[str]
    values: NDArray[Any]
    root: NDArray[Any] | None
    lengths: NDArray[np.int64]
    strips: Mapping[str, tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
