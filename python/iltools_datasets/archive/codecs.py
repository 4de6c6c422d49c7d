"""The codecs that are decoded here, each of which is told beforehand how many bytes it may make at most.

Only what is named in this file is decoded by this package; every other codec is zarr-python's affair. A chunk that
claims to be more than its array can hold is refused from its header, or as soon as the decoded bytes pass the limit, so
a few kilobytes on disk never become gigabytes in memory.
"""

from __future__ import annotations

import bz2
import lzma

# numcodecs imports this with its first block. A child forked meanwhile would wait for ever for that import: the thread
# that is at it is in the parent.
import multiprocessing.synchronize  # noqa: F401
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numcodecs.lz4  # type: ignore[import-untyped]
import numcodecs.zstd  # type: ignore[import-untyped]

Decode = Callable[[bytes, int], bytes]
"""(encoded bytes, most bytes that may come out) -> decoded bytes; ValueError where more would come out."""

CRC_BYTES = 4

_SLACK = 128 << 10
"""What an encoder may add to data that does not shrink, beside a half of it; zstd works in blocks of this size."""
_PIECE = 64 << 10
_LZMA_MEMORY = 256 << 20
_ZLIB_WBITS, _GZIP_WBITS = 15, 31

_BLOSC_HEADER = 16
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_ZSTD_BLOCK = 128 << 10
_ZSTD_RLE, _ZSTD_COMPRESSED = 1, 2
_ZSTD_UNSTATED = 16 << 20
"""What blocks of unstated size may add up to, which for many small ones is far more than they hold."""


def bounded_decoder(codec: Mapping[str, Any]) -> Decode | None:
    """Return how to decode what a codec of array metadata (v2 `id` or v3 `name`) made, or None if not here."""
    if "name" in codec:
        name, configuration = codec["name"], codec.get("configuration") or {}
        if name == "crc32c":
            return checked_crc32c
    else:
        name, configuration = codec["id"], codec
    if configuration.get("format") == lzma.FORMAT_RAW:
        return None  # such data do not say how they were made
    return _DECODERS.get(name) if isinstance(name, str) else None


def most_encoded(codec: Mapping[str, Any], size: int) -> int:
    """Return how many bytes a sane encoder makes at most of `size` bytes."""
    if codec.get("name") == "crc32c":
        return size + CRC_BYTES
    return size + size // 2 + _SLACK


def codecs_of(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the codecs of array metadata, of either format, in the order in which data go through them."""
    if metadata["zarr_format"] == 2:
        return [codec for codec in (*(metadata.get("filters") or ()), metadata.get("compressor")) if codec]
    return list(metadata["codecs"])


def has_checksum(codecs: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether data that went through these codecs carries a checksum that decoding compares."""
    for codec in codecs:
        configuration = codec.get("configuration") or codec
        name = str(codec.get("name", codec.get("id"))).removeprefix("numcodecs.")
        if name in _CHECKING or (name == "zstd" and configuration.get("checksum") is True):
            return True
        if name == "sharding_indexed" and has_checksum(configuration.get("codecs", ())):
            return True
    return False


def checked_crc32c(data: bytes, most: int) -> bytes:
    """Return the bytes before a CRC-32C (little-endian, at the end); ValueError unless it is theirs."""
    content, stored = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if len(content) > most:
        raise ValueError(f"holds {len(content)} bytes, expected at most {most}")
    if google_crc32c.value(content) != int.from_bytes(stored, "little"):
        raise ValueError("does not match its checksum")
    return content


def _blosc(data: bytes, most: int) -> bytes:
    # numcodecs allocates what the header promises, so the promise is compared first.
    if len(data) < _BLOSC_HEADER:
        raise ValueError(f"has {len(data)} bytes, a blosc header alone has {_BLOSC_HEADER}")
    promised, block, stored = (int.from_bytes(data[at : at + 4], "little") for at in (4, 8, 12))
    if promised > most:
        raise ValueError(f"promises {promised} bytes, expected at most {most}")
    if stored != len(data) or block > max(promised, 1):
        raise ValueError(f"its header says {stored} bytes in blocks of {block}, it has {len(data)}")
    decoded: bytes = numcodecs.blosc.decompress(data)
    return decoded


def _lz4(data: bytes, most: int) -> bytes:
    promised = int.from_bytes(data[:4], "little", signed=True)
    if len(data) < 4 or not 0 <= promised <= most:
        raise ValueError(f"promises {promised} bytes, expected at most {most}")
    decoded: bytes = numcodecs.lz4.decompress(data)
    return decoded


def _zstd(data: bytes, most: int) -> bytes:
    promised, is_exact = zstd_size(data)
    if promised == 0:
        return b""  # numcodecs takes that for an error
    if promised > most and is_exact:
        raise ValueError(f"promises {promised} bytes, expected at most {most}")
    if promised > max(most + _ZSTD_BLOCK, _ZSTD_UNSTATED):
        raise ValueError(f"may hold {promised} bytes, expected at most {most}")
    decoded: bytes = numcodecs.zstd.decompress(data)
    return decoded


def zstd_size(data: bytes) -> tuple[int, bool]:
    """Return how many bytes the frames of zstd data decode to, and whether that is exact or only an upper limit.

    A frame states its size, or it does not; then its blocks (of at most 128 KiB each) bound it. Only headers are read
    (RFC 8878, section 3.1.1), nothing is decoded. Raises ValueError where the data are no whole frames.
    """
    at, total, exact = 0, 0, True
    while at < len(data):
        magic = _number(data, at, 4)
        if magic in _ZSTD_SKIPPABLE:
            at += 8 + _number(data, at + 4, 4)
            continue
        if magic != _ZSTD_MAGIC:
            raise ValueError("is no zstd frame")
        descriptor = _number(data, at + 4, 1)
        single, size_flag = bool(descriptor & 0x20), descriptor >> 6
        at += 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
        size_bytes = (1 if single else 0, 2, 4, 8)[size_flag]
        stated = _number(data, at, size_bytes) + (256 if size_bytes == 2 else 0) if size_bytes else None
        at, bound = _zstd_blocks(data, at + size_bytes)
        at += 4 if descriptor & 4 else 0  # the checksum of the content
        total += bound if stated is None else stated
        exact &= stated is not None
    if at != len(data) or not data:
        raise ValueError("is cut inside a zstd frame")
    return total, exact


def _zstd_blocks(data: bytes, at: int) -> tuple[int, int]:
    """Return where the blocks that begin at `at` end, and how many bytes they can hold at most."""
    bound, is_last = 0, False
    while not is_last:
        header = _number(data, at, 3)
        is_last, kind, size = bool(header & 1), (header >> 1) & 3, header >> 3
        if kind > _ZSTD_COMPRESSED or size > _ZSTD_BLOCK:
            raise ValueError("holds an impossible zstd block")
        at += 3 + (1 if kind == _ZSTD_RLE else size)
        bound += _ZSTD_BLOCK if kind == _ZSTD_COMPRESSED else size
    return at, bound


def _number(data: bytes, at: int, size: int) -> int:
    found = data[at : at + size]
    if len(found) < size:
        raise ValueError("is cut inside a zstd frame")
    return int.from_bytes(found, "little")


def _inflate(data: bytes, most: int, wbits: int) -> bytes:
    stream = zlib.decompressobj(wbits)
    try:
        decoded = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(decoded) > most:
        raise ValueError(f"decodes to more than {most} bytes")
    if stream.eof and not stream.unused_data:
        return decoded
    return _streamed(lambda: zlib.decompressobj(wbits), data, most)  # several members, or damage


def _streamed(make: Callable[[], Any], data: bytes, most: int) -> bytes:
    """Decode streams that follow each other; ValueError where they pass `most` bytes, are cut, or end in rubbish.

    They are fed in pieces, so that what follows a member is not copied once for each member.
    """
    if not data:
        raise ValueError("is empty")
    decoded, view, at = bytearray(), memoryview(data), 0
    try:
        while at < len(view):
            if view[at] == 0 and not any(view[at:]):
                return bytes(decoded)  # zeros may fill up what follows the last member
            stream = make()
            while not stream.eof and at < len(view):
                piece: Any = view[at : at + _PIECE]
                at += len(piece)
                while True:
                    decoded += stream.decompress(piece, most + 1 - len(decoded))
                    if len(decoded) > most:
                        raise ValueError(f"decodes to more than {most} bytes")
                    piece = getattr(stream, "unconsumed_tail", b"")
                    if stream.eof or not (piece or not getattr(stream, "needs_input", True)):
                        break
            if not stream.eof:
                raise ValueError("is cut")
            at -= len(stream.unused_data)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise ValueError(str(error)) from error
    return bytes(decoded)


def _gzip(data: bytes, most: int) -> bytes:
    return _inflate(data, most, _GZIP_WBITS)


def _zlib(data: bytes, most: int) -> bytes:
    return _inflate(data, most, _ZLIB_WBITS)


def _bz2(data: bytes, most: int) -> bytes:
    return _streamed(bz2.BZ2Decompressor, data, most)


def _lzma(data: bytes, most: int) -> bytes:
    return _streamed(lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY), data, most)


_PLAIN: dict[str, Decode] = {
    "zstd": _zstd,
    "gzip": _gzip,
    "zlib": _zlib,
    "lz4": _lz4,
    "blosc": _blosc,
    "bz2": _bz2,
    "lzma": _lzma,
}
_DECODERS: dict[str, Decode] = {**_PLAIN, **{f"numcodecs.{name}": decode for name, decode in _PLAIN.items()}}
_CHECKING = frozenset({"crc32c", "gzip", "zlib", "bz2", "lzma", "crc32", "adler32", "fletcher32", "jenkins_lookup3"})
"""Codecs whose data carry a checksum of their own."""
