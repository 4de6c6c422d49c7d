"""TensorDict memmap directories that somebody else wrote, opened as a store without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets.errors import MissingKeyError, SchemaError, StoreCorruptError, StoreNotFoundError

_Leaf = tuple[tuple[str, ...], str, str, list[int]]


def open_memmap(
    path: Path, traj_key: str | tuple[str, ...] | None, end_key: str | tuple[str, ...] | None, backend: Any
) -> _core.Store:
    """Open the directory; see `TrajectoryStore.from_tensordict_memmap`."""
    if not (path / "meta.json").is_file():
        raise StoreNotFoundError(f"{path}: no TensorDict memmap directory here (meta.json is missing)")
    leaves = _leaves(path, ())
    if not leaves:
        raise SchemaError(f"{path}: no tensors in it")
    rows = {shape[0] if shape else None for _, _, _, shape in leaves}
    if len(rows) != 1 or None in rows:
        raise SchemaError(f"{path}: leaves differ in their number of rows: {sorted(map(str, rows))}")
    (count,) = rows
    assert count is not None
    ends = _ends(path, leaves, traj_key, end_key, count)
    start = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    ids = np.arange(len(ends), dtype=np.int64)
    table = _core.SegmentTable(np.zeros_like(ids), ids, start, ends + 1 - start)
    columns = [(key, file, dtype, shape[1:]) for key, file, dtype, shape in leaves]
    return _core.Store.over_files(str(path), columns, table, backend)


def _leaves(directory: Path, prefix: tuple[str, ...]) -> list[_Leaf]:
    meta_path = directory / "meta.json"
    try:
        meta = json.loads(meta_path.read_text(encoding="utf-8"))
        entries = [(key, entry) for key, entry in meta.items() if isinstance(entry, dict)]
    except (OSError, ValueError, AttributeError) as error:
        raise StoreCorruptError(f"{meta_path}: not TensorDict metadata: {error}") from error
    leaves: list[_Leaf] = []
    for key, entry in entries:
        # TensorDict percent-encodes what file systems refuse; older releases wrote the key as it is.
        encoded = quote(key, safe="".join(c for c in key if c not in '/\\:*?"<>| %'))
        if "type" in entry:
            nested = directory / key
            leaves += _leaves(nested if nested.is_dir() else directory / encoded, (*prefix, key))
            continue
        shape, dtype = entry.get("shape"), entry.get("dtype")
        if not isinstance(dtype, str) or not _is_shape(shape) or entry.get("is_nested"):
            raise StoreCorruptError(f"{meta_path}: key {key!r}: no plain tensor: {entry}")
        assert isinstance(shape, list)
        file = directory / f"{encoded}.memmap"
        leaves.append(((*prefix, key), str(file), dtype.removeprefix("torch."), shape))
    return leaves


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(type(extent) is int and 0 <= extent < 2**62 for extent in shape)


def _ends(
    path: Path,
    leaves: list[_Leaf],
    traj_key: str | tuple[str, ...] | None,
    end_key: str | tuple[str, ...] | None,
    count: int,
) -> NDArray[np.int64]:
    """Return the last transition of each trajectory, int64 [K], ascending."""
    if count == 0:
        raise SchemaError(f"{path}: no rows in it")
    by_key = {key: (file, dtype, shape) for key, file, dtype, shape in leaves}
    for key, is_end in ((traj_key, False), (end_key, True)):
        parts = (key,) if isinstance(key, str) else key
        if parts is None or parts not in by_key:
            if key is not None and (not is_end or traj_key is None):
                raise MissingKeyError(f"{path}: no key {key!r} to tell trajectories apart; there are {sorted(by_key)}")
            continue
        file, dtype, shape = by_key[parts]
        if int(np.prod(shape)) != count:
            raise SchemaError(f"{path}: key {key!r}: expected shape [{count}] or [{count}, 1], found {shape}")
        size = count * np.dtype(dtype).itemsize
        if not Path(file).is_file() or Path(file).stat().st_size != size:
            found = Path(file).stat().st_size if Path(file).is_file() else "no file"
            raise StoreCorruptError(f"{file}: column {key!r}: expected {size} bytes, found {found}")
        values = np.fromfile(file, dtype=np.uint8 if dtype == "bool" else dtype)
        ends = np.flatnonzero(values) if is_end else np.flatnonzero(values[1:] != values[:-1])
        if not len(ends) or ends[-1] != count - 1:
            ends = np.append(ends, count - 1)
        return ends.astype(np.int64)
    raise MissingKeyError(f"{path}: give traj_key or end_key; there are {sorted(by_key)}")
