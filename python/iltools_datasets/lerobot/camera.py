"""One camera of a set: any frames' pictures, decoded once, straight into the batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets import _core
from iltools_datasets.lerobot.frame_cache import FrameCache, Shape
from iltools_datasets.store.segments import Segments, int64


class Pictures(Protocol):
    """Where a camera's pictures come from."""

    notes: list[str]

    def check(self, segments: Iterable[int]) -> None:
        """Raise SourceError if pictures of some episodes (positions in the store's segments) are not there."""

    def leftovers(self) -> list[str]:
        """Return a line for each file that was looked at with pictures that belong to no frame."""

    def jobs(
        self, segment: NDArray[np.int64], frame: NDArray[np.int64], outputs: list[NDArray[np.uint8]]
    ) -> list[Callable[[], None]]:
        """Return calls, which may run at the same time, that together decode frame i of segment i to output i."""


class Camera:
    """The pictures of one camera. Several threads may read at once; it pickles as the reader that has made it.

    Attributes:
        key: the feature.
        shape: (H, W, C) of a picture as it is returned.
    """

    def __init__(
        self, key: str, shape: Shape, pictures: Pictures, segments: Segments, cache: FrameCache | None = None
    ) -> None:
        self.key = key
        self.shape = shape
        self._pictures = pictures
        self._segments = segments
        self._cache = cache
        self.made_by: tuple[Callable[..., Camera], tuple[Any, ...]] | None = None
        """How to make it again in another process."""

    def __reduce__(self) -> tuple[Callable[..., Camera], tuple[Any, ...]]:
        if self.made_by is None:
            raise TypeError("a camera pickles only if a LeRobotReader has made it")
        return self.made_by

    @property
    def notes(self) -> list[str]:
        """What is unusual about the pictures looked at so far."""
        return list(self._pictures.notes)

    def check(self, segments: Iterable[int]) -> None:
        """Raise SourceError if pictures of some episodes (positions in the store's segments) are not there."""
        self._pictures.check(segments)

    def leftovers(self) -> list[str]:
        """Return a line for each file that was looked at with pictures that belong to no frame of any episode."""
        return self._pictures.leftovers()

    def read(self, index: ArrayLike, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return the pictures of some frames.

        Args:
            index: int [B], frames of the set.
            out: writeable uint8 [B, H, W, C] to be filled, each picture of it C-contiguous.

        Returns:
            uint8 [B, H, W, C], RGB (or grey, RGBA, as C says).

        Raises:
            OutOfRangeError: a frame is out of range.
            SourceError: a picture is missing or cannot be decoded; the message names episode and frame.
            StoreChangedError: a video is not the one that was there when it was first looked at.
            ValueError: `out` does not fit.
        """
        frames = int64(index)
        segment, step = self._segments.locate(frames)
        batch = self._output(len(frames), out)
        missing = list(range(len(frames))) if self._cache is None else self._from_cache(self._cache, frames, batch)
        first: dict[int, int] = {}
        for row, frame in zip(missing, frames[missing].tolist(), strict=True):
            first.setdefault(frame, row)
        if first:
            rows = list(first.values())
            outputs = [batch[row] for row in rows]
            _run(self._pictures.jobs(segment[rows], step[rows], outputs))
            if self._cache is not None:
                for frame, picture in zip(first, outputs, strict=True):
                    self._cache.put(frame, picture)
            for row, frame in zip(missing, frames[missing].tolist(), strict=True):
                if row != first[frame]:
                    batch[row] = batch[first[frame]]
        return batch

    def _output(self, count: int, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        expected = (count, *self.shape)
        if out is None:
            return np.empty(expected, np.uint8)
        if out.shape != expected or out.dtype != np.uint8 or not out.flags.writeable:
            raise ValueError(
                f"out: expected writeable uint8 {list(expected)} for {self.key!r}, found {out.dtype} {list(out.shape)}"
            )
        if count and not out[0].flags.c_contiguous:
            raise ValueError(f"out: expected each picture of {self.key!r} to be C-contiguous")
        return out

    @staticmethod
    def _from_cache(cache: FrameCache, frames: NDArray[np.int64], batch: NDArray[np.uint8]) -> list[int]:
        """Fill what is kept; return the rows that are missing."""
        return [row for row, frame in enumerate(frames.tolist()) if not cache.get(frame, batch[row])]

    def close(self) -> None:
        """Finish what the cache is writing."""
        if self._cache is not None:
            self._cache.close()


class _Threads:
    """The threads that decode several files at the same time, of this process."""

    executor: ThreadPoolExecutor | None = None
    pid = 0


def _run(jobs: list[Callable[[], None]]) -> None:
    """Run calls, at the same time where there are cores for it; the first error is raised when all are through."""
    count = _core.num_threads()
    if len(jobs) == 1 or count == 1:
        for job in jobs:
            job()
        return
    if _Threads.executor is None or _Threads.pid != os.getpid():
        _Threads.executor, _Threads.pid = ThreadPoolExecutor(count, "iltools-decode"), os.getpid()
    futures = [_Threads.executor.submit(job) for job in jobs[1:]]
    errors = []
    for call in (jobs[0], *(future.result for future in futures)):
        try:
            call()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
