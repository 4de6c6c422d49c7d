"""A LeRobot directory of any version: its numbers as a store, its pictures by frame; numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets.errors import MissingKeyError, SourceError, StoreChangedError
from iltools_datasets.lerobot.build import store_names
from iltools_datasets.lerobot.cache import fingerprint, open_store
from iltools_datasets.lerobot.camera import Camera
from iltools_datasets.lerobot.cameras import Cameras
from iltools_datasets.lerobot.choice import EpisodeChoice
from iltools_datasets.lerobot.episodes import EpisodeTable, read_episodes, read_tasks
from iltools_datasets.lerobot.find import find
from iltools_datasets.lerobot.frame_cache import FrameDirectory, MemoryFrames, frame_cache_of
from iltools_datasets.lerobot.info import Feature, LeRobotInfo, read_info
from iltools_datasets.lerobot.stats import Rows, Statistics, read_statistics
from iltools_datasets.store.keys import Key
from iltools_datasets.store.segments import int64
from iltools_datasets.store.trajectory_store import TrajectoryStore

Offsets = Sequence[int] | NDArray[np.int64]


class LeRobotReader:
    """An open LeRobot set (v2.0, v2.1, v3.0).

    Frames are numbered through all episodes in the order of their numbers, without gaps: frame i is transition i of
    `store`, whatever the set's own column `index` says. Every `index` below is such a number; `choice(episodes)` turns
    the items of chosen episodes into them.

    The store is a snapshot of the files as they were when it was built; it is built at the first open, into a cache,
    and found there until one of the files changes.

    A reader pickles as its path; the other process opens the set again and refuses one that has changed.

    Args:
        root: the directory that holds `meta/info.json`.
        cache: directory of caches; None: `$ILTOOLS_CACHE`, else `iltools_datasets` in the user's cache directory.

    Attributes:
        root: the directory.
        info: its checked `info.json`.
        store: every numeric column of every episode as a `TrajectoryStore`: trajectory ids are episode numbers, an
            episode of T frames is T transitions, `("next", key)` is the following frame's value, at the end the last
            frame's own, and `("next", "done")` bool [T, 1] is true there. See `column` for names.

    Raises:
        SourceNotFoundError: there is no set.
        SourceError: something in it is wrong; nothing was built.
        MissingExtraError: the store has to be built and pyarrow is missing.

    Examples:
        >>> reader = LeRobotReader.find("picks")
        >>> reader
        LeRobotReader('picks', v3.0, 3 episodes, 15 frames)
    """

    def __init__(self, root: str | Path, *, cache: str | Path | None = None) -> None:
        self.root = Path(root)
        self._cache = None if cache is None else Path(cache)
        self.info: LeRobotInfo = read_info(self.root)
        self._fingerprint = fingerprint(self.root, self.info)
        self._cached = open_store(self.root, self.info, self._cache, self._fingerprint)
        self.store: TrajectoryStore = self._cached.store
        self._columns = store_names(self.info.features)
        self._start = self.store.segments.start
        self._length = self.store.segments.length
        self._cameras = Cameras(self.root, self.info, self._cached, lambda: self.episodes, self._fingerprint)
        self._plain_cameras: dict[str, Camera] = {}

    @classmethod
    def find(
        cls,
        repo_id: str,
        root: str | Path | None = None,
        revision: str | None = None,
        *,
        cache: str | Path | None = None,
        episodes: Iterable[int] | None = None,
        cameras: Iterable[str] | None = None,
        download: bool = True,
    ) -> LeRobotReader:
        """Open a set by its name; see `lerobot.find` for where it is looked for and what is downloaded, if at all."""
        place = find(repo_id, root, revision, episodes=episodes, cameras=cameras, download=download)
        return cls(place, cache=cache)

    def __reduce__(self) -> tuple[Callable[..., LeRobotReader], tuple[Any, ...]]:
        return _reopen, (self.root, self._cache, self._fingerprint)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.root)!r}, {self.info.codebase_version}, {self.num_episodes} episodes, "
            f"{self.num_frames} frames)"
        )

    @property
    def fps(self) -> Fraction:
        """Frames per second, exact."""
        return self.info.fps

    @property
    def features(self) -> Mapping[str, Feature]:
        """Everything a row has, by name, also what cannot be asked for (`Feature.kind` "other")."""
        return self.info.features

    @property
    def camera_keys(self) -> list[str]:
        """Features whose rows are pictures."""
        return self.info.camera_keys

    @property
    def num_frames(self) -> int:
        """Number of frames of all episodes."""
        return len(self.store)

    @property
    def num_episodes(self) -> int:
        """Number of episodes that have frames."""
        return len(self._start)

    @property
    def episode_numbers(self) -> NDArray[np.int64]:
        """int64 [num_episodes], rising, possibly with gaps."""
        return self.store.segments.traj_id

    @cached_property
    def episodes(self) -> EpisodeTable:
        """The episode table. Raises StoreChangedError if the set has changed since it was opened."""
        table = read_episodes(self.root, self.info)
        if not np.array_equal(table.index, self.episode_numbers) or not np.array_equal(table.length, self._length):
            raise self._changed()
        return table

    @cached_property
    def tasks(self) -> Mapping[int, str]:
        """The task in words of each `task_index`."""
        return read_tasks(self.root, self.info)

    @cached_property
    def stats(self) -> Mapping[str, Mapping[str, NDArray[Any]]]:
        """What the files state of all episodes; see `statistics`."""
        return self.statistics().of

    def statistics(self, episodes: EpisodeChoice | None = None) -> Statistics:
        """Return what the files state of some episodes, merged, and notes on what was left out; None means all.

        Nothing is computed from the rows: they are only compared. Raises SourceError for files that cannot be read.
        """
        chosen = (self.choice() if episodes is None else episodes).segments
        order = np.argsort(chosen)
        tasks = self.gather(np.arange(self.num_frames), ["task_index"])["task_index"][:, 0]
        least, greatest = (np.asarray(of.reduceat(tasks, self._start)) for of in (np.minimum, np.maximum))
        rows = Rows(self._length[chosen[order]], np.stack([least, greatest], axis=1)[chosen[order]])
        return read_statistics(self.root, self.info, self.episodes, chosen[order], rows)

    @property
    def notes(self) -> list[str]:
        """What is unusual about the set, a line each: what was not believed, left out, or not kept."""
        return [*self.info.notes, *self._cached.notes, *self._cameras.notes]

    def _changed(self) -> StoreChangedError:
        return StoreChangedError(f"{self.root}: its files changed since it was opened; open it again")

    def column(self, key: Key) -> Key:
        """Return the store's key of a feature, or of `("next", feature)`: the same unless no file can be named so.

        Raises MissingKeyError for what is no feature, SourceError for one that is no array of numbers.
        """
        if isinstance(key, tuple):
            if len(key) == 2 and key[0] == "next":
                return "next", self._plain(key[1])
            raise MissingKeyError(f'{self.root}: no key {key!r}; a feature or ("next", feature) is meant')
        return self._plain(key)

    def _plain(self, key: str) -> str:
        found = self._columns.get(key)
        if found is not None:
            return found
        if key in ("done", "terminated") and key not in self.features:
            return key
        if self.info.feature(key, self.root).is_camera:
            raise SourceError(f"{self.root}: {key!r} is a camera; pictures() gives its frames")
        raise AssertionError(key)

    def choice(self, episodes: Iterable[int] | None = None) -> EpisodeChoice:
        """Return the frames of some episodes, in the order given; None means all, in the order of their numbers.

        Raises OutOfRangeError for an episode that is not there, ValueError for one that is given twice.
        """
        return EpisodeChoice.of(self.store.segments, episodes, str(self.root))

    def locate(self, index: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (episode number, frame within it), int64 [B] each. Raises OutOfRangeError."""
        position, frame = self.store.segments.locate(index)
        return self.episode_numbers[position], frame

    def following(self, index: ArrayLike) -> NDArray[np.int64]:
        """Return the next frame of the same episode, int64 [B]; for a last frame itself. Raises OutOfRangeError."""
        rows = int64(index)
        position, frame = self.store.segments.locate(rows)
        return rows + (frame + 1 < self._length[position])

    def gather(
        self, index: ArrayLike, keys: Sequence[Key], out: Mapping[Key, NDArray[Any]] | None = None
    ) -> dict[Key, NDArray[Any]]:
        """Return the values of some frames.

        Args:
            index: int [B], each in [0, num_frames).
            keys: numeric features, or `("next", feature)` for the following frame's.
            out: C-contiguous arrays of the right dtypes to be filled, by key.

        Returns:
            `{key: [B, *shape]}` with the declared shape, so (B, 1) for a plain number; float64 as float32.

        Raises:
            OutOfRangeError: a frame is out of range.
            MissingKeyError, SourceError: see `column`.
        """
        columns = [self.column(key) for key in keys]
        given = None if out is None else {column: out[key] for key, column in zip(keys, columns, strict=True)}
        rows = self.store.gather(index, columns, given)
        return {key: rows[column] for key, column in zip(keys, columns, strict=True)}

    def window_rows(self, index: ArrayLike, offsets: Offsets) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the frames at some offsets of each frame, within its episode.

        Args:
            index: int [B].
            offsets: int [H], in frames, in any order, repeats allowed.

        Returns:
            (frames int64 [B, H], whether each lies outside the episode, bool [B, H]); outside, the first or last frame
            repeats.

        Raises OutOfRangeError.
        """
        rows = int64(index)
        steps = int64(offsets)
        position, frame = self.store.segments.locate(rows)
        wanted = frame[:, None] + steps
        last = self._length[position][:, None] - 1
        inside = np.minimum(np.maximum(wanted, 0), last)
        return inside + (rows - frame)[:, None], wanted != inside

    def windows(self, index: ArrayLike, key: Key, offsets: Offsets) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return a feature's values at some offsets of each frame.

        Args:
            index: int [B].
            key: as `gather` takes it.
            offsets: int [H], see `window_rows`.

        Returns:
            (values [B, H, *shape], whether each is padding, bool [B, H]).
        """
        rows, is_pad = self.window_rows(index, offsets)
        values = self.gather(rows.reshape(-1), [key])[key]
        return values.reshape(*rows.shape, *values.shape[1:]), is_pad

    def camera(
        self,
        key: str,
        *,
        size: tuple[int, int] | None = None,
        frame_cache: int | str | Path | MemoryFrames | FrameDirectory | None = None,
        episodes: EpisodeChoice | None = None,
    ) -> Camera:
        """Return a camera, whose `read(index, out=None)` gives pictures as uint8 [B, H, W, C].

        Args:
            key: a feature of dtype video or image.
            size: (H, W) to which pictures are resized (bilinear) before anything is kept; None: as they are.
            frame_cache: where decoded pictures are kept: bytes of memory at most, or a directory; None: nowhere. A
                `MemoryFrames` or `FrameDirectory` is shared by all cameras it is given to.
            episodes: whose pictures have to be there; the others are looked at when they are asked for.

        Raises:
            MissingKeyError: there is no such feature.
            SourceError: it is no camera, or pictures of `episodes` are missing.
        """
        kept = frame_cache_of(frame_cache)
        camera = self._cameras.camera(key, size, kept)
        camera.made_by = _reopen_camera, (self, key, size, kept)
        if episodes is not None:
            camera.check(episodes.segments.tolist())
        return camera

    def video_path(self, key: str, episode: int) -> Path | None:
        """Return the mp4 with a camera's pictures of an episode, there or not; None where they lie in the data files.

        Raises OutOfRangeError for an episode that is not there, and as `camera`.
        """
        return self._cameras.video_path(key, int(self.choice([episode]).segments[0]))

    def pictures(self, index: ArrayLike, key: str, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return a camera's pictures of some frames, uint8 [B, H, W, C]; see `camera` and `Camera.read`."""
        if key not in self._plain_cameras:
            self._plain_cameras[key] = self.camera(key)
        return self._plain_cameras[key].read(index, out)

    def offsets(self, delta_timestamps: Iterable[float], tolerance_s: float = 1e-4) -> NDArray[np.int64]:
        """Return seconds as offsets in frames, int64 [H].

        Raises ValueError, with the nearest possible values, for one that is off a whole number of frames by more than
        `tolerance_s` seconds.
        """
        seconds = [Fraction(str(float(delta))) if np.isfinite(delta) else None for delta in delta_timestamps]
        frames = [None if delta is None else round(delta * self.fps) for delta in seconds]
        off = [
            delta is None or frame is None or abs(Fraction(frame) / self.fps - delta) > Fraction(str(tolerance_s))
            for delta, frame in zip(seconds, frames, strict=True)
        ]
        if any(off):
            wrong = [
                "a value that is no number"
                if delta is None or frame is None
                else f"{float(delta):g} (the nearest are {float((delta * self.fps).__floor__() / self.fps):g} and "
                f"{float((delta * self.fps).__ceil__() / self.fps):g})"
                for delta, frame, is_off in zip(seconds, frames, off, strict=True)
                if is_off
            ]
            raise ValueError(
                f"delta_timestamps: not whole numbers of frames at {float(self.fps):g} Hz within {tolerance_s:g} s: "
                f"{', '.join(wrong)}"
            )
        return np.array(frames, dtype=np.int64)

    @property
    def nan(self) -> Mapping[str, Sequence[tuple[int, int, int]]]:
        """Feature -> (episode, first frame with NaN, number of such frames), in episode order."""
        return self._cached.nan

    def check_no_nan(self, keys: Iterable[str], episodes: Iterable[int] | None = None) -> None:
        """Raise SourceError naming feature, episode and frame if the values of chosen episodes hold NaN."""
        chosen = None if episodes is None else set(episodes)
        for key in keys:
            for episode, frame, count in self.nan.get(key, ()):
                if chosen is None or episode in chosen:
                    raise SourceError(
                        f"{self.root}: episode {episode}, frame {frame}: {key!r} is NaN, in {count} frames of the "
                        "episode; pass on_nan='keep' to take it as it is"
                    )


def _reopen(root: Path, cache: Path | None, wanted: str) -> LeRobotReader:
    reader = LeRobotReader(root, cache=cache)
    if reader._fingerprint != wanted:
        raise StoreChangedError(f"{root}: its files changed since the reader was pickled; open it again")
    return reader


def _reopen_camera(
    reader: LeRobotReader, key: str, size: tuple[int, int] | None, frame_cache: MemoryFrames | FrameDirectory | None
) -> Camera:
    return reader.camera(key, size=size, frame_cache=frame_cache)
