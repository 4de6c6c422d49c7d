"""How clips become arrays: one group per clip (nested), or the clips of a data set back to back (packed)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.chunks import chunk_encoding, default_metadata, encode_default
from iltools_datasets.archive.schema import PACKED_INDEX_KEYS
from iltools_datasets.archive.targets import Target
from iltools_datasets.errors import SchemaError

Arrays = Mapping[str, NDArray[Any]]
Document = dict[str, Any]

_NESTED_CHUNK_BYTES = 256 << 10
"""A lazy window of a long clip decodes at most this much per key; most clips are one chunk."""
_PACKED_CHUNK_BYTES = 1 << 20
_PENDING_BYTES = 64 << 20


class Layout(Protocol):
    """Writes clips below a target and keeps the metadata of every node."""

    nodes: dict[str, Document]

    def add(self, task: tuple[str, str], name: str, arrays: Arrays, num_states: int, attributes: Document) -> None:
        """Write one clip, whose arrays have been checked."""

    def finish(self) -> None:
        """Write what is still held back."""


class NestedLayout:
    """`<dataset_source>/<motion>/<trajectory>/<key>`, each key an array of its own."""

    def __init__(self, target: Target) -> None:
        self.nodes: dict[str, Document] = {}
        self._target = target

    def add(self, task: tuple[str, str], name: str, arrays: Arrays, num_states: int, attributes: Document) -> None:
        path = "/".join((*task, name))
        add_groups(self.nodes, task)
        self.nodes[path] = _group(attributes)
        for key, array in arrays.items():
            self._write(f"{path}/{key}", array)

    def finish(self) -> None:
        pass

    def _write(self, path: str, array: NDArray[Any]) -> None:
        chunk_rows = _rows_per_chunk(array.shape, array.dtype, _NESTED_CHUNK_BYTES)
        chunk_shape = (chunk_rows, *(max(1, extent) for extent in array.shape[1:]))
        self.nodes[path] = default_metadata(array.shape, array.dtype, chunk_shape)
        if array.size:
            for number in range(-(-len(array) // chunk_rows)):
                rows = array[number * chunk_rows : (number + 1) * chunk_rows]
                _put_chunk(self._target, path, number, _padded(rows, chunk_rows))


class PackedLayout:
    """`<dataset_source>/packed/<key>`: all clips of a source back to back, plus `start` and `length`.

    For thousands of short clips, where a file per array would cost more than the rows, however many motions they are.
    Clips of other keys, dtypes or widths, and those that lack the last row of other keys, go to a pack of their own:
    `packed2`, ...
    """

    def __init__(self, target: Target) -> None:
        self.nodes: dict[str, Document] = {}
        self._target = target
        self._packs: dict[tuple[str, _Schema], _Pack] = {}
        self._pending_bytes = 0

    def add(self, task: tuple[str, str], name: str, arrays: Arrays, num_states: int, attributes: Document) -> None:
        source, motion = task
        for key in PACKED_INDEX_KEYS:
            if key in arrays:
                where = "/".join((*task, name))
                raise SchemaError(f"{where}: {key!r} is the name of an index array of the packed layout")
        schema = _schema(arrays, num_states)
        pack = self._packs.get((source, schema))
        if pack is None:
            pack = self._packs[source, schema] = _Pack(self._target, add_pack(self.nodes, source), arrays, num_states)
        self._pending_bytes -= pack.pending_bytes
        pack.add(motion, name, arrays, num_states, attributes)
        self._pending_bytes += pack.pending_bytes
        if self._pending_bytes > _PENDING_BYTES:
            for other in self._packs.values():
                other.set_aside()
            self._pending_bytes = 0

    def finish(self) -> None:
        for pack in self._packs.values():
            pack.finish(self.nodes)


_Schema = frozenset[tuple[str, str, tuple[int, ...], bool]]
"""Of each key its dtype, the shape of a row, and whether it has a row per transition."""


def _schema(arrays: Arrays, num_states: int) -> _Schema:
    return frozenset((key, a.dtype.str, a.shape[1:], len(a) == num_states - 1) for key, a in arrays.items())


class _Pack:
    """Clips of one schema."""

    def __init__(self, target: Target, path: str, arrays: Arrays, num_states: int) -> None:
        self._target, self._path = target, path
        self._columns = {key: _PackedColumn(target, f"{path}/{key}", array) for key, array in arrays.items()}
        self._transition_keys = {key for key, array in arrays.items() if len(array) == num_states - 1}
        self._motions: list[str] = []
        self._names: list[str] = []
        self._attributes: list[Document] = []
        self._lengths: list[int] = []

    @property
    def pending_bytes(self) -> int:
        return sum(column.pending_bytes for column in self._columns.values())

    def add(self, motion: str, name: str, arrays: Arrays, num_states: int, attributes: Document) -> None:
        for key, array in arrays.items():
            self._columns[key].append(array)
        self._motions.append(motion)
        self._names.append(name)
        self._attributes.append(attributes)
        self._lengths.append(num_states)

    def set_aside(self) -> None:
        for column in self._columns.values():
            column.set_aside()

    def finish(self, nodes: dict[str, Document]) -> None:
        lengths = np.array(self._lengths, np.int64)
        index = {"length": lengths, "start": np.cumsum(lengths) - lengths}
        for key, values in index.items():
            column = _PackedColumn(self._target, f"{self._path}/{key}", values)
            column.append(values)
            self._columns[key] = column
        shared = {
            name: value
            for name, value in self._attributes[0].items()
            if all(name in own and own[name] == value for own in self._attributes)
        }
        own = [{name: value for name, value in each.items() if name not in shared} for each in self._attributes]
        marks: Document = {"layout": "packed", "motions": self._motions, "names": self._names}
        marks["shared_attributes"] = shared
        marks["transition_keys"] = sorted(self._transition_keys)
        if any(own):
            marks["attributes"] = own
        nodes[self._path] = _group({"iltools": marks})
        for key, column in self._columns.items():
            nodes[f"{self._path}/{key}"] = column.finish()


class _PackedColumn:
    """One growing array, written chunk by chunk; the last, partly filled chunk is held in memory or set aside."""

    def __init__(self, target: Target, path: str, like: NDArray[Any]) -> None:
        self._target, self._path = target, path
        self._dtype, self._row_shape = like.dtype, like.shape[1:]
        self._chunk_rows = max(1, _PACKED_CHUNK_BYTES // max(1, prod(self._row_shape) * like.dtype.itemsize))
        self._rows = 0
        self._pending: list[NDArray[Any]] = []
        self._is_aside = False

    @property
    def pending_bytes(self) -> int:
        return sum(rows.nbytes for rows in self._pending)

    def append(self, array: NDArray[Any]) -> None:
        self._take_back()
        filled = self._rows % self._chunk_rows
        while len(array) >= self._chunk_rows - filled:
            head, array = array[: self._chunk_rows - filled], array[self._chunk_rows - filled :]
            self._put(np.concatenate([*self._pending, head]))
            self._pending, filled = [], 0
            self._rows += len(head)
        if len(array):
            self._pending.append(array.copy())
            self._rows += len(array)

    def set_aside(self) -> None:
        """Free the memory of the partly filled chunk: it is written as it stands, and read again if rows follow."""
        if self.pending_bytes:  # rows of no elements need no chunk
            self._put_pending()
            self._pending, self._is_aside = [], True

    def finish(self) -> Document:
        if self._pending:
            self._put_pending()
        return self._metadata()

    def _take_back(self) -> None:
        if self._is_aside:
            number, filled = divmod(self._rows, self._chunk_rows)
            metadata = self._metadata()
            encoding = chunk_encoding(metadata)
            assert encoding is not None
            chunk = encoding.decode(self._target.get(f"{self._path}/{encoding.key(self._chunk_index(number))}"))
            self._pending, self._is_aside = [chunk[:filled]], False

    def _put_pending(self) -> None:
        self._put(_padded(np.concatenate(self._pending), self._chunk_rows), partial=True)

    def _put(self, chunk: NDArray[Any], partial: bool = False) -> None:
        number = (self._rows - 1 if partial else self._rows) // self._chunk_rows
        if chunk.size:
            _put_chunk(self._target, self._path, number, chunk)

    def _chunk_index(self, number: int) -> tuple[int, ...]:
        return (number, *(0 for _ in self._row_shape))

    def _metadata(self) -> Document:
        chunk_shape = (self._chunk_rows, *(max(1, extent) for extent in self._row_shape))
        return default_metadata((self._rows, *self._row_shape), self._dtype, chunk_shape)


def _rows_per_chunk(shape: tuple[int, ...], dtype: np.dtype[Any], chunk_bytes: int) -> int:
    row_bytes = max(1, prod(shape[1:]) * dtype.itemsize)
    chunks = max(1, -(-shape[0] * row_bytes // max(row_bytes, chunk_bytes)))
    return max(1, -(-shape[0] // chunks))


def _padded(rows: NDArray[Any], chunk_rows: int) -> NDArray[Any]:
    if len(rows) == chunk_rows:
        return np.ascontiguousarray(rows)
    chunk = np.zeros((chunk_rows, *rows.shape[1:]), rows.dtype)
    chunk[: len(rows)] = rows
    return chunk


def _put_chunk(target: Target, path: str, number: int, chunk: NDArray[Any]) -> None:
    index = ".".join(map(str, (number, *(0 for _ in chunk.shape[1:]))))
    target.put(f"{path}/c.{index}", encode_default(chunk))


def add_groups(nodes: dict[str, Document], task: tuple[str, str]) -> None:
    """Make sure that the groups of a motion are among the nodes."""
    nodes.setdefault(task[0], _group({}))
    nodes.setdefault("/".join(task), _group({}))


def add_pack(nodes: dict[str, Document], source: str) -> str:
    """Make a group for a pack of a source among the nodes, called as no other is; return its path."""
    nodes.setdefault(source, _group({}))
    tried = (f"{source}/packed{number if number > 1 else ''}" for number in count(1))
    path = next(path for path in tried if path not in nodes)
    nodes[path] = _group({})
    return path


def _group(attributes: Document) -> Document:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}
