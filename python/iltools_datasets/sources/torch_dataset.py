"""A loader's trajectories as a torch data set. Importing this module needs torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from iltools_datasets.sources.loader import SourceLoader
    from iltools_datasets.sources.summary import DatasetMetadata


class TrajectoryDicts(Dataset[dict[str, Any]]):
    """One dict per trajectory of T states, its arrays as tensors on `device`, dtypes kept.

    - `observations`: `{key: [T, ...]}`.
    - `actions` `[T, ...]` or `[T - 1, ...]`, `rewards` `[T]` or `[T - 1]`: where the trajectory has them.
    - `infos`: further steps by key as tensors, and what its source says of it as it is.
    - `dt`: float32 (), seconds from one state to the next; NaN where the source does not say.
    """

    def __init__(self, loader: SourceLoader, device: torch.device | str = "cpu") -> None:
        self.loader = loader
        self.device = torch.device(device)

    @property
    def metadata(self) -> DatasetMetadata:
        """The loader's description of the data set."""
        return self.loader.metadata

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, index: int) -> dict[str, Any]:
        trajectory = self.loader[index]
        item: dict[str, Any] = {"observations": self._tensors(trajectory.observations)}
        steps = {"actions": trajectory.actions, "rewards": trajectory.rewards}
        item.update(self._tensors({key: array for key, array in steps.items() if array is not None}))
        dt = math.nan if trajectory.dt is None else trajectory.dt
        item.update(infos=self._tensors(trajectory.infos), dt=torch.tensor(dt, device=self.device))
        return item

    def _tensors(self, values: dict[str, Any]) -> dict[str, Any]:
        return {
            key: torch.from_numpy(value.copy()).to(self.device) if isinstance(value, np.ndarray) else value
            for key, value in values.items()
        }
