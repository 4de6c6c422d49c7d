"""Arrays that only zarr-python can read: shards, filters, transposed or variable-length data, other codecs.

zarr-python gets the metadata that was listed when the archive was opened and reads through the place that is held, so
what it returns is of the same archive as everything else. Its codecs are given the limits of `codecs.py` where they
decompress.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numcodecs.abc  # type: ignore[import-untyped]
import numcodecs.errors  # type: ignore[import-untyped]
import zarr
import zarr.errors
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.codecs import ShardingCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath

from iltools_datasets.archive.codecs import Decode, bounded_decoder, checked_crc32c, most_encoded
from iltools_datasets.archive.held import HeldPlace, HeldStore
from iltools_datasets.errors import SourceError

_NEVER = frozenset({"pickle", "msgpack2", "json2"})
"""Codecs of Python objects. An array of numbers needs none of them, and unpickling runs what the file says."""

_FILTERED = 8
"""How much larger than an array a filter may make it before it is compressed."""

_PACKAGES = {"imagecodecs": "imagecodecs", "zfpy": "zfpy", "pcodec": "pcodec", "numcodecs.pcodec": "pcodec"}


def open_foreign(place: HeldPlace, path: str, metadata: Mapping[str, Any]) -> zarr.Array[Any]:
    """Return the zarr array that listed metadata describes, its decoders limited.

    Raises SourceError, naming codec and package, where a codec is not installed, and ValueError or another of
    zarr-python's errors where the metadata is damaged.
    """
    refuse_objects(f"{place}/{path}", metadata)
    store = place.store if isinstance(place, HeldStore) else _ReadOnlyStore(place)
    try:
        opened = zarr.AsyncArray(metadata=dict(metadata), store_path=StorePath(store, path))
    except (numcodecs.errors.UnknownCodecError, zarr.errors.UnknownCodecError) as error:
        missing = missing_codec(metadata)
        if missing is None:
            raise
        raise SourceError(f"{place}/{path}: {missing}") from error
    known = opened.metadata
    if metadata["zarr_format"] == 2:
        most = _v2_limit(metadata, known)
        filters = None if known.filters is None else tuple(_limited_v2(codec, most) for codec in known.filters)
        limited = replace(known, compressor=_limited_v2(known.compressor, most), filters=filters)
    else:
        limited = replace(known, codecs=tuple(map(_limited, known.codecs)))
    if isinstance(store, _ReadOnlyStore):
        store.most = _file_bytes(known)
    return zarr.Array(zarr.AsyncArray(metadata=limited, store_path=StorePath(store, path)))


def refuse_objects(where: str, metadata: Mapping[str, Any]) -> None:
    """Raise SourceError if the data are Python objects, which are never read."""
    for name in _codec_names(metadata):
        if name.removeprefix("numcodecs.") in _NEVER:
            raise SourceError(f"{where}: its codec {name!r} makes Python objects, which are never read")


def missing_codec(metadata: Mapping[str, Any]) -> str | None:
    """Say which codec of an array is not installed and what brings it, or return None if all are there."""
    for name in _codec_names(metadata):
        if not _is_installed(name, metadata["zarr_format"]):
            package = next((package for start, package in _PACKAGES.items() if name.startswith(start)), None)
            brings = f" the package {package} brings it" if package else " no installed package has it"
            return f"its codec {name!r} is not there;{brings}"
    return None


def _codec_names(metadata: Mapping[str, Any]) -> Iterable[str]:
    if metadata["zarr_format"] == 2:
        entries = [*(metadata.get("filters") or ()), metadata.get("compressor")]
        yield from (str(entry["id"]) for entry in entries if entry)
        return
    for codec in metadata["codecs"]:
        yield str(codec["name"]) if isinstance(codec, Mapping) else str(codec)
        inner = (codec.get("configuration") or {}).get("codecs", ()) if isinstance(codec, Mapping) else ()
        yield from _codec_names({"zarr_format": 3, "codecs": inner})


def _is_installed(name: str, zarr_format: int) -> bool:
    try:
        if zarr_format == 2:
            numcodecs.get_codec({"id": name})
        else:
            zarr.registry.get_codec_class(name)
    except (numcodecs.errors.UnknownCodecError, KeyError, ImportError):
        return False
    except (TypeError, ValueError):
        pass  # it is there and wants to be configured
    return True


def _file_bytes(known: Any) -> int:
    """Return what a chunk's file can have at most: filters may widen it, a shard has an index and many parts."""
    return int(prod(known.chunk_grid.chunk_shape) * (_FILTERED * known.dtype.to_native_dtype().itemsize + 64)) + (
        1 << 20
    )


@dataclass(frozen=True)
class _Limited(BytesBytesCodec):  # type: ignore[misc]
    """A codec whose decoding knows beforehand how much may come out."""

    codec: BytesBytesCodec
    decoder: Decode
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        return dict(self.codec.to_dict())

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> _Limited:
        return replace(self, codec=self.codec.evolve_from_array_spec(array_spec))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return int(self.codec.compute_encoded_size(input_byte_length, chunk_spec))

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        item = chunk_spec.dtype.to_native_dtype().itemsize
        most = most_encoded(self.to_dict(), prod(chunk_spec.shape) * item)
        decoded = await asyncio.to_thread(self.decoder, chunk_data.to_bytes(), most)
        return chunk_spec.prototype.buffer.from_bytes(decoded)


class _LimitedV2(numcodecs.abc.Codec):  # type: ignore[misc]
    """The same for a compressor of Zarr format 2."""

    codec_id = "limited"

    def __init__(self, codec: Any, decoder: Decode, most: int) -> None:
        self._codec, self._decoder, self._most = codec, decoder, most

    def encode(self, buf: Any) -> Any:
        return self._codec.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        return self._decoder(bytes(buf), self._most)

    def get_config(self) -> Any:
        return self._codec.get_config()


def _limited(codec: Codec) -> Codec:
    if isinstance(codec, ShardingCodec):
        return replace(codec, codecs=tuple(map(_limited, codec.codecs)))
    if not isinstance(codec, BytesBytesCodec):
        return codec
    decoder = bounded_decoder(codec.to_dict())
    # A checksum's bytes are there already, and it may stand around a stage that grew.
    return codec if decoder in (None, checked_crc32c) else _Limited(codec, decoder)


def _limited_v2(codec: Any, most: int) -> Any:
    decoder = None if codec is None else bounded_decoder(codec.get_config())
    return codec if decoder is None else _LimitedV2(codec, decoder, most)


def _v2_limit(metadata: Mapping[str, Any], known: Any) -> int:
    size = prod(known.chunks) * known.dtype.to_native_dtype().itemsize
    return most_encoded({}, size * _FILTERED) if metadata.get("filters") else size


class _ReadOnlyStore(Store):  # type: ignore[misc]
    """What zarr-python reads a held place through."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, place: HeldPlace) -> None:
        super().__init__(read_only=True)
        self._place = place
        self.most: int | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ReadOnlyStore) and other._place is self._place

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return str(self._place)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        match byte_range:
            case None:
                data = await asyncio.to_thread(self._place.read, key, self.most)
            case RangeByteRequest(start, end):
                data = await asyncio.to_thread(self._place.read_range, key, start, end - start)
            case OffsetByteRequest(offset):
                data = await asyncio.to_thread(self._place.read_range, key, offset, None)
            case SuffixByteRequest(suffix):
                data = await asyncio.to_thread(self._place.read_range, key, -suffix, None)
            case _:
                raise TypeError(f"unknown byte range {byte_range!r}")
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._place.exists, key)

    async def set(self, key: str, value: Buffer) -> None:
        raise NotImplementedError(key)

    async def delete(self, key: str) -> None:
        raise NotImplementedError(key)

    def list(self) -> AsyncIterator[str]:
        raise NotImplementedError("this store is read by key")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError("this store is read by key")

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError("this store is read by key")
