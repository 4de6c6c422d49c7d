"""One array's chunks: where each lies and how its bytes become rows.

zarr-python spends about half a millisecond per array on its event loop, whatever the size; a clip of a few hundred rows
decodes in a fiftieth of that. So arrays whose chunks are plain files in the usual encodings are decoded here, and all
others (shards, transposed or variable-length data, object stores) are left to zarr-python.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import google_crc32c
import numcodecs  # type: ignore[import-untyped]
import numcodecs.blosc  # type: ignore[import-untyped]
import numcodecs.zstd  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Decode = Callable[[bytes], Any]

_COMPRESSION = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}
_CRC_BYTES = 4
_V3_DTYPES = frozenset(
    np.dtype(name).name
    for name in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
)
_SPECIAL_FILLS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


@dataclass(frozen=True, slots=True)
class ChunkEncoding:
    """Everything needed to turn one array's chunk files into rows."""

    dtype: np.dtype[Any]
    chunk_shape: tuple[int, ...]
    fill_value: Any
    key_prefix: str
    key_separator: str
    steps: tuple[Decode, ...]

    def key(self, index: tuple[int, ...]) -> str:
        """Return the chunk's file below the array's directory."""
        return self.key_prefix + self.key_separator.join(map(str, index))

    def decode(self, data: bytes) -> NDArray[Any]:
        """Return the chunk's elements, shape `chunk_shape`; ValueError if the bytes are cut or damaged."""
        decoded: Any = data
        for step in self.steps:
            decoded = step(decoded)
        view = memoryview(decoded)
        if view.nbytes != self.chunk_bytes:
            raise ValueError(f"decodes to {view.nbytes} bytes, expected {self.chunk_bytes}")
        return np.frombuffer(view, self.dtype).reshape(self.chunk_shape)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one decoded chunk."""
        return prod(self.chunk_shape) * self.dtype.itemsize


def native_dtype(metadata: Mapping[str, Any]) -> np.dtype[Any] | None:
    """Return the numpy dtype, in native byte order, that array metadata (v2 or v3) names, or None if it has none."""
    stored = _stored_dtype(metadata)
    return None if stored is None else stored.newbyteorder("=")


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
    return np.dtype(name) if isinstance(name, str) and name in _V3_DTYPES else None


def _v2_encoding(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> ChunkEncoding | None:
    if metadata.get("filters") or metadata.get("order", "C") != "C":
        return None
    fill = _fill_value(0 if metadata["fill_value"] is None else metadata["fill_value"], dtype)
    if fill is None:
        return None
    compressor = metadata["compressor"]
    steps = () if compressor is None else (numcodecs.get_codec(dict(compressor)).decode,)
    return ChunkEncoding(
        dtype, tuple(metadata["chunks"]), fill, "", metadata.get("dimension_separator", "."), tuple(steps)
    )


def _v3_encoding(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> ChunkEncoding | None:
    grid, keys = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if grid["name"] != "regular" or keys["name"] != "default" or metadata.get("storage_transformers"):
        return None
    fill = _fill_value(metadata["fill_value"], dtype)
    chunk_shape = tuple(grid["configuration"]["chunk_shape"])
    to_bytes, *compressors = metadata["codecs"]
    if fill is None or to_bytes["name"] != "bytes":
        return None
    endian = (to_bytes.get("configuration") or {}).get("endian", "little")
    dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    steps = [_v3_step(codec, prod(chunk_shape) * dtype.itemsize) for codec in reversed(compressors)]
    if any(step is None for step in steps):
        return None
    separator = (keys.get("configuration") or {}).get("separator", "/")
    return ChunkEncoding(
        dtype, chunk_shape, fill, f"c{separator}", separator, tuple(step for step in steps if step is not None)
    )


def _v3_step(codec: Mapping[str, Any], chunk_bytes: int) -> Decode | None:
    match codec["name"]:
        case "crc32c":
            return _checked
        case "blosc":
            return lambda data: _from_blosc(data, chunk_bytes)
        case "zstd":
            return numcodecs.zstd.decompress  # type: ignore[no-any-return]
        case "gzip":
            return lambda data: zlib.decompress(data, wbits=31)
        case _:
            return None


def _checked(data: bytes) -> bytes:
    content, stored = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if google_crc32c.value(content) != int.from_bytes(stored, "little"):
        raise ValueError("does not match its checksum")
    return content


def _from_blosc(data: bytes, chunk_bytes: int) -> bytes:
    # The header's promise is checked first: decompressing allocates what it asks for.
    promised = int.from_bytes(data[4:8], "little")
    if promised != chunk_bytes:
        raise ValueError(f"holds {promised} bytes, expected {chunk_bytes}")
    decoded: bytes = numcodecs.blosc.decompress(data)
    return decoded


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
    return packed + checksum.to_bytes(_CRC_BYTES, "little")
