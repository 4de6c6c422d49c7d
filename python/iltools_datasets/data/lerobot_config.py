"""Which part of which LeRobot data set, and how its values are handed out."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from iltools_datasets.errors import ArgumentError

NO_REWARD = "next.reward"
"""The reward key of which it is no error that it is not there."""


@dataclass(frozen=True)
class LeRobotDatasetConfig:
    """Which part of which data set.

    Args:
        repo_id: its name on the hub, or a directory; see `lerobot.find` for where it is looked for.
        root: a directory to look in first.
        episodes: which episodes, in this order; None = all.
        delta_timestamps: `{key: seconds}`: features that are read as windows, at these times before and after a frame.
        obs_keys: features that make up the observation.
        action_key: the action.
        reward_key: what is taken for the reward, of the same frame; None, or the default where it is not there, gives
            zeros.
        image_transforms: called with the pictures of an item as torchvision wants them, float32 `[C, H, W]` in [0, 1].
        revision: tag, branch or commit on the hub.
    """

    repo_id: str
    root: str | None = None
    episodes: list[int] | None = None
    delta_timestamps: dict[str, list[float]] | None = None
    obs_keys: list[str] = field(default_factory=lambda: ["observation.state"])
    action_key: str = "action"
    reward_key: str | None = NO_REWARD
    image_transforms: Any = None
    revision: str | None = None

    @classmethod
    def of(cls, config: Any) -> LeRobotDatasetConfig:
        """Return a config as one of this class: of a name, or of another object with the same fields."""
        if isinstance(config, str | Path):
            return cls(str(config))
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if not hasattr(config, name)]
        if missing:
            raise TypeError(f"expected a repo_id or a LeRobotDatasetConfig, found {type(config).__name__}")
        return config if isinstance(config, cls) else cls(**{name: getattr(config, name) for name in names})


@dataclass(frozen=True, slots=True)
class Options:
    """What `LeRobotDatasetAdapter` takes besides; raises `ArgumentError` for what is none of the choices."""

    tolerance_s: float
    on_nan: Literal["error", "keep"]
    obs: Literal["array", "dict"]
    image_dtype: Literal["uint8", "float32"]
    image_size: tuple[int, int] | None
    frame_cache: int | str | Path | None

    def __post_init__(self) -> None:
        for name, choices in (
            ("on_nan", ("error", "keep")),
            ("obs", ("array", "dict")),
            ("image_dtype", ("uint8", "float32")),
        ):
            if getattr(self, name) not in choices:
                raise ArgumentError(f"{name} is {getattr(self, name)!r}; one of {choices} is needed")
