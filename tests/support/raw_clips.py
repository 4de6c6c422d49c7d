"""Directories of raw files: clips of several formats, and what an archive of them holds, file by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr


def write_clips(root: Path, count: int, seed: int = 0) -> Path:
    """Write trajopt clips in three directories, which are three motions."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        directory = root / f"motion{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        states = 5 + number % 7
        np.savez(
            directory / f"clip{number}.npz",
            qpos=rng.standard_normal((states, 9)),
            qvel=rng.standard_normal((states, 8)),
            time=np.arange(states) / 50,
        )
    return root


def write_mixture(root: Path) -> Path:
    """Write clips, a directory of arrays that belong together, a Zarr replay, and files of no format."""
    rng = np.random.default_rng(1)
    write_clips(root, 8)
    for name in ("b_arrays", "motion1/more"):
        (root / name).mkdir(parents=True)
        for key, width in (("qpos", 9), ("qvel", 8), ("action", 2)):
            np.save(root / name / f"{key}.npy", rng.standard_normal((12, width)))
    replay = zarr.open_group(root / "c_replay.zarr", mode="w", zarr_format=2)
    replay.create_array("data/state", data=rng.standard_normal((20, 3)))
    replay.create_array("data/action", data=rng.standard_normal((20, 2)))
    replay.create_array("meta/episode_ends", data=np.array([8, 20]))
    (root / "README.md").write_text("these are clips")
    (root / "motion2" / ".DS_Store").write_bytes(b"\0")
    return root


def files_of(archive: Path) -> dict[str, bytes]:
    """Return the content of every file of an archive."""
    return {str(file.relative_to(archive)): file.read_bytes() for file in archive.rglob("*") if file.is_file()}
