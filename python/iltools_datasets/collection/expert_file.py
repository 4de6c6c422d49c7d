"""The file others train from: a dictionary of `[T, N, ...]` arrays in a `.npy` or a `.pt`, read without running it."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from iltools_datasets._base.files import replaced_file
from iltools_datasets.errors import ArgumentError, SchemaError, SourceError, SourceNotFoundError
from iltools_datasets.sources.formats.expert_file import Rollouts, check_rollouts, read_rollouts

__all__ = ["StreamedArray", "check_suffix", "load_rollouts", "write_npy"]

_SUFFIXES = (".npy", ".pt")


@dataclass(frozen=True, slots=True)
class StreamedArray:
    """An array that is written piece by piece, so that it never is in memory as a whole.

    Attributes:
        shape: of the whole array.
        dtype: native; bools and numbers.
        pieces: C-contiguous arrays of that dtype which, one after another, are the array in C order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[NDArray[Any]]

    @classmethod
    def whole(cls, array: NDArray[Any]) -> StreamedArray:
        """Return an array that is there already."""
        return cls(array.shape, array.dtype, [np.ascontiguousarray(array)])


def check_suffix(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file to write; `ArgumentError` (a ValueError) for a suffix that is neither .npy nor .pt."""
    found = Path(path)
    if found.suffix not in _SUFFIXES:
        raise ArgumentError(f"{found}: expected a file that ends in .npy or .pt, or a directory for a store")
    return found


def write_npy(path: Path, arrays: Mapping[str, StreamedArray], metadata: Mapping[str, Any]) -> None:
    """Write the dictionary `{**arrays, "metadata": metadata}` as `numpy.save` does; numpy 1 and 2 read it.

    The opcodes are those of pickle's protocol 4; values go from the pieces to the disk, so memory does not grow with
    the file. The file is complete under its name or not there. To `metadata` a checksum per array is added, `crc32c`.

    Raises:
        SchemaError: the pieces of an array are more or fewer bytes than its shape says; nothing is left then.
    """
    with replaced_file(path) as file:
        npy.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickle.PROTO + b"\x04")
        _write_array_of_objects_begin(file)
        file.write(pickle.EMPTY_DICT + pickle.MARK)
        checksums = {}
        for key, array in arrays.items():
            _write_text(file, key)
            checksums[key] = _write_array(file, path, key, array)
        _write_text(file, "metadata")
        _write_plain(file, {**metadata, "crc32c": checksums})
        file.write(pickle.SETITEMS)
        _write_array_of_objects_end(file)
        file.write(pickle.STOP)


def load_rollouts(path: str | os.PathLike[str]) -> Rollouts:
    """Open a `.npy` or `.pt` that this package, or the original collector, wrote. Nothing in it is run.

    Raises:
        SourceNotFoundError: there is no file.
        SourceError: it is damaged, or holds anything but a dictionary of arrays or tensors.
    """
    found = check_suffix(path)
    if found.suffix == ".npy":
        return read_rollouts(found)
    return _read_pt(found)


def _read_pt(path: Path) -> Rollouts:
    import torch

    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise SourceError(f"{path}: not a file of tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(held, dict):
        raise SourceError(f"{path}: expected a dictionary, found {type(held).__name__}")
    return check_rollouts(str(path), {key: _as_array(path, key, value) for key, value in held.items()})


def _as_array(path: Path, key: Any, value: Any) -> Any:
    """Return a tensor as an array over the same memory where it lies in C order, and anything else as it is."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    try:
        return value.detach().contiguous().numpy()
    except (TypeError, RuntimeError) as error:
        raise SourceError(f"{path}, {key!r}: {value.dtype} {value.layout}: {str(error).splitlines()[0]}") from error


def _write_array(file: BinaryIO, path: Path, key: str, array: StreamedArray) -> int:
    _write_array_begin(file, (0,))
    file.write(pickle.MARK)
    _write_plain(file, 1)
    _write_plain(file, tuple(array.shape))
    _write_dtype(file, array.dtype.str[1:], array.dtype.str[0])
    _write_plain(file, False)
    size = prod(array.shape) * array.dtype.itemsize
    file.write(pickle.BINBYTES8 + struct.pack("<Q", size))
    written = checksum = 0
    for piece in _of_dtype(path, key, array):
        content = piece.reshape(-1).view(np.uint8).data
        written += len(content)
        checksum = google_crc32c.extend(checksum, bytes(content))
        file.write(content)
    if written != size:
        raise SchemaError(f"{path}, {key!r}: expected {size} bytes for {list(array.shape)}, found {written}")
    file.write(pickle.TUPLE + pickle.BUILD)
    return checksum


def _of_dtype(path: Path, key: str, array: StreamedArray) -> Iterator[NDArray[Any]]:
    for piece in array.pieces:
        if piece.dtype != array.dtype or not piece.flags.c_contiguous:
            raise SchemaError(f"{path}, {key!r}: expected pieces of {array.dtype} in C order, found {piece.dtype}")
        yield piece


def _write_array_begin(file: BinaryIO, shape: tuple[int, ...]) -> None:
    # numpy 2 calls the module numpy._core and still knows this name; numpy 1 knows only this one.
    file.write(pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n")
    file.write(pickle.GLOBAL + b"numpy\nndarray\n")
    _write_plain(file, shape)
    _write_plain(file, b"b")
    file.write(pickle.TUPLE3 + pickle.REDUCE)


def _write_array_of_objects_begin(file: BinaryIO) -> None:
    _write_array_begin(file, (0,))
    file.write(pickle.MARK)
    _write_plain(file, 1)
    _write_plain(file, ())
    _write_dtype(file, "O8", "|")
    _write_plain(file, False)
    file.write(pickle.EMPTY_LIST)


def _write_array_of_objects_end(file: BinaryIO) -> None:
    file.write(pickle.APPEND + pickle.TUPLE + pickle.BUILD)


def _write_dtype(file: BinaryIO, code: str, order: str) -> None:
    file.write(pickle.GLOBAL + b"numpy\ndtype\n")
    _write_plain(file, (code, False, True))
    file.write(pickle.REDUCE)
    _write_plain(file, (3, order, None, None, None, -1, -1, 63 if code == "O8" else 0))
    file.write(pickle.BUILD)


def _write_text(file: BinaryIO, text: str) -> None:
    _write_plain(file, text)


def _write_plain(file: BinaryIO, value: Any) -> None:
    """Write the opcodes of a plain value, without the memo that ties it to what was written before."""
    if isinstance(value, dict):
        file.write(pickle.EMPTY_DICT + pickle.MARK)
        for key, item in value.items():
            _write_plain(file, key)
            _write_plain(file, item)
        file.write(pickle.SETITEMS)
    elif isinstance(value, tuple | list):
        file.write(pickle.MARK)
        for item in value:
            _write_plain(file, item)
        file.write(pickle.TUPLE if isinstance(value, tuple) else pickle.LIST)
    elif isinstance(value, bool | int | float | str | bytes) or value is None:
        # What lies between the protocol's two bytes and STOP; 3 has no frames around it.
        file.write(pickle.dumps(value, 3)[2:-1])
    else:
        raise ArgumentError(f"metadata: {type(value).__name__} is no plain value")
