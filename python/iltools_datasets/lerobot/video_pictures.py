"""The pictures of a camera whose frames lie in videos: which file and picture each frame is, and decoding them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot.decoders import DecoderPool, convert
from iltools_datasets.lerobot.episodes import EpisodeTable
from iltools_datasets.lerobot.info import LeRobotInfo
from iltools_datasets.lerobot.paths import within
from iltools_datasets.lerobot.picture_places import EpisodeInVideo, place_pictures
from iltools_datasets.lerobot.video_index import VideoIndex, index_video

_MOST_INDEXED = 2_000_000
"""Pictures whose places are kept in memory, 16 bytes each; what is beyond is read from its file again."""
_UNKNOWN = -1

Timestamps = Callable[[int], NDArray[np.float32]]


class VideoPictures:
    """One video camera of a set.

    A file is indexed when the first of its episodes is looked at, all of its episodes at once.

    Args:
        root: the set.
        info: its `info.json`.
        table: its episodes; their positions are those of the store's segments.
        key: the camera.
        timestamps: position of an episode -> `timestamp` of its rows, float32 [T].
        pool: open decoders.
    """

    def __init__(
        self, root: Path, info: LeRobotInfo, table: EpisodeTable, key: str, timestamps: Timestamps, pool: DecoderPool
    ) -> None:
        self._root, self._info, self._table, self._key = root, info, table, key
        self._timestamps, self._pool = timestamps, pool
        self._size = info.features[key].picture_shape[:2]
        self._file, self._relative = self._files()
        self._first = np.full(len(table), _UNKNOWN, np.int64)
        self._stride = np.zeros(len(table), np.int64)
        self._listed: dict[int, NDArray[np.int64]] = {}
        self._indices: OrderedDict[int, VideoIndex] = OrderedDict()
        self._stamps: dict[int, tuple[int, int, int]] = {}
        self._lock = Lock()
        self.notes: list[str] = []

    def _files(self) -> tuple[NDArray[np.int64], list[str]]:
        """Return the number of each episode's file and the relative path of each file."""
        pattern, table = self._info.video_path, self._table
        assert pattern is not None
        if not self._info.many_episodes_per_file:
            paths = [
                pattern.format(
                    episode_chunk=number // self._info.chunks_size, episode_index=number, video_key=self._key
                )
                for number in table.index.tolist()
            ]
            return np.arange(len(paths)), paths
        places = table.videos[self._key]
        pairs, which = np.unique(np.stack([places.chunk, places.file], axis=1), axis=0, return_inverse=True)
        paths = [
            pattern.format(chunk_index=chunk, file_index=number, video_key=self._key)
            for chunk, number in pairs.tolist()
        ]
        return which.reshape(-1), paths

    @property
    def files(self) -> list[str]:
        """Relative paths of all files of this camera."""
        return self._relative

    def path(self, position: int) -> Path:
        """Return the file with an episode's pictures; whether it is there is not looked at."""
        return self._root / self._relative[int(self._file[position])]

    def check(self, segments: Iterable[int]) -> None:
        """Index the files of some episodes; SourceError unless every episode of them has its pictures there."""
        for file in np.unique(self._file[np.fromiter(segments, np.int64)]).tolist():
            self._place(file)

    def leftovers(self) -> list[str]:
        """Return a line for each file that was looked at with pictures that belong to no frame."""
        lines = []
        for file in np.unique(self._file[self._first != _UNKNOWN]).tolist():
            inside = np.flatnonzero(self._file == file)
            claimed = np.zeros(len(self._index(file)), np.bool_)
            for position in inside.tolist():
                first, stride = int(self._first[position]), max(1, int(self._stride[position]))
                listed = self._listed.get(position)
                count = int(self._table.length[position])
                last = first + stride * (count - 1) if listed is None else int(listed[-1])
                claimed[first : last + stride] = True
            if not claimed.all():
                lines.append(
                    f"{self._relative[file]}: {int((~claimed).sum())} of {len(claimed)} pictures belong to no episode, "
                    f"the first is picture {int(claimed.argmin())}"
                )
        return lines

    def jobs(
        self, segment: NDArray[np.int64], frame: NDArray[np.int64], outputs: list[NDArray[np.uint8]]
    ) -> list[Callable[[], None]]:
        """Return a call for each file that decodes the pictures wanted of it.

        Args:
            segment: int64 [n], the episode of each picture.
            frame: int64 [n], the frame within it.
            outputs: where each picture goes, uint8 [H, W, C] each.
        """
        wanted: dict[int, dict[int, list[int]]] = {}
        for row, (position, step) in enumerate(zip(segment.tolist(), frame.tolist(), strict=True)):
            file = int(self._file[position])
            if self._first[position] == _UNKNOWN:
                self._place(file)
            listed = self._listed.get(position)
            picture = self._first[position] + self._stride[position] * step if listed is None else listed[step]
            wanted.setdefault(file, {}).setdefault(int(picture), []).append(row)
        return [partial(self._decode, file, rows, segment, frame, outputs) for file, rows in wanted.items()]

    def _decode(
        self,
        file: int,
        rows_of: dict[int, list[int]],
        segment: NDArray[np.int64],
        frame: NDArray[np.int64],
        outputs: list[NDArray[np.uint8]],
    ) -> None:
        """Decode pictures of one file, each to all rows that want it."""
        path = self._root / self._relative[file]
        numbers = sorted(rows_of)
        done = 0
        try:
            with self._pool.decoder(path, self._index(file)) as decoder:
                for number, decoded in zip(numbers, decoder.decode(numbers), strict=True):
                    first, *others = rows_of[number]
                    convert(decoded, outputs[first])
                    for row in others:
                        outputs[row][:] = outputs[first]
                    done += 1
        except SourceError as error:
            row = rows_of[numbers[min(done, len(numbers) - 1)]][0]
            place = f"episode {self._table.index[segment[row]]}, frame {frame[row]}: {self._key!r}"
            raise SourceError(f"{place}: {error}") from error

    def _place(self, file: int) -> None:
        """Find the pictures of every episode of a file."""
        index = self._index(file)
        path = self._root / self._relative[file]
        inside = np.flatnonzero(self._file == file).tolist()
        if (self._first[inside] != _UNKNOWN).all():
            return
        if index.size != self._size:
            raise SourceError(
                f"{path}: {self._key!r}: expected pictures of {self._size[0]} x {self._size[1]} (H x W), found "
                f"{index.size[0]} x {index.size[1]}"
            )
        episodes = [self._episode(position) for position in inside]
        placed, notes = place_pictures(path, index, episodes, self._info.fps)
        with self._lock:
            self.notes += [f"{self._key}: {note}" for note in notes if f"{self._key}: {note}" not in self.notes]
            for position, pictures in zip(inside, placed, strict=True):
                steps = np.diff(pictures)
                stride = int(steps[0]) if len(steps) else 0
                if (steps != stride).any():
                    self._listed[position] = pictures
                self._stride[position] = stride
                self._first[position] = pictures[0]

    def _episode(self, position: int) -> EpisodeInVideo:
        number = int(self._table.index[position])
        timestamp = self._timestamps(position)
        if not self._info.many_episodes_per_file:
            return EpisodeInVideo(number, 0.0, None, timestamp)
        places = self._table.videos[self._key]
        end = float(places.end[position])
        return EpisodeInVideo(number, float(places.start[position]), end if np.isfinite(end) else None, timestamp)

    def _index(self, file: int) -> VideoIndex:
        """Return the index of a file, from its packets or as it was read before."""
        with self._lock:
            found = self._indices.get(file)
            if found is not None:
                self._indices.move_to_end(file)
                return found
        index = index_video(within(self._root, self._relative[file], str(self._root)), self._stamps.get(file))
        with self._lock:
            self._stamps[file] = index.stamp
            self._indices[file] = index
            while sum(map(len, self._indices.values())) > _MOST_INDEXED and len(self._indices) > 1:
                self._indices.popitem(last=False)
        return index
