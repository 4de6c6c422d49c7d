"""Decoded pictures kept for the next time: a bounded number of bytes in memory, or a column of a directory."""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.files import make_directory, sync_directory, write_json
from iltools_datasets._base.lock import locked

_UNSYNCED = 64 << 20
"""Bytes of pictures that are written before they are synced and, only then, said to be there."""


Shape = tuple[int, int, int]


class FrameCache(Protocol):
    """Pictures of one camera by frame."""

    def get(self, frame: int, out: NDArray[np.uint8]) -> bool:
        """Copy a picture to `out` [H, W, C] if it is there."""

    def put(self, frame: int, picture: NDArray[np.uint8]) -> None:
        """Keep a copy of a picture [H, W, C]."""

    def close(self) -> None:
        """Finish what is being written."""


class MemoryFrames:
    """At most so many bytes of pictures, of any number of cameras; those used last stay. It pickles empty.

    Args:
        most_bytes: bytes of all pictures together.
    """

    def __init__(self, most_bytes: int) -> None:
        if most_bytes < 0:
            raise ValueError(f"frame_cache: expected a number of bytes, found {most_bytes}")
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Hashable, int], NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0

    def __reduce__(self) -> tuple[type[MemoryFrames], tuple[int]]:
        return MemoryFrames, (self.most_bytes,)

    @property
    def num_bytes(self) -> int:
        """Bytes of the pictures that are kept."""
        return self._bytes

    def of(self, name: str, num_frames: int, shape: Shape, identity: str) -> FrameCache:
        """Return the part that belongs to one camera; see `FrameDirectory.of`."""
        return _MemoryOfCamera(self, (name, shape, identity))

    def get(self, key: tuple[Hashable, int], out: NDArray[np.uint8]) -> bool:
        """Copy a picture to `out` if it is there."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return False
            self._kept.move_to_end(key)
        out[:] = found
        return True

    def put(self, key: tuple[Hashable, int], picture: NDArray[np.uint8]) -> None:
        """Keep a copy of a picture, dropping those used longest ago; one that is larger than the cache is not kept."""
        if picture.nbytes > self.most_bytes:
            return
        copied = picture.copy()
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = copied
            self._bytes += copied.nbytes
            while self._bytes > self.most_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


class _MemoryOfCamera:
    def __init__(self, memory: MemoryFrames, camera: Hashable) -> None:
        self._memory, self._camera = memory, camera

    def get(self, frame: int, out: NDArray[np.uint8]) -> bool:
        return self._memory.get((self._camera, frame), out)

    def put(self, frame: int, picture: NDArray[np.uint8]) -> None:
        self._memory.put((self._camera, frame), picture)

    def close(self) -> None:
        return


class DiskFrames:
    """A column of pictures in a directory, one row per frame of the set, filled as pictures are decoded.

    Processes share it: each writes rows and, once they are on the disk, marks them in a second file; what a crash
    leaves unmarked is decoded again. Rows that were never written take no room. A full disk ends the filling, not the
    training.

    Args:
        directory: made if it is not there.
        num_frames: rows.
        shape: (H, W, C) of a picture.
        identity: what the pictures are of; a directory filled with others is emptied.
    """

    def __init__(self, directory: Path, num_frames: int, shape: Shape, identity: str) -> None:
        self._shape, self._row = shape, int(np.prod(shape))
        self._lock = threading.Lock()
        self._pending: list[int] = []
        self.full: str | None = None
        """Why nothing more is kept, if so."""
        make_directory(directory)
        about = {"identity": identity, "num_frames": num_frames, "shape": list(shape)}
        rows, marks = directory / "frames.u8", directory / "filled.u8"
        with locked(directory / ".lock"):
            # Both files of one making: rows of another would be taken for those that are marked here.
            _empty_unless(directory, about, rows, marks, num_frames)
            self._file = os.open(rows, os.O_RDWR)
            weakref.finalize(self, os.close, self._file)
            self._marks = np.memmap(marks, np.uint8, "r+", shape=(num_frames,))
        self._here = np.zeros(num_frames, np.bool_)

    def get(self, frame: int, out: NDArray[np.uint8]) -> bool:
        """Copy a picture to `out` if it is there."""
        if not (self._here[frame] or self._marks[frame]):
            return False
        return os.preadv(self._file, [out.reshape(-1).data], frame * self._row) == self._row

    def put(self, frame: int, picture: NDArray[np.uint8]) -> None:
        """Write a picture; it is marked once it is on the disk."""
        if self.full is not None or self._here[frame] or self._marks[frame]:
            return
        try:
            written = os.pwrite(self._file, np.ascontiguousarray(picture).reshape(-1).data, frame * self._row)
        except OSError as error:
            self.full = str(error)
            return
        if written != self._row:
            return
        with self._lock:
            self._here[frame] = True
            self._pending.append(frame)
            if len(self._pending) * self._row >= _UNSYNCED:
                self._mark()

    def _mark(self) -> None:
        if self._pending:
            os.fdatasync(self._file)
            self._marks[self._pending] = 1
            self._marks.flush()
            self._pending.clear()

    def close(self) -> None:
        """Sync and mark what was written."""
        with self._lock:
            self._mark()


def _empty_unless(directory: Path, about: Mapping[str, object], rows: Path, marks: Path, num_frames: int) -> None:
    description = directory / "frames.json"
    try:
        same = json.loads(description.read_text()) == about
    except (OSError, ValueError):
        same = False
    if same and rows.exists() and marks.exists() and marks.stat().st_size == num_frames:
        return
    for path in (description, marks, rows):
        path.unlink(missing_ok=True)
    with marks.open("wb") as file:
        file.truncate(num_frames)
        os.fsync(file.fileno())
    with rows.open("wb") as file:
        os.fsync(file.fileno())
    sync_directory(directory)
    write_json(description, about)


class FrameDirectory:
    """A directory with a `DiskFrames` for each set and camera.

    Args:
        directory: made if it is not there.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def of(self, name: str, num_frames: int, shape: Shape, identity: str) -> FrameCache:
        """Return the part that belongs to one camera.

        Args:
            name: a path that no other camera of any set has.
            num_frames: frames of the set.
            shape: (H, W, C) of what is kept.
            identity: tells one content of the set's files from another.
        """
        return DiskFrames(self.directory / name, num_frames, shape, identity)


def frame_cache_of(
    kept_in: int | str | Path | MemoryFrames | FrameDirectory | None,
) -> MemoryFrames | FrameDirectory | None:
    """Return what `frame_cache=` means: so many bytes of memory, a directory, or (None, 0) nothing."""
    if kept_in is None or isinstance(kept_in, MemoryFrames | FrameDirectory):
        return kept_in
    if isinstance(kept_in, str | Path):
        return FrameDirectory(kept_in)
    return MemoryFrames(kept_in) if kept_in else None
