"""Zarr hierarchies written file by file, so that a test can say what no writer would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ARRAY = "lab/walk/traj0/qpos"


def v3_array(codecs: list[dict[str, Any]], shape: tuple[int, ...] = (4, 3), **changes: Any) -> dict[str, Any]:
    """Metadata of a float32 array of one chunk."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, *codecs],
        "attributes": {},
        **changes,
    }


def v2_array(compressor: dict[str, Any] | None, shape: tuple[int, ...] = (4, 3), **changes: Any) -> dict[str, Any]:
    """Metadata of a float32 array of one chunk."""
    return {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(shape),
        "dtype": "<f4",
        "compressor": compressor,
        "fill_value": 0,
        "order": "C",
        "filters": None,
        **changes,
    }


def write_archive(root: Path, array: dict[str, Any], chunk: bytes | None, key: str | None = None) -> Path:
    """Write one clip of one array `lab/walk/traj0/qpos`; return the chunk's file."""
    parts = ARRAY.split("/")
    v2 = array["zarr_format"] == 2
    for depth in range(len(parts)):
        group = root.joinpath(*parts[:depth])
        group.mkdir(parents=True, exist_ok=True)
        if v2:
            (group / ".zgroup").write_text('{"zarr_format": 2}')
        else:
            (group / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    place = root / ARRAY
    place.mkdir()
    (place / (".zarray" if v2 else "zarr.json")).write_text(json.dumps(array))
    file = place / (key or ("0.0" if v2 else "c.0.0"))
    if chunk is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(chunk)
    return file
