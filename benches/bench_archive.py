"""The Zarr archive: reading it, building a store from it, and many short clips in both layouts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.ingest.from_archive import build_store
from race import Row, figure

Arrays = dict[str, np.ndarray]
CLIP_KEYS = {"qpos": 36, "qvel": 35, "action": 29}


def make_clip(rng: np.random.Generator, states: int) -> Arrays:
    """Smooth motion: float32 random walks, which compress about as well as joint angles do."""
    return {
        key: np.cumsum(rng.normal(0, 0.01, (states, width)), axis=0, dtype=np.float64).astype(np.float32)
        for key, width in CLIP_KEYS.items()
    }


def write_archive(path: Path, clips: list[Arrays], layout: str = "nested") -> Path:
    with ArchiveWriter(path, overwrite=True, layout=layout) as writer:  # type: ignore[arg-type]
        for number, arrays in enumerate(clips):
            writer.add("bench", f"motion{number % 5}", f"traj{number}", arrays)
    return path


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def read_with_zarr(path: Path) -> int:
    """What there is without us: every array, one after the other, through zarr-python."""
    members = zarr.open_group(path, mode="r").members(max_depth=None)
    return sum(node[...].nbytes for _, node in members if isinstance(node, zarr.Array))


def read_with_ours(path: Path) -> int:
    return sum(array.nbytes for _, arrays in ArchiveReader(path).stream() for array in arrays.values())


@pytest.fixture(scope="module")
def archives(data_dir: Path, quick: bool) -> dict[str, Path]:
    """200 clips of 1,900 states: 152 MB."""
    rng = np.random.default_rng(0)
    clips = [make_clip(rng, 1900) for _ in range(40 if quick else 200)]
    return {layout: write_archive(data_dir / f"{layout}.zarr", clips, layout) for layout in ("nested", "packed")}


@pytest.mark.parametrize("layout", ["nested", "packed"])
def test_reading_and_building(
    archives: dict[str, Path], data_dir: Path, record: Callable[[Row], None], quick: bool, layout: str
) -> None:
    """The peer always reads the nested archive: the same arrays, one per trajectory and key."""
    store = data_dir / "from-archive"
    spent: dict[str, list[float]] = {"zarr": [], "read": [], "build": []}
    assert read_with_ours(archives[layout]) == read_with_zarr(archives["nested"])
    for _ in range(3 if quick else 7):
        spent["zarr"].append(seconds(lambda: read_with_zarr(archives["nested"])))
        spent["read"].append(seconds(lambda: read_with_ours(archives[layout])))
        shutil.rmtree(store, ignore_errors=True)
        spent["build"].append(
            seconds(lambda: build_store(archives[layout], store, ["qpos", "qvel"], act_key="action", progress=False))
        )
    peer = f"{np.median(spent['zarr']):.3g} s"
    for name, target in (("read", 1.0), ("build", 0.5)):
        ratios = [mine / theirs for mine, theirs in zip(spent[name], spent["zarr"], strict=True)]
        record(figure(f"{name} a {layout} archive / zarr-python reading it", "warm", ratios, target, "", peer))
    shutil.rmtree(store, ignore_errors=True)


@pytest.mark.parametrize("layout", ["nested", "packed"])
def test_many_short_clips(data_dir: Path, record: Callable[[Row], None], quick: bool, layout: str) -> None:
    """10,000 clips of 60 states; the figures are milliseconds per clip."""
    rng = np.random.default_rng(1)
    clips = [make_clip(rng, 60) for _ in range(1000 if quick else 10_000)]
    path = data_dir / f"short-{layout}.zarr"
    write = seconds(lambda: write_archive(path, clips, layout)) / len(clips) * 1e3
    opened = seconds(lambda: ArchiveReader(path)) / len(clips) * 1e3
    read = seconds(lambda: read_with_ours(path)) / len(clips) * 1e3
    files = sum(1 for entry in path.rglob("*") if entry.is_file())
    size = sum(entry.stat().st_blocks * 512 for entry in path.rglob("*"))
    raw = sum(array.nbytes for array in clips[0].values()) * len(clips)
    about = f"{files} files, {size / raw:.2f} of the raw bytes"
    for name, value, target in (("write", write, 5.0), ("open", opened, 0.5), ("open and read", read, 1.0)):
        record(figure(f"{name} {len(clips)} clips, {layout}", "per clip", [value], target, "ms", about))
    shutil.rmtree(path)
