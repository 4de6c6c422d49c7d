"""Whole episodes out of data files whose rows may lie in any order, and what is wrong where they cannot be made."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.lerobot.episodes import EpisodeTable, listed
from iltools_datasets.lerobot.parquet import open_parquet
from iltools_datasets.lerobot.tables import DataFile, DataFileReader, Rows, TooManyRowsError, read_ids

_SPARE_ROWS = 1 << 20
"""Up to so many rows more than four times those listed are looked at one by one to say which are wrong; of yet more it
is only said how many there are."""


class OutOfOrderError(Exception):
    """Rows are not those of the listed episodes, frame by frame: they lie in another order, or are wrong."""


@dataclass(frozen=True, slots=True)
class Episode:
    """A whole episode.

    Attributes:
        position: its place in the episode table.
        arrays: `[T, *shape]` by feature.
        files: those in which its rows lie.
        nan: feature -> frames with NaN, int64 [n]; features without are left out.
    """

    position: int
    arrays: Mapping[str, NDArray[Any]]
    files: tuple[DataFile, ...]
    nan: Mapping[str, NDArray[np.int64]]


def rows_as_they_lie(files: list[DataFile], table: EpisodeTable, reader: DataFileReader) -> Iterator[Episode]:
    """Yield the episodes from files that hold them one after the other, reading each file once.

    Raises OutOfOrderError as soon as a row is not the next frame of the next episode, or at the end if one is missing.
    """
    position, have = 0, 0
    parts: list[tuple[Rows, slice]] = []
    try:
        for file in files:
            for rows in reader.read(file):
                begin = 0
                while begin < len(rows):
                    if position == len(table):
                        raise OutOfOrderError
                    end = min(len(rows), begin + int(table.length[position]) - have)
                    expected = np.arange(have, have + end - begin)
                    same = (rows.episode[begin:end] == table.index[position]).all()
                    if not same or not np.array_equal(rows.frame[begin:end], expected):
                        raise OutOfOrderError
                    parts.append((rows, slice(begin, end)))
                    have += end - begin
                    if have == table.length[position]:
                        yield _joined(position, parts)
                        parts, position, have = [], position + 1, 0
                    begin = end
    except TooManyRowsError:
        raise OutOfOrderError from None
    if position < len(table):
        raise OutOfOrderError


def _joined(position: int, parts: list[tuple[Rows, slice]]) -> Episode:
    nan: dict[str, NDArray[np.int64]] = {}
    for key in {key for rows, _ in parts for key in rows.nan}:
        frames = [
            rows.frame[at[(at >= piece.start) & (at < piece.stop)]]
            for rows, piece in parts
            if (at := rows.nan.get(key)) is not None
        ]
        found = np.concatenate(frames)
        if len(found):
            nan[key] = found
    first, piece = parts[0]
    if len(parts) == 1:
        arrays = {key: values[piece] for key, values in first.arrays.items()}
    else:
        arrays = {key: np.concatenate([rows.arrays[key][at] for rows, at in parts]) for key in first.arrays}
    return Episode(position, arrays, tuple(dict.fromkeys(rows.file for rows, _ in parts)), nan)


def check_rows(files: list[DataFile], table: EpisodeTable, holds: Mapping[str, str]) -> None:
    """Raise SourceError unless the rows of all files are each listed episode's frames, once each, in any order.

    The message gives the counts of both sides, and the files in which the wrong rows lie.
    """
    _check_totals(files, table, holds)
    counts = np.zeros(len(table), np.int64)
    seen = np.zeros(table.num_frames, np.bool_)
    starts = np.concatenate([[0], np.cumsum(table.length)])
    for file in files:
        episode, frame = read_ids(file, holds.get(file.relative, ""), _most_rows(table))
        position = np.minimum(np.searchsorted(table.index, episode), len(table) - 1)
        unlisted = table.index[position] != episode
        if unlisted.any():
            number = int(episode[unlisted][0])
            count = int((episode == number).sum())
            raise SourceError(f"{file.path}: {count} rows of episode {number}, which the episode table does not list")
        counts += np.bincount(position, minlength=len(table))
        outside = (frame < 0) | (frame >= table.length[position])
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            where = int(position[row])
            raise SourceError(
                f"{file.path}: episode {episode[row]}: a row with frame_index {frame[row]}, expected 0 to "
                f"{table.length[where] - 1}; the episode table lists {table.length[where]} frames, this file has "
                f"{int((episode == episode[row]).sum())} rows of it"
            )
        place = starts[position] + frame
        twice = seen[place]
        if not twice.any():
            twice = np.ones(len(place), np.bool_)
            twice[np.unique(place, return_index=True)[1]] = False
        if twice.any():
            row = int(np.flatnonzero(twice)[0])
            raise SourceError(
                f"{file.path}: episode {episode[row]}, frame {frame[row]} is there twice: {int(twice.sum())} rows of "
                f"this file are, of {len(place)}; the episode table lists {table.length[position[row]]} frames of it"
            )
        seen[place] = True
    wrong = np.flatnonzero(counts != table.length)
    if len(wrong):
        first = wrong[0]
        missing = int(np.flatnonzero(~seen[starts[first] : starts[first + 1]])[0])
        more = f"; so it is with {len(wrong)} episodes: {listed(table.index[wrong])}" if len(wrong) > 1 else ""
        raise SourceError(
            f"{files[0].path.parent}: episode {table.index[first]}: the episode table lists {table.length[first]} "
            f"frames, the data files hold {counts[first]} rows, frame {missing} is not among them{more}"
        )


def _check_totals(files: list[DataFile], table: EpisodeTable, holds: Mapping[str, str]) -> None:
    """Compare numbers of rows from the files' footers, before any row is read."""
    rows = []
    for file in files:
        with open_parquet(file.path, holds.get(file.relative, "")) as opened:
            rows.append(opened.metadata.num_rows)
    if sum(rows) > _most_rows(table):
        largest = int(np.argmax(rows))
        raise SourceError(
            f"{files[largest].path}: {rows[largest]:,} rows, {sum(rows):,} in all data files; the episode table lists "
            f"{table.num_frames:,} frames"
        )


def _most_rows(table: EpisodeTable) -> int:
    return 4 * table.num_frames + _SPARE_ROWS


def rows_sorted(files: list[DataFile], table: EpisodeTable, reader: DataFileReader, scratch: Path) -> Iterator[Episode]:
    """Yield the episodes from files that hold their rows in any order; `check_rows` has found each of them once.

    The values go through temporary files below `scratch`, so that memory does not grow with the set.
    """
    directory = Path(tempfile.mkdtemp(prefix=".sorting-", dir=scratch))
    starts = np.concatenate([[0], np.cumsum(table.length)])
    columns: dict[str, np.memmap[Any, Any]] = {}
    nan: dict[str, list[NDArray[np.int64]]] = {}
    of_file: dict[int, list[DataFile]] = {}
    try:
        for file in files:
            for rows in reader.read(file):
                episodes = np.searchsorted(table.index, rows.episode)
                place = starts[episodes] + rows.frame
                for key, values in rows.arrays.items():
                    if key not in columns:
                        shape = (table.num_frames, *values.shape[1:])
                        path = directory / f"{len(columns)}"
                        columns[key] = np.memmap(path, values.dtype, "w+", shape=shape)
                    columns[key][place] = values
                for key, at in rows.nan.items():
                    nan.setdefault(key, []).append(place[at])
                for number in np.unique(episodes).tolist():
                    of_file.setdefault(number, []).append(file)
        places = {key: np.unique(np.concatenate(found)) for key, found in nan.items()}
        for position, (begin, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
            inside = {key: at[(at >= begin) & (at < end)] - begin for key, at in places.items()}
            yield Episode(
                position,
                {key: np.array(column[begin:end]) for key, column in columns.items()},
                tuple(dict.fromkeys(of_file[position])),
                {key: frames for key, frames in inside.items() if len(frames)},
            )
    finally:
        columns.clear()
        shutil.rmtree(directory, ignore_errors=True)
