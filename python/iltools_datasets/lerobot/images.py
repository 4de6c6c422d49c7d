"""Pictures that lie in the data files as PNG or JPEG: copied once, still encoded, to where any of them can be read."""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.files import make_directory, sync_directory, write_json
from iltools_datasets._base.lock import locked
from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot.frame_cache import Shape
from iltools_datasets.lerobot.info import LeRobotInfo
from iltools_datasets.lerobot.parquet import naming, open_parquet
from iltools_datasets.lerobot.paths import within
from iltools_datasets.lerobot.tables import DataFile, data_files

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
LARGEST_IMAGE = 256 << 20
"""Bytes of an encoded picture."""
_BATCH_ROWS = 64
_PER_JOB = 8
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

PlaceOf = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]
"""(episode int64 [R], frame int64 [R]) -> number of each frame in the set, int64 [R]."""


def pillow() -> Any:
    """Return the module PIL.Image; MissingExtraError where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("data", "reading images of LeRobot data") from error
    return Image


class EncodedImages:
    """The encoded pictures of one camera, readable in any order.

    The bytes lie one after the other in a file of the set's cache directory, or, where there is none, in one that is
    gone with this process.

    Args:
        root: the set.
        info: its `info.json`.
        key: the camera.
        num_frames: frames of the set.
        place_of: where each row belongs.
        directory: the set's cache directory or None.
        identity: the set's fingerprint.

    Raises SourceError naming episode and frame where a picture is missing.
    """

    def __init__(
        self,
        root: Path,
        info: LeRobotInfo,
        key: str,
        num_frames: int,
        place_of: PlaceOf,
        directory: Path | None,
        identity: str,
    ) -> None:
        self._root, self._info, self._key = root, info, key
        self._num_frames, self._place_of = num_frames, place_of
        if directory is None:
            with tempfile.TemporaryFile() as file:
                self._span = self._copy(file)
                file.flush()
                self._file = os.dup(file.fileno())
        else:
            self._file, self._span = self._find_or_copy(directory, identity)
        weakref.finalize(self, os.close, self._file)

    def encoded(self, frame: int) -> bytes:
        """Return the encoded picture of a frame."""
        start, size = self._span[frame]
        return os.pread(self._file, int(size), int(start))

    def _find_or_copy(self, directory: Path, identity: str) -> tuple[int, NDArray[np.int64]]:
        place = directory / f"images-{list(self._info.features).index(self._key)}"
        about = {"identity": identity, "key": self._key, "num_frames": self._num_frames}
        description, data, spans = place / "images.json", place / "images.bin", place / "spans.npy"
        make_directory(place)
        with locked(place / ".lock"):
            try:
                same = json.loads(description.read_text()) == about
            except (OSError, ValueError):
                same = False
            if not same:
                description.unlink(missing_ok=True)
                unfinished = data.with_suffix(".partial")
                try:
                    with unfinished.open("wb") as file:
                        span = self._copy(file)
                        file.flush()
                        os.fsync(file.fileno())
                except BaseException:
                    unfinished.unlink(missing_ok=True)
                    raise
                unfinished.replace(data)
                with spans.open("wb") as file:
                    np.save(file, span)
                    file.flush()
                    os.fsync(file.fileno())
                sync_directory(place)
                write_json(description, about)
            return os.open(data, os.O_RDONLY), np.load(spans, mmap_mode="r")

    def _copy(self, to: BinaryIO) -> NDArray[np.int64]:
        """Append every picture to a file and return (first byte, bytes) of each frame, int64 [num_frames, 2]."""
        span = np.full((self._num_frames, 2), -1, np.int64)
        at = to.tell()
        for file in data_files(self._root, self._info):
            for episode, frame, pictures in self._rows(file):
                places = self._place_of(episode, frame)
                for row, picture in enumerate(pictures):
                    where = f"{file.path}: episode {episode[row]}, frame {frame[row]}: {self._key!r}"
                    content = self._content(picture, where)
                    to.write(content)
                    span[places[row]] = at, len(content)
                    at += len(content)
        missing = np.flatnonzero(span[:, 0] < 0)
        if len(missing):
            raise SourceError(f"{self._root}: {self._key!r}: {len(missing)} frames have no picture")
        return span

    def _rows(self, file: DataFile) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], list[Any]]]:
        opened = open_parquet(file.path)
        with opened, naming(file.path):
            if self._key not in opened.schema_arrow.names:
                raise SourceError(
                    f"{file.path}: column {self._key!r} is missing; there are {opened.schema_arrow.names}"
                )
            names = ["episode_index", "frame_index", self._key]
            for batch in opened.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                ids = [batch.column(name).to_numpy(zero_copy_only=False).astype(np.int64) for name in names[:2]]
                pictures = batch.column(batch.schema.names.index(self._key))
                storage = pictures.storage if hasattr(pictures.type, "storage_type") else pictures
                yield ids[0], ids[1], storage.to_pylist()

    def _content(self, picture: object, where: str) -> bytes:
        content = picture.get("bytes") if isinstance(picture, dict) else picture
        if content is None and isinstance(picture, dict) and picture.get("path"):
            path = within(self._root, str(picture["path"]), where)
            if not path.is_file():
                raise SourceError(f"{where}: there is no file {path}")
            if path.stat().st_size > LARGEST_IMAGE:
                raise SourceError(f"{where}: {path} has more than {LARGEST_IMAGE:,} bytes")
            content = path.read_bytes()
        if not isinstance(content, bytes) or not content:
            raise SourceError(f"{where}: there is no picture, its bytes are null")
        if len(content) > LARGEST_IMAGE:
            raise SourceError(f"{where}: the encoded picture has more than {LARGEST_IMAGE:,} bytes")
        return content


class ImagePictures:
    """The pictures of a camera whose frames lie in the data files.

    Args:
        encoded: the encoded pictures, copied when they are first asked for.
        declared: (H, W, C) of each.
        starts: first frame of each episode, int64 [E].
        name: frame of the set -> what messages say of it.
    """

    def __init__(
        self,
        encoded: Callable[[], EncodedImages],
        declared: Shape,
        starts: NDArray[np.int64],
        name: Callable[[int], str],
    ) -> None:
        self._make, self._declared, self._starts, self._name = encoded, declared, starts, name
        self._encoded: EncodedImages | None = None
        self._lock = Lock()
        self.notes: list[str] = []

    def check(self, segments: Iterable[int]) -> None:
        """Raise SourceError if a frame of any episode has no picture; whether they can be decoded shows later."""
        self._images()

    def leftovers(self) -> list[str]:
        """Return nothing: each picture lies in its frame's row."""
        return []

    def jobs(
        self, segment: NDArray[np.int64], frame: NDArray[np.int64], outputs: list[NDArray[np.uint8]]
    ) -> list[Callable[[], None]]:
        """Return calls that decode frame i of segment i to output i, a few each."""
        places = (self._starts[segment] + frame).tolist()
        images = self._images()

        def decode(begin: int) -> None:
            for place, out in zip(places[begin : begin + _PER_JOB], outputs[begin : begin + _PER_JOB], strict=True):
                decode_image(images.encoded(place), self._declared, out, self._name(place))

        return [partial(decode, begin) for begin in range(0, len(places), _PER_JOB)]

    def _images(self) -> EncodedImages:
        with self._lock:
            if self._encoded is None:
                self._encoded = self._make()
            return self._encoded


def decode_image(content: bytes, declared: Shape, out: NDArray[np.uint8], where: str) -> None:
    """Decode a picture of the declared size (H, W, C) to `out`, resized to fit if need be (bilinear).

    Its header is looked at before anything is decoded. Raises SourceError naming `where`.
    """
    images = pillow()
    height, width, channels = declared
    try:
        with images.open(BytesIO(content), formats=FORMATS) as picture:
            if picture.size != (width, height):
                raise SourceError(
                    f"{where}: expected a picture of {height} x {width} (H x W), found {picture.size[1]} x "
                    f"{picture.size[0]}"
                )
            if picture.mode not in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA", "RGBX"):
                raise SourceError(f"{where}: expected a picture of 8 bits, found mode {picture.mode}")
            converted = picture.convert(_MODES[channels])
            if out.shape[:2] != (height, width):
                converted = converted.resize((out.shape[1], out.shape[0]), images.Resampling.BILINEAR)
            out[:] = np.asarray(converted).reshape(out.shape)
    except SourceError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, images.DecompressionBombError) as error:
        raise SourceError(f"{where}: no picture that can be decoded: {error}") from error
