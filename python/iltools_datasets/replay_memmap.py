"""Public address of `iltools_datasets.replay.builder`."""

from iltools_datasets.replay.builder import (
    ExpertMemmapBuilder,
    Segment,
    Segments,
    build_trajectory_td,
    build_trajectory_td_from_components,
    concat_components,
    load,
)

__all__ = [
    "ExpertMemmapBuilder",
    "Segment",
    "Segments",
    "build_trajectory_td",
    "build_trajectory_td_from_components",
    "concat_components",
    "load",
]
