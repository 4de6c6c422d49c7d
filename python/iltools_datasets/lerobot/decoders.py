"""Decoding: open videos, a bounded number of them, each decoding only what is needed, once."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot.video_index import (
    VideoIndex,
    check_unchanged,
    naming_video,
    open_video,
)

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_PIXEL_FORMATS = {1: "gray", 3: "rgb24", 4: "rgba"}
_FRAMES_HELD = 12
"""Pictures that a decoder holds at most, for reference and for showing: more than any codec here asks for."""


class Decoder:
    """One open video that decodes wanted pictures in rising order. Not for several threads at once.

    Args:
        path: the file.
        index: its pictures. Raises StoreChangedError if the file is not the one that was indexed.
    """

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self.path, self.index = path, index
        check_unchanged(path, index.stamp)
        self._container, self._stream = open_video(path)
        self._frames: Iterator[VideoFrame] = iter(())
        self._next = len(self.index)
        """The picture that comes next out of `_frames`; the number of pictures where none does."""

    @property
    def bytes_held(self) -> int:
        """An upper estimate of what the decoder holds."""
        height, width = self.index.size
        return _FRAMES_HELD * height * width * 3 // 2

    def decode(self, numbers: Sequence[int]) -> Iterator[VideoFrame]:
        """Yield the pictures of these rising numbers; each is valid until the next is asked for.

        Each picture is decoded at most once: from the keyframe before the first wanted one of a group on.

        Raises SourceError if one cannot be decoded or is not where the index says.
        """
        for number in numbers:
            with naming_video(self.path):
                frame = self._advance_to(number)
            yield frame

    def _advance_to(self, number: int) -> VideoFrame:
        keyframe = int(self.index.keyframe[number])
        if not keyframe <= self._next <= number:
            self._seek(keyframe)
        time = int(self.index.time[number])
        for frame in self._frames:
            if frame.pts is None or frame.pts < time:
                continue
            if frame.pts > time:
                break
            self._next = number + 1
            return frame
        self._next = len(self.index)
        raise SourceError(
            f"{self.path}: picture {number}, at {float(time * self.index.time_base):.6g} s, cannot be decoded: the "
            "file is cut or damaged"
        )

    def _seek(self, keyframe: int) -> None:
        """Begin to decode at a keyframe, or before it where the container cannot go there."""
        time = int(self.index.time[keyframe])
        self._container.seek(time, stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        self._next = keyframe

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        self._container.close()


def convert(frame: VideoFrame, out: NDArray[np.uint8]) -> None:
    """Write a decoded picture, resized to fit if need be (bilinear), to `out` [H, W, C]."""
    height, width, channels = out.shape
    picture = _reformat(frame, width, height, _PIXEL_FORMATS[channels])
    plane = picture.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
    out[:] = rows[:, : width * channels].reshape(height, width, channels)


def _reformat(frame: VideoFrame, width: int, height: int, pixels: str) -> VideoFrame:
    if _OneThread.known:
        try:
            return frame.reformat(width, height, pixels, interpolation="BILINEAR", threads=1)
        except TypeError:
            _OneThread.known = False
    return frame.reformat(width, height, pixels, interpolation="BILINEAR")


class _OneThread:
    """Whether PyAV can be told to convert in the calling thread; releases that cannot always do."""

    known = True


class DecoderPool:
    """Keeps decoders open for the files used last.

    A decoder is used by one thread at a time; a second thread that wants the same file gets another one. Those at rest
    are bounded in number and in bytes. After a fork the child opens its own.

    Args:
        most: decoders at rest.
        most_bytes: what those at rest may hold, by `Decoder.bytes_held`.
    """

    def __init__(self, most: int = 64, most_bytes: int = 512 << 20) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, tuple[Path, Decoder]] = OrderedDict()
        self._count = 0

    @property
    def num_idle(self) -> int:
        """Decoders at rest."""
        return len(self._idle)

    @property
    def idle_bytes(self) -> int:
        """What they hold, estimated from above."""
        return sum(decoder.bytes_held for _, decoder in self._idle.values())

    @contextmanager
    def decoder(self, path: Path, index: VideoIndex) -> Iterator[Decoder]:
        """Lend a decoder of a file; it is closed if anything goes wrong."""
        decoder = self._take(path) or Decoder(path, index)
        try:
            yield decoder
        except BaseException:
            decoder.close()
            raise
        self._give_back(path, decoder)

    def _take(self, path: Path) -> Decoder | None:
        if self._pid != os.getpid():
            self._start_anew()
        with self._lock:
            # The one used last: it stands where a loop in order goes on.
            ticket = next((ticket for ticket, (of, _) in reversed(self._idle.items()) if of == path), None)
            return None if ticket is None else self._idle.pop(ticket)[1]

    def _give_back(self, path: Path, decoder: Decoder) -> None:
        dropped: list[Any] = []
        with self._lock:
            self._count += 1
            self._idle[self._count] = (path, decoder)
            held = self.idle_bytes
            while len(self._idle) > self._most or (held > self._most_bytes and len(self._idle) > 1):
                _, (_, oldest) = self._idle.popitem(last=False)
                held -= oldest.bytes_held
                dropped.append(oldest)
        for oldest in dropped:
            oldest.close()

    def close(self) -> None:
        """Close those at rest; the pool can still be used."""
        with self._lock:
            idle = [decoder for _, decoder in self._idle.values()]
            self._idle.clear()
        for decoder in idle:
            decoder.close()
