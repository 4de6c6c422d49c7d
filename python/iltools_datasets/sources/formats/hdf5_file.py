"""An HDF5 file, without trusting it: no link leads out of it or in a circle, and no size is believed unchecked.

h5py is imported when a file is opened: nobody who has no such files needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.archive.schema import ArraySpec, natural_key
from iltools_datasets.errors import SourceError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIGNED_AT = (0, 512, 1024, 2048)

_DAMAGE = (OSError, RuntimeError, ValueError, TypeError, LookupError, MemoryError, UnicodeError, OverflowError)
_DEEPEST = 16
_LEAST_RATIO, _MOST_RATIO = 1032, 1 << 15
"""How much larger than its chunks an array can be: packed by deflate or lzf, and by any other filter."""
_CLOSE_PACKERS = frozenset({1, 2, 3, 32000})
"""Deflate, shuffle, checksum, lzf."""
_MOST_ATTRIBUTE = 1 << 14


def is_hdf5(path: Path) -> bool:
    """Tell from its first bytes whether a file is HDF5."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_SIGNED_AT[-1] + len(SIGNATURE))
    return any(head[at : at + len(SIGNATURE)] == SIGNATURE for at in _SIGNED_AT)


def can_read_hdf5() -> bool:
    """Tell whether the extra is installed, without importing it."""
    return find_spec("h5py") is not None


class Hdf5:
    """An open HDF5 file; use it as a context manager. What is to be skipped is as if it were not there.

    Opening lists every object and compares each array's declared size with what its file holds of it; values are read
    when asked for.

    Args:
        path: the file.
        skip: names, or dotted ends of paths (`obs.camera`), of arrays and groups to leave out.

    Attributes:
        arrays: path within the file (`data/demo_0/actions`) -> shape and dtype of every array of numbers or bools.
        unreadable: path -> what it is instead: texts, objects, records.

    Raises:
        MissingExtraError: h5py is not installed.
        SourceError: the file is damaged or cut; a link leads elsewhere or in a circle; values lie in another file;
            an array asks for more than there is, lacks parts, or is packed by a filter that is not there.
    """

    def __init__(self, path: Path, skip: Collection[str] = ()) -> None:
        try:
            import h5py
        except ImportError as error:
            raise missing_extra("hdf5", f"{path}: reading HDF5") from error
        self.path = path
        self.arrays: dict[str, ArraySpec] = {}
        self.unreadable: dict[str, str] = {}
        self._skip = frozenset(skip)
        self._h5py = h5py
        self._left = self._size = path.stat().st_size
        self._groups: dict[str, list[str]] = {}
        self._addresses: set[int] = set()
        with self._naming("not a readable HDF5 file"):
            self._file = h5py.File(path, "r")
        try:
            with self._naming("a damaged HDF5 file"):
                self._list(self._file.id, ())
        except BaseException:
            self._file.close()
            raise

    def names(self, group: str = "") -> list[str]:
        """Return what is directly in a group, natural-sorted; nothing if there is no such group."""
        return self._groups.get(group, [])

    def is_group(self, path: str) -> bool:
        """Tell whether a path is a group."""
        return path in self._groups

    def below(self, group: str = "") -> dict[str, str]:
        """Return the arrays below a group by their dotted names within it (`obs.eef_pos`), and the path of each."""
        start = f"{group}/" if group else ""
        found: dict[str, str] = {}
        for path in self.arrays:
            if path.startswith(start):
                key = path.removeprefix(start).replace("/", ".")
                if key in found:
                    raise SourceError(f"{self.path}: {path!r} and {found[key]!r} have the same name {key!r}")
                found[key] = path
        return found

    def read(self, path: str) -> NDArray[Any]:
        """Return an array's values, in native byte order; SourceError if they are damaged."""
        with self._naming(f"{path!r} is damaged"):
            values: NDArray[Any] = np.asarray(self._h5py.Dataset(self._open(path))[()])
        return values.astype(self.arrays[path].dtype, copy=False)

    def texts(self, path: str) -> list[str]:
        """Return the short texts of an array of them; none if it is something else."""
        with self._naming(f"{path!r} is damaged"):
            dataset = self._h5py.Dataset(self._open(path))
            if dataset.ndim != 1 or self._h5py.check_string_dtype(dataset.dtype) is None or dataset.nbytes > self._size:
                return []
            return [_text(value) for value in dataset[()]]

    def attributes(self, path: str = "") -> dict[str, Any]:
        """Return the attributes of an object that are numbers, bools, texts or lists of them, as JSON has them."""
        found: dict[str, Any] = {}
        with self._naming(f"an attribute of {path or '/'!r} is damaged"):
            holder = self._file if not path else self._h5py.Group(self._open(path))
            for name in holder.attrs:
                kind = holder.attrs.get_id(name)
                text = self._h5py.check_string_dtype(kind.dtype) is not None
                if kind.shape is None or prod(kind.shape) > _MOST_ATTRIBUTE or not (text or kind.dtype.kind in "biuf"):
                    continue
                value = holder.attrs[name]
                found[name] = [_plain(item) for item in value.reshape(-1)] if np.ndim(value) else _plain(value)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def _open(self, path: str) -> Any:
        return self._h5py.h5o.open(self._file.id, path.encode())

    def _list(self, group: Any, place: tuple[str, ...]) -> None:
        h5 = self._h5py
        address = h5.h5o.get_info(group).addr
        if address in self._addresses or len(place) > _DEEPEST:
            raise SourceError(f"{self.path}: {'/'.join(place)!r}: links of groups lead in a circle, or too deep")
        self._addresses.add(address)
        kept = []
        for encoded in sorted(group, key=lambda name: natural_key(name.decode(errors="replace"))):
            here = (*place, encoded.decode())
            if any(".".join(here[start:]) in self._skip for start in range(len(here))):
                continue
            path = "/".join(here)
            kept.append(here[-1])
            kind = group.links.get_info(encoded).type
            if kind != h5.h5l.TYPE_HARD:
                known = {h5.h5l.TYPE_SOFT: "a soft link", h5.h5l.TYPE_EXTERNAL: "a link to another file"}
                what = known.get(kind, "a link of an unknown kind")
                raise SourceError(
                    f"{self.path}: {path!r} is {what}, which is never followed; "
                    f"pass skip={here[-1]} to do without it, or copy the file with h5repack"
                )
            found = h5.h5o.open(group, encoded)
            if isinstance(found, h5.h5g.GroupID):
                self._list(found, here)
            elif isinstance(found, h5.h5d.DatasetID):
                self._add(path, found)
        self._groups["/".join(place)] = kept

    def _add(self, path: str, dataset: Any) -> None:
        created = dataset.get_create_plist()
        layout = created.get_layout()
        if layout == self._h5py.h5d.VIRTUAL or (layout != self._h5py.h5d.COMPACT and created.get_external_count()):
            raise self._unfit(path, "its values lie in other files, which are never opened")
        try:
            dtype, shape = dataset.dtype, dataset.shape
        except TypeError as error:
            self.unreadable[path] = str(error)
            return
        if dtype.kind not in "biuf" or dtype.itemsize > 8 or shape is None:
            self.unreadable[path] = "no numbers" if dtype.kind in "OSUV" else f"{dtype}"
            return
        self._check_size(path, dataset, created, shape, dtype.itemsize)
        self.arrays[path] = ArraySpec(tuple(shape), np.dtype(dtype.str).newbyteorder("="))

    def _check_size(self, path: str, dataset: Any, created: Any, shape: tuple[int, ...], itemsize: int) -> None:
        needed, held = prod(shape) * itemsize, dataset.get_storage_size()
        codes = [created.get_filter(number)[0] for number in range(created.get_nfilters())]
        for code in codes:
            if not self._h5py.h5z.filter_avail(code):
                raise self._unfit(path, f"is packed by filter {code}, which is not installed (hdf5plugin has many)")
        most = held
        if created.get_layout() == self._h5py.h5d.CHUNKED:
            chunk = created.get_chunk()
            chunks = prod(-(-extent // length) for extent, length in zip(shape, chunk, strict=True))
            written = dataset.get_num_chunks() if chunks else 0
            if written != chunks:
                raise self._unfit(path, f"{chunks - written} of its {chunks} chunks were never written")
            needed = chunks * prod(chunk) * itemsize
            if codes:
                most = held * (_LEAST_RATIO if _CLOSE_PACKERS.issuperset(codes) else _MOST_RATIO)
        self._left -= held
        if needed > most or self._left < 0:
            raise self._unfit(path, f"asks for {needed} bytes, {held} are said to be there, the file has {self._size}")

    def _unfit(self, path: str, why: str) -> SourceError:
        return SourceError(f"{self.path}: {path!r}: {why}; pass skip={path.rsplit('/', 1)[-1]} to do without it")

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        try:
            yield
        except SourceError:
            raise
        except _DAMAGE as error:
            raise SourceError(f"{self.path}: {what}: {error or type(error).__name__}") from error


def top_of(path: Path) -> tuple[Mapping[str, list[str]], str | None]:
    """Return the names at an HDF5 file's top with, of each group, a few of its own; and why they cannot be told."""
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("hdf5", f"{path}: reading HDF5") from error
    found: dict[str, list[str]] = {}
    try:
        with h5py.File(path, "r") as file:
            for name in file:
                found[name] = []
                if file.get(name, getlink=True).__class__ is h5py.HardLink and isinstance(file[name], h5py.Group):
                    found[name] = [child for child, _ in zip(file[name], range(100), strict=False)]
    except _DAMAGE as error:
        return {}, str(error) or type(error).__name__
    return found, None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | str):
        return _text(value)
    return value.item() if isinstance(value, np.generic) else value
