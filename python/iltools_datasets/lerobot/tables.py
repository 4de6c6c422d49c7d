"""Data files as columns: which episode and frame each row says it is, and its values as declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.lerobot.episodes import EpisodeTable
from iltools_datasets.lerobot.info import Feature, LeRobotInfo
from iltools_datasets.lerobot.parquet import BadValueError, as_array, naming, numpy_name, open_parquet, value_type
from iltools_datasets.lerobot.paths import Inside

if TYPE_CHECKING:
    import pyarrow as pa

_WHOLE_FILE = 256 << 20
"""Bytes of a file's columns that are read at once; of a larger one rows are read in batches."""
_BATCH_ROWS = 16_384
_WHICH = ("episode_index", "frame_index")


@dataclass(frozen=True, slots=True, eq=False)
class DataFile:
    """A file that the data pattern describes: its numbers and its place, for v2 one episode, for v3 any number."""

    numbers: Mapping[str, int]
    relative: str
    path: Path


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one file, in its order.

    Attributes:
        file: where they come from.
        episode: int64 [R], the episode each says it belongs to.
        frame: int64 [R], the frame each says it is.
        arrays: `[R, *shape]` by feature, in the dtypes of the store.
        nan: by feature, positions of rows with NaN, int64 [n]; features without are left out.
    """

    file: DataFile
    episode: NDArray[np.int64]
    frame: NDArray[np.int64]
    arrays: Mapping[str, NDArray[Any]]
    nan: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.episode)


def data_files(root: Path, info: LeRobotInfo) -> list[DataFile]:
    """Return every data file, in the order of its numbers; SourceNotFoundError if there is none."""
    inside = Inside(root)
    found = [
        DataFile(numbers, relative, inside.path(relative, str(root))) for numbers, relative in info.data_path.find(root)
    ]
    if not found:
        raise SourceNotFoundError(f"{root}: no data file {info.data_path.text}")
    return found


class TooManyRowsError(Exception):
    """The data files have more rows than the episode table lists frames; whoever asked finds out which."""


def read_ids(file: DataFile, holds: str, most_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which episode and frame each row of a file says it is, int64 [R] each; of a whole file, and nothing else.

    Raises TooManyRowsError, before they are read, if there are more than `most_rows`.
    """
    opened = open_parquet(file.path, holds)
    with opened, naming(file.path, holds):
        if opened.metadata.num_rows > most_rows:
            raise TooManyRowsError
        table = opened.read(columns=list(_WHICH), use_threads=False)
        return _ids(file, table, 0)


def _ids(file: DataFile, table: pa.Table, first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found = []
    for key in _WHICH:
        if table.column_names.count(key) != 1:
            raise SourceError(f"{file.path}: expected one column {key!r}; there are {table.column_names}")
        try:
            found.append(as_array(table.column(key), ()).astype(np.int64))
        except BadValueError as error:
            raise SourceError(f"{file.path}, row {first + error.row}: {key}: {error.message}") from error
    return found[0], found[1]


class DataFileReader:
    """Reads the numeric columns of data files, checking each against what is declared and against the other files.

    Args:
        info: what is declared.
        most_rows: rows that all files together may have, from the episode table.
        holds: relative path of a file -> text that names the episodes it should hold, for messages.
    """

    def __init__(self, info: LeRobotInfo, most_rows: int, holds: Mapping[str, str] | None = None) -> None:
        self._features = {key: info.features[key] for key in info.number_keys}
        self._left = most_rows
        self._holds = holds or {}
        self._seen: dict[str, tuple[str, DataFile]] = {}
        self._like: pa.Schema | None = None
        self.notes: list[str] = []

    def read(self, file: DataFile) -> Iterator[Rows]:
        """Yield the rows of a file.

        Raises:
            SourceError: names the file and, where one is known, the episode and frame.
            TooManyRowsError: the files so far have more rows than there may be; none of this one was read.
        """
        opened = open_parquet(file.path, self._holds.get(file.relative, ""))
        with opened, naming(file.path, self._holds.get(file.relative, "")):
            metadata = opened.metadata
            self._check_columns(file, opened.schema_arrow)
            if metadata.num_rows > self._left:
                raise TooManyRowsError
            self._left -= metadata.num_rows
            size = self._check_sizes(file, metadata)
            names = list(self._features)
            if size <= _WHOLE_FILE:
                yield from self._checked(file, opened.read(columns=names, use_threads=False), 0)
                return
            import pyarrow

            first = 0
            for batch in opened.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                yield from self._checked(file, pyarrow.Table.from_batches([batch]), first)
                first += len(batch)

    def _check_columns(self, file: DataFile, schema: pa.Schema) -> None:
        if self._like is not None and schema.equals(self._like):
            return
        names = schema.names
        for key, feature in self._features.items():
            if names.count(key) != 1:
                wrong = "is missing" if key not in names else "is there twice"
                raise SourceError(f"{file.path}: column {key!r} {wrong}; there are {names}")
            found = numpy_name(value_type(schema.field(key).type)[0])
            if key not in self._seen and found != feature.dtype and _may_stand_for(found, feature.dtype):
                self.notes.append(f"{key!r} is declared {feature.dtype}, its files hold {found}")
            known, first = self._seen.setdefault(key, (found, file))
            if found == known and _may_stand_for(found, feature.dtype):
                continue
            odd = (file, found) if found != feature.dtype else (first, known)
            raise SourceError(f"{odd[0].path}: column {key!r}: expected {feature.dtype}, found {odd[1]}")
        self._like = schema

    def _check_sizes(self, file: DataFile, metadata: Any) -> int:
        """Compare rows x width with what is declared, before anything is allocated; return the bytes to be read."""
        prefixes = self._features
        total = 0
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for column in range(row_group.num_columns):
                chunk = row_group.column(column)
                path = chunk.path_in_schema
                feature = prefixes.get(path) or prefixes.get(_top_level(path, prefixes))
                if feature is None:
                    continue
                total += chunk.total_uncompressed_size
                width = int(np.prod(feature.shape, dtype=np.int64))
                if chunk.num_values > max(row_group.num_rows, 0) * max(width, 1):
                    raise SourceError(
                        f"{file.path}: column {feature.key!r}: {chunk.num_values:,} values in {row_group.num_rows:,} "
                        f"rows, expected {width} a row as its shape {list(feature.shape)} says"
                    )
        return total

    def _checked(self, file: DataFile, table: pa.Table, first: int) -> Iterator[Rows]:
        episode, frame = _ids(file, table, first)

        def refuse(key: str, row: int, message: str) -> SourceError:
            place = f"episode {episode[row]}, frame {frame[row]}" if row < len(episode) else f"row {first + row}"
            return SourceError(f"{file.path}: {place}: {key!r}: {message}")

        arrays: dict[str, NDArray[Any]] = {}
        nan: dict[str, NDArray[np.int64]] = {}
        for key, feature in self._features.items():
            try:
                values = as_array(table.column(key), feature.shape)
                arrays[key] = _stored(values, feature)
            except BadValueError as error:
                raise refuse(key, error.row, error.message) from error
            if values.dtype.kind == "f":
                strange = _rows_with_nan(values)
                if strange.size:
                    nan[key] = strange
        yield Rows(file, episode, frame, arrays, nan)


def _top_level(path: str, features: Mapping[str, Feature]) -> str:
    """Return the feature that a leaf such as `observation.state.list.element` belongs to: the longest that fits."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        if name in features:
            return name
    return ""


def _may_stand_for(found: str, declared: str) -> bool:
    """Whether a column of one dtype is read as another: the same, or another width of the same kind."""
    if found == declared:
        return True
    try:
        kinds = np.dtype(found).kind, np.dtype(declared).kind
    except TypeError:
        return False
    return kinds[0] == kinds[1] and kinds[0] in "fiu"


def _stored(values: NDArray[Any], feature: Feature) -> NDArray[Any]:
    """Return values [R, ...] in the dtype of the store; BadValueError with the row of one that does not fit."""
    dtype = feature.store_dtype
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(dtype)
        wrong = np.isinf(converted) & np.isfinite(values) if dtype.kind == "f" else converted != values
    if wrong.any():
        at = np.argwhere(wrong)[0]
        raise BadValueError(int(at[0]), f"{values[tuple(at)]} does not fit {dtype}")
    return converted


def _rows_with_nan(values: NDArray[Any]) -> NDArray[np.int64]:
    # A sum is finite only if all its terms are, and costs a fifth of looking at each.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return np.empty(0, np.int64)
        return np.flatnonzero(np.isnan(values.reshape(len(values), -1)).any(axis=1))


def episodes_of_files(files: Sequence[DataFile], table: EpisodeTable) -> dict[str, str]:
    """Return, for messages, which episodes each file should hold as far as names or the episode table tell."""
    texts: dict[str, str] = {}
    by_place: dict[tuple[int, int], list[int]] = {}
    if {"data/chunk_index", "data/file_index"} <= set(table.declared):
        chunks, numbers = (table.declared[f"data/{name}_index"].tolist() for name in ("chunk", "file"))
        for chunk, number, episode in zip(chunks, numbers, table.index.tolist(), strict=True):
            by_place.setdefault((chunk, number), []).append(episode)
    for file in files:
        if "episode_index" in file.numbers:
            texts[file.relative] = f"episode {file.numbers['episode_index']}"
            continue
        held = by_place.get((file.numbers.get("chunk_index", -1), file.numbers.get("file_index", -1)))
        if held:
            span = f"episode {held[0]}" if len(held) == 1 else f"episodes {min(held)} to {max(held)}"
            texts[file.relative] = f"{span}, {len(held)} in all" if len(held) > 1 else span
    return texts
