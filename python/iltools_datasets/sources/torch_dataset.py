"""A loader's trajectories as a torch data set. Importing this module needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from iltools_datasets.sources.loader import SourceLoader


class TrajectoryDicts(Dataset[dict[str, torch.Tensor]]):
    """One dict per trajectory: every array by its key, `[T, ...]`, dtypes kept, on `device`."""

    def __init__(self, loader: SourceLoader, device: torch.device | str = "cpu") -> None:
        self.loader = loader
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        arrays = self.loader.arrays(index)
        return {key: torch.from_numpy(array.copy()).to(self.device) for key, array in arrays.items()}
