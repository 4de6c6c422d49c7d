"""What `meta/info.json` says: version, rate, features, and where the files lie."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from iltools_datasets.errors import MissingKeyError, SourceError, SourceNotFoundError
from iltools_datasets.lerobot.json_files import read_document, shown, whole_number
from iltools_datasets.lerobot.paths import PathPattern, check_feature_key

INFO = "meta/info.json"
EPISODE_FIELDS = ("episode_chunk", "episode_index")
FILE_FIELDS = ("chunk_index", "file_index")
ID_KEYS = ("episode_index", "frame_index", "timestamp", "index", "task_index")
"""Columns that every set has, whether or not they are listed as features."""

_NUMBERS = frozenset(
    ("bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
)
_CHANNEL_NAMES = ("channel", "channels", "c", "rgb")
_CHANNELS = (1, 3, 4)
_MOST_DIMENSIONS = 8
_LARGEST_ROW = 1 << 30  # elements

FeatureKind = Literal["numbers", "video", "image", "other"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature as it is declared.

    Attributes:
        key: its name.
        dtype: what it says it is: a numpy name, `"video"`, `"image"`, `"string"`, ...
        shape: shape of one row, `(1,)` for a plain number; as declared, so `(H, W, C)` or `(C, H, W)` for a camera.
        names: names of its elements: None, a list, a nested list or a dict.
        details: its `info` or `video_info`.
        kind: `"numbers"` is an array of the store; `"video"` and `"image"` are cameras; `"other"` (strings, lists of
            free length, depth, audio) is listed, and cannot be asked for.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: Any = None
    details: Mapping[str, Any] = field(default_factory=dict)
    kind: FeatureKind = "numbers"

    @property
    def is_camera(self) -> bool:
        """Whether its rows are pictures that can be asked for."""
        return self.kind in ("video", "image")

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a camera's pictures, whichever way round they are declared."""
        if len(self.shape) == 2:
            return (*self.shape, 1)
        names = [str(name).lower() for name in self.names] if isinstance(self.names, list) else []
        channels_first = len(names) == 3 and names[0] in _CHANNEL_NAMES
        channels_last = len(names) == 3 and names[2] in _CHANNEL_NAMES
        if not channels_first and not channels_last:
            channels_first = self.shape[0] in _CHANNELS and self.shape[2] not in _CHANNELS
        first, second, third = self.shape
        return (second, third, first) if channels_first else (first, second, third)

    @property
    def store_dtype(self) -> np.dtype[Any]:
        """dtype of its column in the store: float64 becomes float32, everything else stays."""
        return np.dtype("float32" if self.dtype == "float64" else self.dtype)

    def refusal(self) -> str:
        """Return why a feature of kind "other" cannot be asked for."""
        if self.dtype in ("video", "image"):
            return "a depth camera, which is not read yet"
        if self.dtype == "audio":
            return "audio, which is not read yet"
        if self.dtype in _NUMBERS:
            return f"a list of {self.dtype} of free length, which is no array"
        return f"of dtype {self.dtype!r}, which is no array"


@dataclass(frozen=True, slots=True)
class LeRobotInfo:
    """A checked `info.json`.

    Attributes:
        version: (major, minor) of `codebase_version`.
        codebase_version: as it is written.
        fps: frames per second, exact.
        features: by name, those that every set has included.
        robot_type: what the set says, or None.
        chunks_size: episodes (v2) or files (v3) per chunk.
        data_path: pattern of the parquet files.
        video_path: pattern of the mp4 files, None where there are none.
        total_episodes: as declared, or None.
        total_frames: as declared, or None.
        notes: what is unusual.
    """

    version: tuple[int, int]
    codebase_version: str
    fps: Fraction
    features: Mapping[str, Feature]
    robot_type: str | None
    chunks_size: int
    data_path: PathPattern
    video_path: PathPattern | None
    total_episodes: int | None
    total_frames: int | None
    notes: tuple[str, ...] = ()

    @property
    def many_episodes_per_file(self) -> bool:
        """Whether the set is laid out as version 3: several episodes to a file."""
        return self.version[0] >= 3

    @property
    def camera_keys(self) -> list[str]:
        """Features whose rows are pictures."""
        return [key for key, feature in self.features.items() if feature.is_camera]

    @property
    def number_keys(self) -> list[str]:
        """Features that are columns of the store."""
        return [key for key, feature in self.features.items() if feature.kind == "numbers"]

    def feature(self, key: str, where: object = "the data set") -> Feature:
        """Return a feature; MissingKeyError names those there are, SourceError says why one cannot be asked for."""
        found = self.features.get(key)
        if found is None:
            raise MissingKeyError(f"{where}: no feature {key!r}; there are {list(self.features)}")
        if found.kind == "other":
            raise SourceError(f"{where}: feature {key!r} is {found.refusal()}")
        return found


def read_info(root: Path) -> LeRobotInfo:
    """Return what a set says of itself, checked.

    Raises:
        SourceNotFoundError: there is no `meta/info.json`.
        SourceError: a field of it is wrong; the message names it. A version that is not read is named with the remedy.
    """
    path = root / INFO
    if not path.is_file():
        raise SourceNotFoundError(f"{root}: no LeRobot data set: there is no {INFO}")
    document = read_document(path)
    version, text, notes = _version(document.get("codebase_version"), path)
    features = _features(document.get("features"), path)
    numbers, chunks = (FILE_FIELDS, 1000) if version[0] >= 3 else (EPISODE_FIELDS, 1000)
    has_video = any(feature.dtype == "video" for feature in features.values())
    video = document.get("video_path")
    if video is None and has_video:
        raise SourceError(f"{path}: video_path is missing, and there are cameras of dtype video")
    return LeRobotInfo(
        version=version,
        codebase_version=text,
        fps=_rate(document.get("fps"), path),
        features=features,
        robot_type=None if document.get("robot_type") is None else str(document["robot_type"]),
        chunks_size=whole_number(document.get("chunks_size", chunks), f"{path}: chunks_size", 1),
        data_path=PathPattern(document.get("data_path"), numbers, (), f"{path}: data_path"),
        video_path=None if video is None else PathPattern(video, numbers, ("video_key",), f"{path}: video_path"),
        total_episodes=_total(document, "total_episodes", path),
        total_frames=_total(document, "total_frames", path),
        notes=tuple(notes),
    )


def _version(text: object, path: Path) -> tuple[tuple[int, int], str, list[str]]:
    match = re.fullmatch(r"v?([0-9]{1,4})\.([0-9]{1,4})(?:\.[0-9]{1,4})?", text) if isinstance(text, str) else None
    if match is None:
        raise SourceError(f"{path}: codebase_version: expected one like 'v2.1', found {shown(text)}")
    major, minor = int(match[1]), int(match[2])
    if major < 2:
        raise SourceError(
            f"{path}: codebase_version {text} is not read, v2.0 to v3.0 are; convert it with the script of lerobot 0.1 "
            "(lerobot/common/datasets/v2/convert_dataset_v1_to_v2.py)"
        )
    if major > 3:
        raise SourceError(
            f"{path}: codebase_version {text} is newer than v3.0, the newest that this release reads; update "
            "iltools-datasets"
        )
    known = minor <= (1 if major == 2 else 0)
    read_as = "v2.1" if major == 2 else "v3.0"
    return (major, minor), match.string, [] if known else [f"codebase_version {text} is read as {read_as}"]


def _rate(value: object, path: Path) -> Fraction:
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    if not right:
        raise SourceError(f"{path}: fps: expected a positive number, found {shown(value)}")
    return Fraction(str(value))


def _total(document: Mapping[str, Any], name: str, path: Path) -> int | None:
    return None if document.get(name) is None else whole_number(document[name], f"{path}: {name}")


def _features(declared: object, path: Path) -> dict[str, Feature]:
    if not isinstance(declared, dict) or not declared:
        raise SourceError(f"{path}: features: expected an object of features, found {shown(declared)}")
    features = {}
    for key, entry in declared.items():
        where = f"{path}: features: {check_feature_key(key, f'{path}: features')!r}"
        if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
            raise SourceError(f"{where}: expected an object with dtype and shape, found {shown(entry)}")
        features[key] = _feature(key, entry, where)
    for key in ID_KEYS:
        dtype = "float32" if key == "timestamp" else "int64"
        known = features.setdefault(key, Feature(key, dtype, (1,)))
        if known.kind != "numbers" or math.prod(known.shape) != 1:
            raise SourceError(
                f"{path}: features: {key!r}: expected one number a row, found {known.dtype} {list(known.shape)}"
            )
    return features


def _feature(key: str, entry: Mapping[str, Any], where: str) -> Feature:
    dtype, declared = entry["dtype"], entry.get("shape")
    details = entry.get("info") or entry.get("video_info") or {}
    details = details if isinstance(details, dict) else {}
    # A list of free length has no extent to declare; whatever else is no list of integers is a mistake.
    free = declared is None or (isinstance(declared, list) and None in declared)
    if free:
        shape: tuple[int, ...] = ()
    elif isinstance(declared, list) and len(declared) <= _MOST_DIMENSIONS:
        shape = tuple(whole_number(extent, f"{where}: shape") for extent in declared)
    else:
        raise SourceError(f"{where}: shape: expected a list of integers, found {shown(declared)}")
    if math.prod(shape) > _LARGEST_ROW:
        raise SourceError(f"{where}: shape {list(shape)} has more elements than a row may have ({_LARGEST_ROW:,})")
    kind: FeatureKind = "other"
    if dtype in ("video", "image"):
        depth = any(details.get(name) for name in ("is_depth_map", "video.is_depth_map")) or entry.get("is_depth_map")
        if not depth:
            kind = "video" if dtype == "video" else "image"
            if free or len(shape) not in (2, 3) or 0 in shape:
                raise SourceError(f"{where}: shape: expected [H, W, C] of a camera, found {shown(declared)}")
    elif dtype in _NUMBERS and not free and 0 not in shape:
        kind = "numbers"
    return Feature(key, dtype, shape, entry.get("names"), details, kind)
