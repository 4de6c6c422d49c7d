"""Reading every byte of a set: rows, pictures, and the checksums that the hub's cache names its files by."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iltools_datasets.errors import IltoolsError, SourceError
from iltools_datasets.lerobot.camera import Camera
from iltools_datasets.lerobot.reader import LeRobotReader

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PICTURES_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something of a set that cannot be read, or is not what its checksum says.

    Attributes:
        place: a file, or an episode.
        key: the camera, None where it is about rows or bytes.
        message: what is wrong.
    """

    place: str
    key: str | None
    message: str


def verify_set(root: str | Path, progress: Callable[[int, int], None] | None = None) -> tuple[list[Unreadable], int]:
    """Read every row and decode every picture; return what cannot be, and how many files had a checksum.

    A LeRobot set has no checksums of its own. In a snapshot of the hub's cache the large files link to blobs that are
    named after their SHA-256, which is compared.

    Args:
        root: the set.
        progress: called with (steps done, steps in all) now and then.
    """
    root = Path(root)
    blobs = list(_blobs(root))
    broken = [entry for entry in map(_check_blob, blobs) if entry is not None]
    try:
        reader = LeRobotReader(root)
    except IltoolsError as error:
        return [*broken, Unreadable(str(root), None, str(error))], len(blobs)
    total = len(reader.camera_keys) * reader.num_episodes + 1
    done = 1
    for key in reader.camera_keys:
        camera = reader.camera(key)
        buffer = np.empty((_PICTURES_AT_ONCE, *camera.shape), np.uint8)
        for position, number in enumerate(reader.episode_numbers.tolist()):
            broken += _check_pictures(reader, camera, position, number, buffer)
            done += 1
            if progress is not None:
                progress(done, total)
    return broken, len(blobs)


def _check_pictures(
    reader: LeRobotReader, camera: Camera, position: int, number: int, buffer: np.ndarray
) -> Iterator[Unreadable]:
    segment = reader.store.segments[position]
    for begin in range(segment.start, segment.start + segment.length, _PICTURES_AT_ONCE):
        rows = np.arange(begin, min(begin + _PICTURES_AT_ONCE, segment.start + segment.length))
        try:
            camera.read(rows, buffer[: len(rows)])
        except SourceError as error:
            yield Unreadable(f"episode_{number:06d}", camera.key, str(error))
            return


def _blobs(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            name = Path(os.path.realpath(path)).name
            if _SHA256.fullmatch(name):
                yield path, name


def _check_blob(blob: tuple[Path, str]) -> Unreadable | None:
    path, expected = blob
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return Unreadable(str(path), None, f"{path}: cannot be read: {error}")
    if found != expected:
        return Unreadable(str(path), None, f"{path}: its SHA-256 is {found}, expected {expected}")
    return None
