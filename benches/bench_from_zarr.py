"""From Zarr: what a build takes in memory and on disk, and lazy windows against zarr-python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from iltools_datasets import TrajectoryStore
from iltools_datasets.archive.writer import ArchiveWriter
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.storage import VectorizedTrajectoryDataset
from race import figure, race

WIDTHS = {"qpos": 61, "qvel": 54, "action": 75}
MOST_STATES = 1100


@pytest.fixture(scope="session")
def archive(data_dir: Path) -> Path:
    """200 clips of about 1,000 states, 152 MB of f32, written by this package."""
    path = data_dir / "trajectories.zarr"
    if not path.exists():
        rng = np.random.default_rng(0)
        with ArchiveWriter(path) as writer:
            for k in range(200):
                states = int(rng.integers(900, MOST_STATES))
                arrays = {key: rng.standard_normal((states, w), dtype=np.float32) for key, w in WIDTHS.items()}
                writer.add("mocap", f"motion{k % 4}", f"traj{k}", arrays)
    return path


BUILD = """
import sys
import numpy, zarr
from iltools_datasets.ingest.from_archive import build_store
def peak_mb():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) / 1024
before = peak_mb()
build_store(sys.argv[1], sys.argv[2], ["qpos", "qvel"], act_key="action", progress=False)
print(peak_mb() - before)
"""


def test_memory_and_size_of_a_build(record: Any, archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    command = [sys.executable, "-c", BUILD, str(archive), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    trajectory = MOST_STATES * sum(WIDTHS.values()) * 4 / 2**20
    peak = [float(done.stdout)]
    record(figure("memory of a build above the interpreter's own", "200 clips", peak, 50 + trajectory, "MB"))
    store = TrajectoryStore.open(path)
    raw = store.num_states * sum(WIDTHS.values()) * 4
    record(figure("bytes on disk / raw states and actions", "200 clips", [store.bytes_on_disk / raw], 1.02, ""))


@pytest.mark.parametrize("source", ["archive", "store"])
def test_fetch_window(record: Any, archive: Path, tmp_path: Path, source: str) -> None:
    num_envs, window = 64, 32
    place: Any = archive
    if source == "store":
        path, _ = build_store(archive, tmp_path / "store", ["qpos", "qvel"], act_key="action", progress=False)
        place = TrajectoryStore.open(path)
    cfg = {"window_size": window, "buffer_size": 128, "allow_wrap": True}
    dataset = VectorizedTrajectoryDataset(zarr_path=place, num_envs=num_envs, cfg=cfg)
    clips = np.arange(num_envs) % len(dataset.traj_lengths)
    steps = np.random.default_rng(1).integers(0, 800, num_envs)
    dataset.update_references(env_to_traj=dict(enumerate(clips.tolist())), env_to_step=dict(enumerate(steps.tolist())))
    motions = {
        name: motion
        for motion in ("motion0", "motion1", "motion2", "motion3")
        for name in (f"traj{k}" for k in range(int(motion[-1]), 200, 4))
    }
    names = [dataset.available_trajectories[clip].rsplit("/", 1)[-1] for clip in clips]
    root = zarr.open_group(archive, mode="r")
    arrays = {key: [root[f"mocap/{motions[name]}/{name}/{key}"] for name in names] for key in ("qpos", "qvel")}

    def ours() -> dict[str, Any]:
        return {key: dataset.fetch_window(range(num_envs), key, window) for key in arrays}

    def peer() -> dict[str, Any]:
        pick = {key: [a[s : s + window] for a, s in zip(arrays[key], steps, strict=True)] for key in arrays}
        return {key: np.stack(windows) for key, windows in pick.items()}

    mine, other = ours(), peer()
    for key in arrays:
        np.testing.assert_array_equal(mine[key], other[key])
    name = f"fetch_window 64 x 32 x (61 + 54) from {source} / zarr-python"
    record(lambda: race(name, "tight loop", ours, peer, 250, rounds=7))
