"""lerobot's `LeRobotDataset` by name, arguments and items, over our reader: whoever used lerobot's changes an import.

The one module of this room that knows torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import MissingKeyError, SourceError
from iltools_datasets.lerobot.camera import Camera
from iltools_datasets.lerobot.frame_cache import FrameDirectory, MemoryFrames, frame_cache_of
from iltools_datasets.lerobot.meta import LeRobotMeta
from iltools_datasets.lerobot.reader import LeRobotReader
from iltools_datasets.store.trajectory_store import TrajectoryStore

try:
    import torch
    from torch.utils.data import Dataset
except ImportError as error:
    raise missing_extra("torch", "LeRobotDataset") from error

Item = dict[str, Any]


class LeRobotDataset(Dataset[Item]):
    """A LeRobot set of v2.0, v2.1 or v3.0 as a map-style torch data set with lerobot's arguments, attributes and items.

    An item is a dict: every numeric feature (floats as float32, integers as int64, a feature of shape (1,) as a 0-d
    tensor), every camera as float32 `(C, H, W)` in [0, 1], and `task`, a string. A key of `delta_timestamps` has one
    more axis in front, of as many entries, and `KEY_is_pad`, bool, which is true where the entry lies outside the
    episode and its first or last frame is repeated; a video with a single entry has no such axis, as in lerobot.

    `__getitems__` reads a whole batch at once, for torch's DataLoader; `batch` gives it without taking it apart. The
    data set pickles as its arguments.

    Args:
        repo_id: `owner/name`, or a directory; see `lerobot.find`.
        root: where it lies, or is downloaded to.
        episodes: episode numbers, in this order; None means all.
        image_transforms: called with each camera's float32 `(C, H, W)`, or `(T, C, H, W)` with `delta_timestamps`.
        delta_timestamps: seconds by feature.
        tolerance_s: how far `delta_timestamps` may be off whole frames, in seconds.
        revision: tag, branch or commit on the hub.
        download_videos: whether videos that are missing are fetched, and have to be there at once.
        video_backend: accepted, and not looked at: PyAV decodes.
        frame_cache: bytes of memory, or a directory, in which decoded pictures are kept.
        cache: directory of caches, see `LeRobotReader`.
        on_nan: what happens to NaN in any feature; lerobot keeps it.

    Attributes:
        meta: lerobot's metadata object, as far as reading needs it.
        reader: the `LeRobotReader` below.
        delta_indices: `delta_timestamps` in frames.

    Raises:
        SourceNotFoundError, SourceError: there is no such set, or it is wrong.
        OutOfRangeError: there is no such episode.
        MissingKeyError: a key of `delta_timestamps` is no feature.
        ValueError: `delta_timestamps` are not whole frames.
        MissingExtraError: torch is not installed.

    Examples:
        >>> ds = LeRobotDataset("picks", delta_timestamps={"action": [0.0, 0.1, 0.2]})
        >>> ds[0]["action"].shape, ds[4]["action_is_pad"]
        (torch.Size([3, 4]), tensor([False,  True,  True]))
    """

    def __init__(
        self,
        repo_id: str,
        root: str | Path | None = None,
        episodes: Sequence[int] | None = None,
        image_transforms: Callable[[Any], Any] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        revision: str | None = None,
        download_videos: bool = True,
        video_backend: str | None = None,
        *,
        frame_cache: int | str | Path | MemoryFrames | FrameDirectory | None = None,
        cache: str | Path | None = None,
        on_nan: Literal["error", "keep"] = "keep",
    ) -> None:
        if on_nan not in ("error", "keep"):
            raise ValueError(f"on_nan: expected 'error' or 'keep', found {on_nan!r}")
        self.repo_id = repo_id
        self.episodes = None if episodes is None else list(episodes)
        self.image_transforms = image_transforms
        self.delta_timestamps = None if delta_timestamps is None else dict(delta_timestamps)
        self.tolerance_s = tolerance_s
        self.revision = revision
        self.video_backend = video_backend
        cameras = None if download_videos else ()
        self.reader = LeRobotReader.find(repo_id, root, revision, cache=cache, episodes=self.episodes, cameras=cameras)
        self.root = self.reader.root
        self.meta = LeRobotMeta(repo_id, revision, self.reader)
        self._choice = self.reader.choice(self.episodes)
        if on_nan == "error":
            self.reader.check_no_nan(self.reader.info.number_keys, self.episodes)
        self.delta_indices = self._delta_indices(self.delta_timestamps or {})
        kept = frame_cache_of(frame_cache)
        whose = self._choice if download_videos else None
        self._cameras: dict[str, Camera] = {
            key: self.reader.camera(key, frame_cache=kept, episodes=whose) for key in self.meta.camera_keys
        }

    def _delta_indices(self, deltas: Mapping[str, Iterable[float]]) -> dict[str, list[int]]:
        found = {}
        for key, seconds in deltas.items():
            self.reader.info.feature(key, self.reader.root)
            try:
                found[key] = self.reader.offsets(seconds, self.tolerance_s).tolist()
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        return found

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_choice"], state["meta"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.meta = LeRobotMeta(self.repo_id, self.revision, self.reader)
        self._choice = self.reader.choice(self.episodes)

    @property
    def store(self) -> TrajectoryStore:
        """The numbers of all episodes, for `torchrl.TrajectoryStorage`."""
        return self.reader.store

    @property
    def fps(self) -> int | float:
        """Frames per second."""
        return self.meta.fps

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """dtype, shape and names of every feature."""
        return self.meta.features

    @property
    def num_frames(self) -> int:
        """Frames of the chosen episodes."""
        return len(self._choice)

    @property
    def num_episodes(self) -> int:
        """Number of chosen episodes."""
        return len(self._choice.episodes)

    @property
    def episode_data_index(self) -> dict[str, torch.Tensor]:
        """First item of each chosen episode, `from`, and the one after its last, `to`; int64 [num_episodes]."""
        lengths = self.reader.store.segments.length[self._choice.segments]
        ends = torch.from_numpy(np.cumsum(lengths))
        return {"from": ends - torch.from_numpy(lengths.copy()), "to": ends}

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: int) -> Item:
        """Return an item; negative ones count from the end. Raises OutOfRangeError, an IndexError, past the end."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return several items, read at once. Their tensors share memory with each other's batch."""
        batch = self.batch(indices, transforms=False)
        items = [{key: values[row] for key, values in batch.items()} for row in range(len(indices))]
        if self.image_transforms is not None:
            for item in items:
                for key in self._cameras:
                    item[key] = self.image_transforms(item[key])
        return items

    def batch(self, indices: Sequence[int], transforms: bool = True) -> dict[str, Any]:
        """Return items with their tensors stacked, `[B, ...]`, and `task` as a list; what a DataLoader would collate.

        Args:
            indices: int [B].
            transforms: whether `image_transforms` are applied, picture by picture.
        """
        rows = self._choice.rows([int(index) for index in indices])
        plain = [key for key in self.reader.info.number_keys if key not in self.delta_indices]
        batch: dict[str, Any] = {}
        for key, values in self.reader.gather(rows, plain).items():
            batch[str(key)] = self._tensor(str(key), values)
        windows = {tuple(offsets): self.reader.window_rows(rows, offsets) for offsets in self.delta_indices.values()}
        for key, offsets in self.delta_indices.items():
            frames, is_pad = windows[tuple(offsets)]
            batch[f"{key}_is_pad"] = torch.from_numpy(is_pad)
            if key not in self._cameras:
                values = self.reader.gather(frames.reshape(-1), [key])[key]
                batch[key] = self._tensor(key, values.reshape(*frames.shape, *values.shape[1:]))
        for key, camera in self._cameras.items():
            frames = windows[tuple(self.delta_indices[key])][0] if key in self.delta_indices else rows[:, None]
            batch[key] = self._pictures(key, camera, frames)
            if transforms and self.image_transforms is not None:
                batch[key] = torch.stack([self.image_transforms(picture) for picture in batch[key]])
        batch["task"] = [self._task(number) for number in batch["task_index"].reshape(len(rows), -1)[:, -1].tolist()]
        return batch

    def _tensor(self, key: str, values: NDArray[Any]) -> torch.Tensor:
        """Return values [B, (H,) *shape] as lerobot's items have them: its dtypes, and (1,) as no axis at all."""
        if self.reader.features[key].shape == (1,):
            values = values[..., 0]
        if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
            raise SourceError(f"{self.root}: {key!r}: {values.max()} does not fit int64")
        wide: Any = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}[values.dtype.kind]
        return torch.from_numpy(np.ascontiguousarray(values, dtype=wide))

    def _pictures(self, key: str, camera: Camera, frames: NDArray[np.int64]) -> torch.Tensor:
        """Return pictures of frames [B, H] as float32 [B, (H,) C, height, width] in [0, 1]."""
        pictures = camera.read(frames.reshape(-1)).transpose(0, 3, 1, 2)
        # By numpy, in this thread: torch would wake its own for half a millisecond's work, and they spin.
        whole = np.empty(pictures.shape, np.float32)
        for picture, out in zip(pictures, whole, strict=True):
            np.divide(picture, np.float32(255), out=out)
        scaled = torch.from_numpy(whole)
        is_video = self.reader.features[key].kind == "video"
        single = key not in self.delta_indices or (is_video and frames.shape[1] == 1)
        return scaled if single else scaled.reshape(*frames.shape, *scaled.shape[1:])

    def _task(self, number: int) -> str:
        task = self.meta.tasks.get(number)
        if task is None:
            raise MissingKeyError(f"{self.root}: no task of number {number}; there are {list(self.meta.tasks)}")
        return task

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.repo_id!r}, {self.num_episodes} episodes, {self.num_frames} frames, "
            f"features {list(self.features)})"
        )
