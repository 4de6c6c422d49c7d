"""A file packed by zlib, gzip, bzip2 or xz, unpacked into memory up to a size that is believable."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iltools_datasets.errors import SourceError

_PIECE = 1 << 20
_ALWAYS, _RATIO = 1 << 26, 100
"""Motion shrinks to a half or a third. More than so many bytes, and so many times the file, is no motion."""
_LZMA_MEMORY = 1 << 28
_FAILURES = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError)


def packer_of(head: bytes) -> str | None:
    """Return by what a file that begins so is packed, or None; lz4 and joblib's oldest are told, too."""
    if len(head) >= 2 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0:
        return "zlib"
    known = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x04\x22\x4d\x18": "lz4", b"ZF0x": "ZF"}
    return next((name for start, name in known.items() if head.startswith(start)), None)


def unpacked(path: Path) -> memoryview:
    """Return what a packed file holds.

    Raises SourceError if it is damaged, cut, followed by something else, packed by something that is not read here, or
    larger than 64 MiB and a hundred times the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        packer = packer_of(file.read(8))
        if packer not in _UNPACKERS:
            raise SourceError(
                f"{path}: packed by {packer or 'nothing that is known'}, which is not read; pack it by zlib: "
                "joblib.dump(joblib.load(...), ..., compress=('zlib', 3))"
            )
        file.seek(0)
        unpacker = _UNPACKERS[packer]()
        most, content = max(_ALWAYS, _RATIO * size), bytearray()
        try:
            while not unpacker.eof:
                # zlib hands back what it had no room for, the others keep it.
                pending = getattr(unpacker, "unconsumed_tail", b"")
                more = pending or (file.read(_PIECE) if getattr(unpacker, "needs_input", True) else b"")
                piece = unpacker.decompress(more, _PIECE)
                if not (more or piece or unpacker.eof):
                    raise EOFError("it is cut")
                content += piece
                if len(content) > most:
                    raise ValueError(f"it unpacks to more than {most} bytes")
            if unpacker.unused_data or file.read(1):
                raise ValueError("something follows what is packed")
        except _FAILURES as error:
            raise SourceError(f"{path}: packed by {packer}, and damaged: {error or type(error).__name__}") from error
    return memoryview(content)


_UNPACKERS: dict[str | None, Callable[[], Any]] = {
    "zlib": zlib.decompressobj,
    "gzip": lambda: zlib.decompressobj(31),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY),
}
