"""States in a `.npy` per array: `qpos.npy` with `qvel.npy`, `action.npy` and others beside it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.schema import natural_key
from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.held import Held
from iltools_datasets.sources.formats.npy_header import read_npy_header
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource
from iltools_datasets.sources.walk import has_ending, is_hidden

_MAIN = "qpos"
_ENDING = ".npy"


class StateNpySource(ToldSource):
    """`qpos.npy [T, nq]`, or `walk_qpos.npy`, and every array whose file begins with the same `walk_`, `[T, ...]`.

    They are one trajectory, each array under the rest of its file's name, values and dtypes as they are; a single
    number (`fps.npy`) is an attribute or the rate. Quaternions inside `qpos` stay as they are. Arrays of Python objects
    are pickles and no part of it.
    """

    format = "state-npy"
    summary = "a npy per array: qpos.npy with qvel.npy, action.npy, ... beside it"
    suffixes = (_ENDING,)
    owns_suffixes = False

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_file() and _main_of(path) is not None

    def files(self) -> list[SourceFile]:
        found = {main for path in self._paths() if (main := _main_of(path)) is not None}
        if self.path.is_file() and self.path not in found:
            mains = ", ".join(sorted(main.name for main in found)) or f"a {_MAIN}{_ENDING}"
            raise SourceError(f"{self.path}: is a part of what begins with {mains}; name that, or its directory")
        if not found:
            raise SourceError(f"{self.path}: no {_MAIN}{_ENDING} below it")
        mains_in_order = sorted(found, key=lambda path: [natural_key(part) for part in path.parts])
        return [
            SourceFile(main, self.motion or _prefix(main).rstrip("_-.") or main.parent.name) for main in mains_in_order
        ]

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        path, prefix = file.path, _prefix(file.path)
        values: dict[str, NDArray[Any]] = {}
        for part in sorted(path.parent.iterdir()):
            key = part.name[len(prefix) : -len(_ENDING)].lower()
            if _main_of(part) == path and key not in self.skip:
                values[key] = _read(part)
        clip = Held(str(path), values)
        if _MAIN not in clip.arrays or clip.arrays[_MAIN].ndim != 2 or not len(clip.arrays[_MAIN]):
            raise SourceError(f"{path}: {_MAIN!r} should be numbers [T, width]")
        arrays = clip.rows(len(clip.arrays[_MAIN]), ())
        arrays |= {key: clip.arrays[key] for key in ("action", "actions") if key in clip.arrays}
        attributes = clip.attributes(arrays)
        attributes |= self.all_names(path)
        clip.say_what_is_left(self, path, {*arrays, *attributes})
        yield Recording(
            arrays,
            fps=self.rate_of(path, clip.stated_rate),
            quaternions=None,
            velocities={"qvel": "as in the file"} if "qvel" in arrays else {},
            attributes=attributes,
        )

    def _paths(self) -> list[Path]:
        return [self.path] if self.path.is_file() else self._below()


def _prefix(main: Path) -> str:
    return main.name[: -len(_MAIN + _ENDING)]


def _main_of(path: Path) -> Path | None:
    """Return the file of `qpos` that an array belongs to: of those whose prefix it has, the one with the longest."""
    if not has_ending(path, (_ENDING,)) or is_hidden(path) or not _is_plain(path):
        return None
    mains = _mains_in(path.parent, path.parent.stat().st_mtime_ns)
    return max(
        (main for main in mains if path.name.startswith(_prefix(main))), key=lambda main: len(main.name), default=None
    )


@lru_cache(maxsize=256)
def _mains_in(folder: Path, changed: int) -> tuple[Path, ...]:
    # Each array of a folder asks.
    return tuple(path for path in folder.iterdir() if has_ending(path, (_MAIN + _ENDING,)) and _is_plain(path))


def _is_plain(path: Path) -> bool:
    """Tell whether a file is a `.npy` of numbers; a damaged one that begins as one is."""
    try:
        with path.open("rb") as file:
            return read_npy_header(file)[1].kind in "biuf"
    except (OSError, ValueError):
        return False


def _read(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            shape, dtype = read_npy_header(file)
            needed, held = prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
            if any(extent < 0 for extent in shape) or needed != held:
                raise ValueError(f"its header asks for {dtype} {list(shape)}, {needed} bytes; it holds {held}")
            file.seek(0)
            values: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: {error}") from error
    return values
