"""Archives with missing chunks, and values that a store cannot hold as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from fault_tools import last_line, run_python, snapshot
from iltools_datasets import TrajectoryStore
from iltools_datasets.archive import ArchiveReader, ArchiveWriter

BUILD = """
import sys
from iltools_datasets.ingest.from_archive import build_store
build_store(sys.argv[1], sys.argv[2], obs_keys=["qpos"])
"""


def write(path: Path, layout: str = "nested", **arrays: np.ndarray) -> Path:
    """Write an archive of one trajectory."""
    with ArchiveWriter(path, layout=layout) as writer:
        writer.add("lab", "walk", "traj0", {"action": np.zeros((99, 1)), **arrays})
    return path


def qpos() -> np.ndarray:
    """Return positions of 100 states, none of them zero."""
    return np.random.default_rng(0).uniform(1, 2, (100, 4))


@pytest.mark.faults("zarr chunk missing")
@pytest.mark.parametrize("layout", ["nested", "packed"])
def test_a_missing_chunk_of_ours_is_an_error(tmp_path: Path, layout: str) -> None:
    archive = write(tmp_path / "a.zarr", layout, qpos=qpos())
    victim = next(file for file in archive.rglob("*") if file.is_file() and "qpos/c." in str(file))
    victim.unlink()
    before = snapshot(archive)
    process = run_python(BUILD, archive, tmp_path / "store")
    assert process.returncode == 1
    assert "ArchiveCorruptError" in last_line(process), process.stderr
    assert "qpos" in last_line(process)
    assert not (tmp_path / "store").exists()
    assert snapshot(archive) == before


@pytest.mark.faults("zarr chunk missing")
def test_a_missing_chunk_of_others_is_counted(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    array = root.create_array("lab/walk/t/qpos", shape=(40, 2), chunks=(10, 2), dtype=float, fill_value=7.0)
    array[:30] = 1.0
    reader = ArchiveReader(tmp_path / "a.zarr")
    np.testing.assert_array_equal(reader.read(reader.trajectories[0])["qpos"][:, 0], [1] * 30 + [7] * 10)
    assert sum(reader.missing_chunks.values()) == 1


@pytest.mark.faults("zarr values that do not fit")
def test_a_value_that_float32_cannot_hold(tmp_path: Path) -> None:
    values = qpos()
    values[57, 2] = 1e300
    archive = write(tmp_path / "a.zarr", qpos=values)
    process = run_python(BUILD, archive, tmp_path / "store")
    assert process.returncode == 1
    line = last_line(process)
    assert line.startswith("iltools_datasets.errors."), process.stderr
    for word in ("traj0", "qpos", "57", "1e+300"):
        assert word in line
    assert not (tmp_path / "store").exists()


@pytest.mark.faults("zarr values that do not fit")
def test_integers_and_images_stay_what_they_are(tmp_path: Path) -> None:
    counts = np.arange(100, dtype=np.int64).reshape(100, 1) + 2**24 + 1
    images = np.random.default_rng(1).integers(0, 256, (100, 6, 5, 3), dtype=np.uint8)
    archive = write(tmp_path / "a.zarr", qpos=qpos(), count=counts, image=images)
    process = run_python(BUILD, archive, tmp_path / "store")
    assert process.returncode == 0, process.stderr
    store = TrajectoryStore.open(tmp_path / "store")
    rows = store.gather(np.arange(99))
    for key, expected in (("count", counts), ("image", images)):
        assert rows[key].dtype == expected.dtype
        np.testing.assert_array_equal(rows[key], expected[:-1])
        np.testing.assert_array_equal(rows["next", key], expected[1:])
