"""LeRobot directories of every version: numbers as a store, pictures by frame. Knows neither JAX nor torch.

`LeRobotDataset`, lerobot's class of that name for torch users, is found here, too, and loads torch on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iltools_datasets.lerobot.choice import EpisodeChoice
from iltools_datasets.lerobot.episodes import EpisodeTable
from iltools_datasets.lerobot.find import find
from iltools_datasets.lerobot.frame_cache import FrameDirectory, MemoryFrames
from iltools_datasets.lerobot.info import Feature, LeRobotInfo, read_info
from iltools_datasets.lerobot.reader import LeRobotReader

if TYPE_CHECKING:
    from iltools_datasets.lerobot.torch_dataset import LeRobotDataset

__all__ = [
    "EpisodeChoice",
    "EpisodeTable",
    "Feature",
    "FrameDirectory",
    "LeRobotDataset",
    "LeRobotInfo",
    "LeRobotReader",
    "MemoryFrames",
    "find",
    "read_info",
]


def __getattr__(name: str) -> Any:
    if name == "LeRobotDataset":
        return import_module("iltools_datasets.lerobot.torch_dataset").LeRobotDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
