"""The data in a pickle, however it was wrapped: plain, by joblib, by numpy.save, by torch.save; nothing of it runs."""

from __future__ import annotations

import mmap
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from iltools_datasets._base.pickled_data import read_pickled_data
from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.npy_header import read_npy_header
from iltools_datasets.sources.formats.unpacked import packer_of, unpacked
from iltools_datasets.sources.walk import has_ending

ENDINGS = (".pkl", ".pickle", ".joblib", ".p", ".npy", ".pt", ".pth", ".motion")
_PACKED_ENDINGS = (".pkl", ".pickle", ".joblib", ".p", ".pkl.gz", ".pkl.bz2", ".pkl.xz", ".joblib.gz", ".z")
_HEAD = 1 << 10
_NPY = b"\x93NUMPY"
_PROGRAM = "data.pkl"

OF_OLD_PROTOCOL = "a pickle of protocol 0 or 1"
_OF_NUMPY = "a .npy of a Python object, which is a pickle"
_OF_TORCH = "a file of torch, which is a zip with a pickle in it"
_PACKED = "a compressed pickle (joblib, or gzip)"


def wrapping_of(path: Path) -> str | None:
    """Return in words what a file is that holds a pickle, from its first bytes; None if it is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_NPY):
        return _OF_NUMPY if re.search(rb"'descr': '\|?O8?'", head) else None
    if re.match(rb"\x80[\x02-\x05]", head):
        old_torch = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19" in head[:64]
        return "a file of torch (old format), which is several pickles" if old_torch else "a pickle"
    if head.startswith(b"PK") and not has_ending(path, (".npz",)):
        return _OF_TORCH if _programs(path) else None
    if has_ending(path, _PACKED_ENDINGS) and packer_of(head) is not None:
        return _PACKED
    if has_ending(path, (".pkl", ".pickle", ".joblib", ".p")) and head[:1] in (b"(", b"c", b"d", b"]", b"}"):
        return OF_OLD_PROTOCOL
    return None


def read_pickled_file(path: Path) -> Any:
    """Return what a file holds, as `_base.pickled_data` does: containers, numbers, texts and arrays; tensors as arrays.

    Large arrays are read-only views of the mapped file, unless it is packed.

    Raises SourceError if it is cut or damaged, or if anything in it is more than data. Nothing was run.
    """
    wrapping = wrapping_of(path)
    if wrapping is None:
        raise SourceError(f"{path}: no pickle, and nothing that wraps one")
    if wrapping == _OF_TORCH:
        return _read_torch(path)
    if wrapping == _PACKED:
        return read_pickled_data(unpacked(path), str(path))
    begin = 0
    with path.open("rb") as file:
        if wrapping == _OF_NUMPY:
            begin = _skip_header(path, file)
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[begin:]
    held = read_pickled_data(content, str(path))
    return held[()] if isinstance(held, np.ndarray) and held.shape == () else held


def _skip_header(path: Path, file: Any) -> int:
    try:
        read_npy_header(file)
    except ValueError as error:
        raise SourceError(f"{path}: not a .npy file: {error}") from error
    return int(file.tell())


def _programs(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as file:
            return [name for name in file.namelist() if name.rsplit("/", 1)[-1] == _PROGRAM and name.count("/") == 1]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _read_torch(path: Path) -> Any:
    """Return what torch.save wrote: a pickle whose storages are members of the zip beside it, unpacked ones."""
    left = path.stat().st_size
    (program, *others) = _programs(path)
    if others:
        raise SourceError(f"{path}: two pickles in one file of torch: {program}, {others[0]}")
    folder = program.rsplit("/", 1)[0]
    try:
        with zipfile.ZipFile(path) as file:
            entries = {entry.filename: entry for entry in file.infolist()}
            known: dict[str, bytes] = {}

            def member(name: str) -> bytes:
                nonlocal left
                if name not in known:
                    entry = entries[name]
                    left -= entry.file_size
                    if entry.compress_type != zipfile.ZIP_STORED or left < 0:
                        raise ValueError(f"member {name!r} is packed, or claims more than the file has")
                    known[name] = file.read(entry)
                return known[name]

            def storage(name: str, size: int) -> memoryview:
                content = member(f"{folder}/data/{name}")
                if len(content) < size:
                    raise ValueError(f"storage {name} takes {size} bytes, {len(content)} are there")
                return memoryview(content)[:size]

            if f"{folder}/byteorder" in entries and member(f"{folder}/byteorder").strip() != b"little":
                raise SourceError(f"{path}: written on a big-endian machine, which is not read")
            return read_pickled_data(memoryview(member(program)), str(path), storage)
    except SourceError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise SourceError(f"{path}: a damaged file of torch: {error or type(error).__name__}") from error
