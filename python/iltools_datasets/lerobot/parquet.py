"""Parquet files of a data set somebody else wrote: opened with limits, columns as arrays of the declared shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import IltoolsError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_OLDEST = 17  # earlier ones unpickle what an extension type of a file carries
_MOST_METADATA = 64 << 20  # bytes of one string in a file's footer
_MOST_ENTRIES = 4_000_000  # entries of one list in a file's footer


def pyarrow() -> Any:
    """Return the module pyarrow; MissingExtraError where it is not installed or too old to read foreign files."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("data", "reading LeRobot data") from error
    if int(pyarrow.__version__.split(".")[0]) < _OLDEST:
        raise missing_extra("data", f"reading LeRobot data (pyarrow >= {_OLDEST}, found {pyarrow.__version__})")
    return pyarrow


@contextmanager
def naming(path: Path, holds: str = "") -> Iterator[None]:
    """Turn what pyarrow raises into a SourceError that names the file, and what of the data set it `holds`."""
    arrow = pyarrow()
    try:
        yield
    except IltoolsError:
        raise
    except (arrow.ArrowException, OSError, ValueError, KeyError, OverflowError, UnicodeDecodeError) as error:
        about = f" ({holds})" if holds else ""
        text = " ".join(str(error).split())[:300]
        if path.is_file() and not _has_footer(path):
            reason = "no parquet file, or cut: it has no footer, as one whose recording was not finished"
        else:
            reason = f"cannot be read: {text or type(error).__name__}"
        raise SourceError(f"{path}{about}: {reason}") from error


def _has_footer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            begins = file.read(4) == b"PAR1"
            file.seek(-4, 2)
            return begins and file.read(4) == b"PAR1"
    except OSError:
        return False


def open_parquet(path: Path, holds: str = "") -> pq.ParquetFile:
    """Return an open parquet file; SourceError names it and what it `holds` if it is none."""
    arrow = pyarrow()
    with naming(path, holds):
        return arrow.parquet.ParquetFile(
            path, thrift_string_size_limit=_MOST_METADATA, thrift_container_size_limit=_MOST_ENTRIES
        )


def read_columns(path: Path, wanted: Sequence[str] | None = None, *, prefix: str = "", most_rows: int) -> pa.Table:
    """Return some top-level columns of a small table: those `wanted` that are there, those that begin with `prefix`.

    Raises SourceError if the file has more rows than `most_rows`, before they are read.
    """
    with naming(path):
        file = open_parquet(path)
        with file:
            if file.metadata.num_rows > most_rows:
                raise SourceError(f"{path}: {file.metadata.num_rows:,} rows, at most {most_rows:,} are possible")
            names = file.schema_arrow.names
            chosen = [
                name for name in names if wanted is None or name in wanted or (prefix and name.startswith(prefix))
            ]
            return file.read(columns=chosen, use_threads=False).select(chosen)


class BadValueError(Exception):
    """A row of a column is not what is declared; whoever knows which episode it belongs to says so."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row
        self.message = message


def value_type(type_: Any) -> tuple[Any, int]:
    """Return (type of the values, depth of lists around them) of an Arrow type, extension types by their storage."""
    from pyarrow import types

    depth = 0
    while True:
        if hasattr(type_, "storage_type"):
            type_ = type_.storage_type
        elif types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
            type_, depth = type_.value_type, depth + 1
        else:
            return type_, depth


_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def numpy_name(type_: Any) -> str:
    """Return numpy's name of an Arrow type of plain numbers, or Arrow's own where there is none."""
    # pyarrow's own way, `to_pandas_dtype`, asks for pandas in some releases.
    name = str(type_)
    return _FLOATS.get(name, name)


def as_array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a column as an array [T, *shape] of its own dtype.

    A row may be nested lists of the shape's extents, or, for a shape of one element, a plain number.

    Raises BadValueError with the row for a null, and for lists of another length.
    """
    parts, first = [], 0
    for chunk in column.chunks:
        parts.append(_chunk_as_array(chunk, shape, first))
        first += len(chunk)
    if not parts:
        return np.empty((0, *shape), dtype=numpy_name(value_type(column.type)[0]))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _chunk_as_array(chunk: Any, shape: tuple[int, ...], first: int) -> NDArray[Any]:
    from pyarrow import types

    rows, per_row = len(chunk), 1
    extents = list(shape)
    while True:
        if hasattr(chunk.type, "storage_type"):
            chunk = chunk.storage
        if chunk.null_count:
            where = int(np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False))[0])
            raise BadValueError(first + where // per_row, "a null, where a value is expected")
        if not (types.is_list(chunk.type) or types.is_large_list(chunk.type) or types.is_fixed_size_list(chunk.type)):
            break
        expected = extents.pop(0) if extents else 1
        if types.is_fixed_size_list(chunk.type):
            if chunk.type.list_size != expected and rows:
                raise BadValueError(first, f"expected {expected} elements, found {chunk.type.list_size}")
        else:
            lengths = np.diff(chunk.offsets.to_numpy(zero_copy_only=False))
            wrong = np.flatnonzero(lengths != expected)
            if wrong.size:
                where = int(wrong[0])
                raise BadValueError(
                    first + where // per_row, f"expected {expected} elements, found {int(lengths[where])}"
                )
        # Not flatten(), which copies: without nulls the values of the rows lie one after the other.
        begin = int(chunk.offset) * expected if types.is_fixed_size_list(chunk.type) else int(chunk.offsets[0].as_py())
        chunk, per_row = chunk.values.slice(begin, len(chunk) * expected), per_row * expected
    if math.prod(extents) != 1:
        raise BadValueError(first, f"expected rows of shape {list(shape)}, found {list(shape[: -len(extents)])}")
    values: NDArray[Any] = chunk.to_numpy(zero_copy_only=False)
    return values.reshape(rows, *shape)
