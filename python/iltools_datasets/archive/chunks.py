"""One array's chunks: where each lies and how its bytes become rows.

zarr-python spends about half a millisecond per array on its event loop, whatever the size; a clip of a few hundred rows
decodes in a fiftieth of that. So arrays whose chunks are plain files in the usual encodings are decoded here, by the
codecs that `codecs.py` lists, and all others (shards, transposed or variable-length data, any other codec) are left to
zarr-python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.codecs import CRC_BYTES, Decode, bounded_decoder, most_encoded

_COMPRESSION = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}
_V3_DTYPES = {
    np.dtype(name).name: np.dtype(name)
    for name in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
}
_SPECIAL_FILLS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
_SEPARATORS = (".", "/")


@dataclass(frozen=True, slots=True)
class ChunkEncoding:
    """Everything needed to turn one array's chunk files into rows.

    `steps` undo the codecs, the last one applied first; each comes with the bytes that it may make at most.
    """

    dtype: np.dtype[Any]
    chunk_shape: tuple[int, ...]
    fill_value: Any
    key_prefix: str
    key_separator: str
    steps: tuple[tuple[Decode, int], ...]
    file_bytes: int
    """Bytes that a chunk's file may have at most."""

    def key(self, index: tuple[int, ...]) -> str:
        """Return the chunk's file below the array's directory."""
        return self.key_prefix + self.key_separator.join(map(str, index))

    def decode(self, data: bytes) -> NDArray[Any]:
        """Return the chunk's elements, shape `chunk_shape`; ValueError if the bytes are cut or damaged."""
        decoded = data
        for step, most in self.steps:
            decoded = step(decoded, most)
        view = memoryview(decoded)
        if view.nbytes != self.chunk_bytes:
            raise ValueError(f"decodes to {view.nbytes} bytes, expected {self.chunk_bytes}")
        if self.dtype.kind == "b":  # any other byte than 0 and 1 would be no bool to whoever copies it
            is_set: NDArray[np.bool_] = np.frombuffer(view, np.uint8) != 0
            return is_set.reshape(self.chunk_shape)
        return np.frombuffer(view, self.dtype).reshape(self.chunk_shape)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one decoded chunk."""
        return prod(self.chunk_shape) * self.dtype.itemsize


def native_dtype(metadata: Mapping[str, Any]) -> np.dtype[Any] | None:
    """Return the numpy dtype, in native byte order, that array metadata (v2 or v3) names, or None if it has none."""
    stored = _stored_dtype(metadata)
    return stored if stored is None or stored.isnative else stored.newbyteorder("=")


def stated_shape(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape that array metadata states; ValueError unless it is made of integers from 0 on."""
    shape = metadata["shape"]
    if not isinstance(shape, list | tuple) or any(type(extent) is not int or extent < 0 for extent in shape):
        raise ValueError(f"impossible shape {shape!r:.80}")
    return tuple(shape)


def chunk_encoding(metadata: Mapping[str, Any]) -> ChunkEncoding | None:
    """Return how to decode the chunks that array metadata (v2 or v3) describes, or None if zarr-python has to."""
    dtype = _stored_dtype(metadata)
    if dtype is None:
        return None
    return _v2_encoding(metadata, dtype) if metadata["zarr_format"] == 2 else _v3_encoding(metadata, dtype)


def _stored_dtype(metadata: Mapping[str, Any]) -> np.dtype[Any] | None:
    if metadata["zarr_format"] == 2:
        name = metadata["dtype"]
        if not isinstance(name, str):
            return None
        dtype = np.dtype(name)
        return dtype if dtype.kind in "biufc" else None
    name = metadata["data_type"]
    return _V3_DTYPES.get(name) if isinstance(name, str) else None


def _v2_encoding(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> ChunkEncoding | None:
    if metadata.get("filters") or metadata.get("order", "C") != "C":
        return None
    fill = _fill_value(0 if metadata["fill_value"] is None else metadata["fill_value"], dtype)
    compressor = metadata["compressor"]
    separator = _separator(metadata.get("dimension_separator", "."))
    codecs = [] if compressor is None else [compressor]
    return None if fill is None else _encoding(dtype, metadata["chunks"], fill, "", separator, codecs)


def _v3_encoding(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> ChunkEncoding | None:
    grid, keys = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if grid["name"] != "regular" or keys["name"] != "default" or metadata.get("storage_transformers"):
        return None
    fill = _fill_value(metadata["fill_value"], dtype)
    to_bytes, *codecs = metadata["codecs"]
    if fill is None or to_bytes["name"] != "bytes":
        return None
    endian = (to_bytes.get("configuration") or {}).get("endian", "little")
    dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    separator = _separator((keys.get("configuration") or {}).get("separator", "/"))
    return _encoding(dtype, grid["configuration"]["chunk_shape"], fill, f"c{separator}", separator, codecs)


def _encoding(
    dtype: np.dtype[Any], chunks: Any, fill: Any, prefix: str, separator: str, codecs: list[Mapping[str, Any]]
) -> ChunkEncoding | None:
    chunk_shape = tuple(_extent(extent) for extent in chunks)
    most = prod(chunk_shape) * dtype.itemsize
    steps: list[tuple[Decode, int]] = []
    for codec in codecs:
        decode = bounded_decoder(codec)
        if decode is None:
            return None
        steps.insert(0, (decode, most))
        most = most_encoded(codec, most)
    return ChunkEncoding(dtype, chunk_shape, fill, prefix, separator, tuple(steps), most)


def _extent(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"chunk extent {value!r}, expected an integer from 1 on")
    return value


def _separator(value: Any) -> str:
    # It becomes part of a path.
    if value not in _SEPARATORS:
        raise ValueError(f"chunk key separator {value!r}, expected '.' or '/'")
    return str(value)


def _fill_value(stored: Any, dtype: np.dtype[Any]) -> Any | None:
    value = _SPECIAL_FILLS.get(stored) if isinstance(stored, str) else stored
    return None if value is None or isinstance(value, list) else dtype.type(value)


def default_metadata(shape: tuple[int, ...], dtype: np.dtype[Any], chunk_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the Zarr v3 metadata of an array as this package writes it: little-endian, blosc(lz4, shuffle), crc32c."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if dtype.kind == "b" else 0.0 if dtype.kind == "f" else 0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": {"typesize": dtype.itemsize, **_COMPRESSION}},
            {"name": "crc32c"},
        ],
        "attributes": {},
        "storage_transformers": [],
    }


def encode_default(chunk: NDArray[Any]) -> bytes:
    """Return the bytes of one full chunk, C-contiguous and little-endian, in the encoding of `default_metadata`."""
    packed: bytes = numcodecs.blosc.compress(
        chunk.reshape(-1), b"lz4", _COMPRESSION["clevel"], numcodecs.blosc.SHUFFLE, typesize=chunk.dtype.itemsize
    )
    checksum: int = google_crc32c.value(packed)
    return packed + checksum.to_bytes(CRC_BYTES, "little")
