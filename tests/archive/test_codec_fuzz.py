"""Damaged and hostile archives by the thousand: an error of the family, or what zarr-python reads, in little memory.

The suite runs a few hundred; `make fuzz-archive` runs as many as it is told.
"""

from __future__ import annotations

import bz2
import contextlib
import copy
import gzip
import json
import lzma
import os
import shutil
import tempfile
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.archive.codecs import bounded_decoder
from iltools_datasets.errors import IltoolsError
from raw_zarr import ARRAY, v2_array, v3_array, write_archive

EXAMPLES = int(os.environ.get("ILTOOLS_FUZZ_EXAMPLES", "300"))
IS_LONG = "ILTOOLS_FUZZ_EXAMPLES" in os.environ
MOST_MEMORY = 48 << 20
VALUES = np.random.default_rng(0).standard_normal((8, 3)).astype("<f4")
RAW = VALUES.tobytes()

budget = settings(
    max_examples=EXAMPLES,
    derandomize=not IS_LONG,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


def crc(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(4, "little")


def blosc(data: bytes, name: bytes = b"lz4", shuffle: int = 1) -> bytes:
    return numcodecs.blosc.compress(data, name, 5, shuffle, typesize=4)


def shard(inner: bytes) -> bytes:
    return inner + crc(np.array([0, len(inner)], "<u8").tobytes())


BLOSC = {
    "name": "blosc",
    "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0},
}
ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
GZIP = {"name": "gzip", "configuration": {"level": 5}}
CRC = {"name": "crc32c"}
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
SHARD = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [8, 3],
        "codecs": [BYTES, ZSTD],
        "index_codecs": [BYTES, CRC],
        "index_location": "end",
    },
}
SHAPE = (8, 3)
SEEDS: list[tuple[dict[str, Any], bytes]] = [
    (v3_array([], SHAPE), RAW),
    (v3_array([BLOSC, CRC], SHAPE), crc(blosc(RAW))),
    (v3_array([BLOSC], SHAPE), blosc(RAW, b"zstd", 2)),
    (v3_array([ZSTD], SHAPE), numcodecs.zstd.compress(RAW)),
    (v3_array([GZIP, ZSTD], SHAPE), numcodecs.zstd.compress(gzip.compress(RAW))),
    (v3_array([GZIP, BLOSC, CRC], SHAPE), crc(blosc(gzip.compress(RAW)))),
    (v3_array([{"name": "numcodecs.lz4", "configuration": {}}], SHAPE), numcodecs.lz4.compress(RAW)),
    ({**v3_array([], SHAPE), "codecs": [SHARD]}, shard(numcodecs.zstd.compress(RAW))),
    ({**v3_array([], SHAPE), "codecs": [{"name": "transpose", "configuration": {"order": [1, 0]}}, BYTES, GZIP]},
     gzip.compress(VALUES.T.tobytes())),
    (v2_array(None, SHAPE), RAW),
    (v2_array({"id": "zlib", "level": 1}, SHAPE), zlib.compress(RAW)),
    (v2_array({"id": "gzip", "level": 1}, SHAPE), gzip.compress(RAW)),
    (v2_array({"id": "lz4", "acceleration": 1}, SHAPE), numcodecs.lz4.compress(RAW)),
    (v2_array({"id": "bz2", "level": 1}, SHAPE), bz2.compress(RAW)),
    (v2_array({"id": "lzma"}, SHAPE), lzma.compress(RAW)),
    (v2_array({"id": "zstd", "level": 1}, SHAPE, order="F"), numcodecs.zstd.compress(VALUES.T.tobytes())),
    (v2_array({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}, SHAPE,
              filters=[{"id": "delta", "dtype": "<f4"}]), blosc(RAW)),
]  # fmt: skip

positions = st.floats(0, 1, exclude_max=True)
edits = st.one_of(
    st.tuples(st.just("flip"), positions, st.integers(1, 255)),
    st.tuples(st.just("number"), positions, st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 30, 4096])),
    st.tuples(st.just("cut"), positions, st.just(0)),
    st.tuples(st.just("drop"), positions, st.integers(1, 40)),
    st.tuples(st.just("twice"), positions, st.integers(1, 40)),
    st.tuples(st.just("append"), positions, st.binary(max_size=20)),
)


def edited(data: bytes, changes: list[tuple[str, float, Any]]) -> bytes:
    for kind, position, value in changes:
        at = int(position * len(data))
        match kind:
            case "flip" if data:
                data = data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
            case "number":
                data = data[:at] + value.to_bytes(4, "little") + data[at + 4 :]
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[at + value :]
            case "twice":
                data = data[: at + value] + data[at:]
            case "append":
                data += value
    return data


HOSTILE = st.sampled_from(
    [None, True, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308, float("nan"), "", "x", ".", "/", "../", "NaN",
     "<f8", ">f4", "|b1", "|O", "float64", "int8", "bool", "blosc", "zstd", "gzip", "pickle", "bytes", [], [1], [8, 3],
     [10**9, 10**9], [8, -3], {}, {"id": "zlib"}, {"name": "gzip"}, {"name": "zstd", "configuration": {}}]
)  # fmt: skip


def spots(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, as the keys that lead there."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] * bool(path) + [spot for key, child in children for spot in spots(child, (*path, key))]


def changed(document: dict[str, Any], position: float, value: Any, remove: bool) -> dict[str, Any]:
    document = copy.deepcopy(document)
    places = spots(document)
    *parents, last = places[int(position * len(places))]
    node: Any = document
    for key in parents:
        node = node[key]
    if remove:
        del node[last]
    else:
        node[last] = value
    return document


def outcome_of(root: Path) -> Any:
    """The values, or the error, of reading the one array; with the most memory it took."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with ArchiveReader(root) as reader:
                    found: Any = [reader.read(clip)["qpos"] for clip in reader.trajectories if "qpos" in clip.keys]
            except (IltoolsError, MemoryError) as error:
                found = error
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY, f"{peak >> 20} MiB: {found}"
    assert not isinstance(found, IltoolsError) or str(root) in str(found)
    return found


def peers(root: Path) -> Any:
    """What zarr-python reads there, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return zarr.open_array(root, path=ARRAY, mode="r")[:]
        except Exception:
            return None


@pytest.mark.faults
@budget
@given(st.sampled_from(SEEDS), st.lists(edits, min_size=1, max_size=4))
def test_damaged_chunks(seed: tuple[dict[str, Any], bytes], changes: list[tuple[str, float, Any]]) -> None:
    array, good = seed
    root = Path(tempfile.mkdtemp())
    try:
        write_archive(root / "a.zarr", array, edited(good, changes))
        found = outcome_of(root / "a.zarr")
        event("error" if isinstance(found, IltoolsError) else "values")
        if not isinstance(found, IltoolsError):
            expected = peers(root / "a.zarr")
            if expected is not None:
                np.testing.assert_array_equal(found[0].view(np.uint32), expected.astype("<f4").view(np.uint32))
    finally:
        shutil.rmtree(root)


@pytest.mark.faults
@budget
@given(st.sampled_from(SEEDS), positions, HOSTILE, st.booleans(), st.lists(edits, max_size=1))
def test_hostile_metadata(
    seed: tuple[dict[str, Any], bytes], position: float, value: Any, remove: bool, changes: list[tuple[str, float, Any]]
) -> None:
    array, good = seed
    document = changed(array, position, value, remove)
    root = Path(tempfile.mkdtemp())
    try:
        write_archive(root / "a.zarr", array, edited(good, changes))
        place = root / "a.zarr" / ARRAY / (".zarray" if array["zarr_format"] == 2 else "zarr.json")
        place.write_text(json.dumps(document))
        found = outcome_of(root / "a.zarr")
        event("error" if isinstance(found, IltoolsError) else "values")
    finally:
        shutil.rmtree(root)


@pytest.mark.faults
@budget
@given(
    st.sampled_from(["zstd", "gzip", "zlib", "lz4", "blosc", "bz2", "lzma"]),
    st.binary(max_size=400),
    st.integers(0, 5000),
)
def test_any_bytes_to_any_decoder(name: str, data: bytes, most: int) -> None:
    decode = bounded_decoder({"id": name})
    assert decode is not None
    magic = {"zstd": b"\x28\xb5\x2f\xfd", "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\0", "bz2": b"BZh9", "lzma": b"\xfd7zXZ\0"}
    for content in (data, magic.get(name, b"") + data):
        with contextlib.suppress(ValueError, RuntimeError):
            assert len(decode(content, most)) <= most
