"""The cameras of an open set: which kind each is, made when it is first asked for, decoders shared by all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot.cache import CachedStore, set_name
from iltools_datasets.lerobot.camera import Camera, Pictures
from iltools_datasets.lerobot.decoders import DecoderPool
from iltools_datasets.lerobot.episodes import EpisodeTable
from iltools_datasets.lerobot.frame_cache import FrameCache, FrameDirectory, MemoryFrames, Shape
from iltools_datasets.lerobot.images import EncodedImages, ImagePictures
from iltools_datasets.lerobot.info import LeRobotInfo
from iltools_datasets.lerobot.video_pictures import VideoPictures


class Cameras:
    """Makes the cameras of one set.

    Args:
        root: the set.
        info: its `info.json`.
        cached: its store.
        episodes: returns its episode table.
        fingerprint: of its data files.
    """

    def __init__(
        self,
        root: Path,
        info: LeRobotInfo,
        cached: CachedStore,
        episodes: Callable[[], EpisodeTable],
        fingerprint: str,
    ) -> None:
        self._root, self._info, self._cached = root, info, cached
        self._episodes, self._fingerprint = episodes, fingerprint
        self._pictures: dict[str, Pictures] = {}
        self._lock = Lock()
        self.decoders = DecoderPool()

    @property
    def notes(self) -> list[str]:
        """What is unusual about the pictures looked at so far."""
        return [note for pictures in self._pictures.values() for note in pictures.notes]

    def video_path(self, key: str, position: int) -> Path | None:
        """Return the file with the pictures of an episode of a video camera; None for one whose pictures are images."""
        self.camera(key)
        pictures = self._pictures[key]
        return pictures.path(position) if isinstance(pictures, VideoPictures) else None

    def camera(
        self,
        key: str,
        size: tuple[int, int] | None = None,
        frame_cache: MemoryFrames | FrameDirectory | None = None,
    ) -> Camera:
        """Return a camera.

        Args:
            key: a feature of dtype video or image.
            size: (H, W) to which pictures are resized, bilinear, before anything is kept.
            frame_cache: where decoded pictures are kept.

        Raises MissingKeyError for what is no feature, SourceError for what is no camera.
        """
        feature = self._info.feature(key, self._root)
        if not feature.is_camera:
            raise SourceError(f"{self._root}: {key!r} is no camera; there are {self._info.camera_keys}")
        height, width, channels = feature.picture_shape
        if size is not None and not all(isinstance(extent, int) and 0 < extent <= 1 << 16 for extent in size):
            raise ValueError(f"size: expected (H, W) in pixels, found {size}")
        shape = (height, width, channels) if size is None else (*size, channels)
        with self._lock:
            if key not in self._pictures:
                self._pictures[key] = self._open(key)
        cache = None if frame_cache is None else self._cache(key, shape, frame_cache)
        return Camera(key, shape, self._pictures[key], self._cached.store.segments, cache)

    def _cache(self, key: str, shape: Shape, kept: MemoryFrames | FrameDirectory) -> FrameCache:
        camera = self._info.camera_keys.index(key)
        name = f"{set_name(self._root)}/camera{camera}-{shape[0]}x{shape[1]}"
        return kept.of(name, len(self._cached.store), shape, self._identity(key))

    def _identity(self, key: str) -> str:
        """Return what tells one content of a camera's files from another."""
        digest = hashlib.blake2b(f"{self._fingerprint}\0{key}".encode(), digest_size=16)
        pictures = self._pictures[key]
        for relative in pictures.files if isinstance(pictures, VideoPictures) else ():
            path = self._root / relative
            status = path.stat() if path.exists() else None
            digest.update(f"{relative}\0{status and (status.st_size, status.st_mtime_ns)}\n".encode())
        return digest.hexdigest()

    def _open(self, key: str) -> Pictures:
        segments = self._cached.store.segments
        starts, lengths, numbers = segments.start, segments.length, segments.traj_id
        if self._info.features[key].kind == "video":
            column = next(name for name in self._cached.store.keys if name == "timestamp")

            def timestamps(position: int) -> NDArray[np.float32]:
                rows = np.arange(starts[position], starts[position] + lengths[position])
                return self._cached.store.gather(rows, [column])[column].reshape(-1).astype(np.float32)

            return VideoPictures(self._root, self._info, self._episodes(), key, timestamps, self.decoders)

        def copied() -> EncodedImages:
            def place_of(episode: NDArray[np.int64], frame: NDArray[np.int64]) -> NDArray[np.int64]:
                position = np.minimum(np.searchsorted(numbers, episode), len(numbers) - 1)
                wrong = (numbers[position] != episode) | (frame < 0) | (frame >= lengths[position])
                if wrong.any():
                    row = int(np.flatnonzero(wrong)[0])
                    raise SourceError(f"{self._root}: no frame {frame[row]} of episode {episode[row]} is listed")
                return starts[position] + frame

            return EncodedImages(
                self._root,
                self._info,
                key,
                len(self._cached.store),
                place_of,
                self._cached.directory,
                self._fingerprint,
            )

        def name(place: int) -> str:
            position, frame = segments.locate([place])
            return f"{self._root}: episode {numbers[position[0]]}, frame {frame[0]}: {key!r}"

        return ImagePictures(copied, self._info.features[key].picture_shape, starts, name)
