"""Tables of numbers in text files, as people export them: any separator, with or without a header."""

from __future__ import annotations

import codecs
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+(?:[eE][-+]?[0-9]+)?")
_SEPARATORS = (",", ";", "\t", "|")
_MOST_HEADER_LINES = 5
_HEAD_BYTES = 1 << 16
_LEAST_COUNTED = 7


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of numbers, float64 [T, columns].

    Attributes:
        names: what the header calls the columns, None without one.
        first_line: line of the file, from 1, on which row 0 stands.
        remarks: what was done to read it.
    """

    values: NDArray[np.float64]
    names: tuple[str, ...] | None
    first_line: int
    remarks: tuple[str, ...] = ()


def head_of_table(path: Path) -> list[str] | None:
    """Return the cells of the first row of numbers in a file's first lines, or None if there is none."""
    with path.open("rb") as file:
        content = file.read(_HEAD_BYTES)
    try:
        lines = _decoded(content, path, errors="replace").splitlines()[: _MOST_HEADER_LINES + 1]
    except SourceError:
        return None
    rows = [line for line in lines if line.strip()]
    separator = _separator(rows)
    for line in rows:
        cells = _cells(line, separator)
        if cells and not cells[-1]:
            cells.pop()  # it ends in a separator
        if cells and all(map(_is_number, cells)):
            return cells
    return None


def read_table(path: Path) -> Table:
    """Read a table: separated by commas, semicolons (with decimal points or commas), tabs, bars or blanks.

    Up to five lines before the first row of numbers are a header; the last one whose cells are as many as the columns
    names them. Blank lines are passed over.

    Raises SourceError, naming row and column from 0 and the line from 1, for what is no table of numbers.
    """
    lines = _decoded(path.read_bytes(), path).splitlines()
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        raise SourceError(f"{path}: not a table of numbers: it is empty")
    separator = _separator([line for _, line in filled[: _MOST_HEADER_LINES + 3]])
    header: list[list[str]] = []
    while filled and len(header) <= _MOST_HEADER_LINES and not _starts_rows(filled[0][1], separator, len(filled)):
        header.append(_cells(filled.pop(0)[1], separator))
    if not filled or len(header) > _MOST_HEADER_LINES:
        found = " | ".join(header[0][:4])
        raise SourceError(f"{path}: not a table of numbers: no row of numbers after the header ({found:.80})")
    rows, width, remarks = _trimmed(path, filled, separator)
    # A row of units may follow the names; it says the same of several columns.
    fitting = [cells for cells in reversed(header) if len(cells) == width]
    fitting.sort(key=lambda cells: len(set(cells)) < width)
    names = tuple(fitting[0]) if fitting else None
    if names is None and header and len(header[-1]) - 1 == width and not header[-1][-1]:
        names = tuple(header[-1][:-1])  # it ends in a separator, as the rows did
    if names is not None and _are_numbers_of_columns(names):
        names = None
    elif header and names is None:
        remarks.append(f"a header of {len(header[-1])} cells over {width} columns, which names none of them")
    return Table(_numbers(path, rows, separator, width), names, filled[0][0], tuple(remarks))


def _decoded(content: bytes, path: Path, errors: str = "strict") -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    if b"\0" in content[:_HEAD_BYTES] and encoding != "utf-16":
        raise SourceError(f"{path}: not a table of numbers: it is no text")
    try:
        return content.decode(encoding, errors)
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _separator(lines: list[str]) -> str | None:
    """Return what separates cells, None for blanks: the one that cuts most lines into most cells."""
    counts = Counter({mark: sum(line.count(mark) for line in lines) for mark in _SEPARATORS})
    if counts[";"] and counts[";"] >= counts["\t"]:
        return ";"  # where a comma stands too, it is a decimal comma
    best, count = counts.most_common(1)[0]
    return best if count else None


def _cells(line: str, separator: str | None) -> list[str]:
    return [cell.strip().strip("\"'").strip() for cell in line.lstrip("#").rstrip("\r\n").split(separator)]


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None or _DECIMAL_COMMA.fullmatch(cell) is not None


def _starts_rows(line: str, separator: str | None, left: int) -> bool:
    cells = _cells(line, separator)
    if line.lstrip().startswith("#") or (left > 1 and _are_numbers_of_columns(cells)):
        return False
    numbers = sum(map(_is_number, cells))
    # A single wrong cell in a row of numbers is no header but a fault of the row, which is named as such.
    return numbers == len(cells) or (numbers > len(cells) / 2 and numbers > 1) or (not cells[-1] and numbers > 0)


def _are_numbers_of_columns(cells: Sequence[str]) -> bool:
    """Tell a header that only numbers the columns, as libraries of tables write it by themselves: 0, 1, 2, ..."""
    counted = list(cells[1:] if cells and not cells[0] else cells)
    if len(counted) <= _LEAST_COUNTED:
        return False
    return any(counted == [str(number + first) for number in range(len(counted))] for first in (0, 1))


def _trimmed(
    path: Path, filled: list[tuple[int, str]], separator: str | None
) -> tuple[list[tuple[int, str]], int, list[str]]:
    """Return rows that all have the same number of cells; a separator at the end of each makes no cell."""
    remarks = []
    if separator is not None and all(line.rstrip().endswith(separator) for _, line in filled):
        filled = [(number, line.rstrip()[: -len(separator)]) for number, line in filled]
        remarks.append("every row ends in a separator, which was taken for no column")
    counts = [len(line.split(separator)) for _, line in filled]
    width = Counter(counts).most_common(1)[0][0]
    for row, count in enumerate(counts):
        if count != width:
            raise SourceError(
                f"{path}: not a table of numbers: row {row} (line {filled[row][0]}) has {count} columns, "
                f"the others {width}"
            )
    return filled, width, remarks


def _numbers(path: Path, rows: list[tuple[int, str]], separator: str | None, width: int) -> NDArray[np.float64]:
    texts = [line for _, line in rows]
    if any('"' in line or "'" in line for line in texts):
        texts = [line.replace('"', "").replace("'", "") for line in texts]
    if separator != "," and any("," in line for line in texts):
        texts = [line.replace(",", ".") for line in texts]
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            values: NDArray[np.float64] = np.loadtxt(
                texts, delimiter=separator, dtype=np.float64, ndmin=2, comments=None
            )
            return values
    except (ValueError, UserWarning):
        for row, line in enumerate(texts):
            for column, cell in enumerate(line.split(separator)):
                try:
                    float(cell)
                except ValueError:
                    raise SourceError(
                        f"{path}: not a table of numbers: row {row} (line {rows[row][0]}), column {column} is "
                        f"{cell.strip()!r:.40}"
                    ) from None
        raise SourceError(f"{path}: not a table of numbers") from None
