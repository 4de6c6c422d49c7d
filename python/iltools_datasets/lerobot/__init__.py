"""LeRobot directories of every version: numbers as a store, pictures by frame. Knows neither JAX nor torch."""

from iltools_datasets.lerobot.choice import EpisodeChoice
from iltools_datasets.lerobot.episodes import EpisodeTable
from iltools_datasets.lerobot.find import find
from iltools_datasets.lerobot.frame_cache import FrameDirectory, MemoryFrames
from iltools_datasets.lerobot.info import Feature, LeRobotInfo, read_info
from iltools_datasets.lerobot.reader import LeRobotReader

__all__ = [
    "EpisodeChoice",
    "EpisodeTable",
    "Feature",
    "FrameDirectory",
    "LeRobotInfo",
    "LeRobotReader",
    "MemoryFrames",
    "find",
    "read_info",
]
