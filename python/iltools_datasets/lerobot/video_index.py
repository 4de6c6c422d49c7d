"""Which pictures a video file holds, and at what times: from its packets, without decoding one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import IltoolsError, SourceError, StoreChangedError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4")
_NEVER_REORDERED = ("av1", "vp9")
"""Codecs whose packets come in the order in which their pictures are shown."""
_COMPARED_PACKETS = 32
_MOST_PICTURES = 50_000_000
_OPTIONS = {"protocol_whitelist": "file", "enable_drefs": "0", "use_absolute_path": "0"}

FileStamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """The pictures of one file in the order in which they are shown.

    Attributes:
        time: int64 [P], rising, in units of `time_base`.
        keyframe: int64 [P], the picture at which decoding has to begin for each.
        time_base: seconds per unit.
        size: (H, W).
        codec: its name.
        stamp: device-independent identity of the file as it was: inode, bytes, time of the last change in ns.
    """

    time: NDArray[np.int64]
    keyframe: NDArray[np.int64]
    time_base: Fraction
    size: tuple[int, int]
    codec: str
    stamp: FileStamp

    def __len__(self) -> int:
        return len(self.time)

    @property
    def spacing(self) -> int | None:
        """Median time from one picture to the next in units of `time_base`; None for a single picture."""
        return int(np.median(np.diff(self.time))) if len(self.time) > 1 else None


def pyav() -> Any:
    """Return the module av; MissingExtraError where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise missing_extra("data", "reading videos of LeRobot data") from error
    return av


@contextmanager
def naming_video(path: Path) -> Iterator[None]:
    """Turn what PyAV raises into a SourceError that names the file."""
    av = pyav()
    try:
        yield
    except IltoolsError:
        raise
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        text = " ".join(str(error).split())[:300]
        raise SourceError(f"{path}: no video that can be read: {text or type(error).__name__}") from error


def file_stamp(path: Path) -> FileStamp:
    """Return what tells one content of a file from another; SourceError if it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise SourceError(f"{path}: there is no such video: {error.strerror}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def open_video(path: Path) -> tuple[InputContainer, VideoStream]:
    """Return an open mp4 and its video stream, set to decode in the calling thread.

    Nothing but an mp4 of a known codec is opened, and nothing but this one file: a script or a list that names others
    is refused. Raises SourceError.
    """
    with naming_video(path):
        container = pyav().open(f"file:{os.path.realpath(path)}", "r", format="mp4", options=dict(_OPTIONS))
        try:
            if not container.streams.video:
                raise SourceError(f"{path}: holds no video")
            stream = container.streams.video[0]
            codec = _codec(stream)
            if codec not in CODECS:
                raise SourceError(f"{path}: codec {codec} is not read; {', '.join(CODECS)} are")
            stream.codec_context.thread_count = 1
            stream.codec_context.thread_type = "NONE"
        except BaseException:
            container.close()
            raise
    return container, stream


def _codec(stream: VideoStream) -> str:
    return str(stream.codec_context.codec.canonical_name)


def index_video(path: Path, known: FileStamp | None = None) -> VideoIndex:
    """Return the pictures of a video file.

    Raises SourceError if it cannot be read or does not begin with a keyframe, StoreChangedError if it is not the file
    that is `known`.
    """
    stamp = file_stamp(path)
    if known is not None and stamp != known:
        raise StoreChangedError(f"{path}: changed since the data set was opened; open it again")
    container, stream = open_video(path)
    with container, naming_video(path):
        if stream.time_base is None:
            raise SourceError(f"{path}: its video has no time base")
        codec, context = _codec(stream), stream.codec_context
        size, time_base = (context.height, context.width), Fraction(stream.time_base)
        table = _from_container(stream) if codec in _NEVER_REORDERED else _from_packets(path, container, stream)
        if table is not None and codec in _NEVER_REORDERED and not _agrees(container, stream, table):
            table = None
    if table is None:
        container, stream = open_video(path)
        with container, naming_video(path):
            table = _from_packets(path, container, stream)
    return VideoIndex(*_in_order(path, *table), time_base, size, codec, stamp)


def _in_order(
    path: Path, times: NDArray[np.int64], keys: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return times and keyframes of pictures as they are shown; packets come as they are decoded."""
    if not len(times):
        raise SourceError(f"{path}: holds no picture that can be found; is it cut?")
    order = np.argsort(times, kind="stable")
    times, keys = times[order], keys[order]
    if (np.diff(times) <= 0).any():
        raise SourceError(f"{path}: two of its pictures have the same time")
    if not keys[0]:
        raise SourceError(f"{path}: its first picture is no keyframe, so it cannot be decoded")
    return times, np.maximum.accumulate(np.where(keys, np.arange(len(keys)), 0))


def _from_container(stream: VideoStream) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
    """Return times and keyframes from the index that the container keeps; None if it has none or PyAV hides it."""
    entries = getattr(stream, "index_entries", None)
    if entries is None or not 0 < len(entries) <= _MOST_PICTURES or (stream.frames and len(entries) != stream.frames):
        return None
    rows = [(entry.timestamp, entry.is_keyframe) for entry in entries if not entry.is_discard]
    return np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.bool_)


def _agrees(container: InputContainer, stream: VideoStream, table: tuple[NDArray[np.int64], NDArray[np.bool_]]) -> bool:
    """Whether the first packets say the same as the container's index."""
    times = table[0].tolist()
    seen = 0
    for packet in container.demux(stream):
        if packet.pts is None or packet.is_discard:
            continue
        if seen == len(times) or packet.pts != times[seen]:
            return False
        seen += 1
        if seen == _COMPARED_PACKETS:
            return True
    return seen == len(times)


def _from_packets(
    path: Path, container: InputContainer, stream: VideoStream
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    times: list[int] = []
    keys: list[bool] = []
    for packet in container.demux(stream):
        if packet.pts is None or packet.is_discard:
            continue
        if packet.is_corrupt or len(times) == _MOST_PICTURES:
            raise SourceError(f"{path}: cut or damaged at picture {len(times)}")
        times.append(packet.pts)
        keys.append(packet.is_keyframe)
    return np.array(times, np.int64), np.array(keys, np.bool_)


def check_unchanged(path: Path, stamp: FileStamp) -> None:
    """Raise StoreChangedError if a video is not the one that was indexed."""
    if file_stamp(path) != stamp:
        raise StoreChangedError(f"{path}: changed since the data set was opened; open it again")
