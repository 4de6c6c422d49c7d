"""Every real file of a known format through the whole command line, its values compared with a reading of our own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the extra cli")

from iltools_datasets.cli import main
from iltools_datasets.store.trajectory_store import TrajectoryStore

pytestmark = pytest.mark.shared_data

Columns = dict[str, np.ndarray]


def amp(path: Path) -> Columns:
    return dict(np.load(path))


def csv(path: Path) -> Columns:
    rows = np.loadtxt(path, delimiter=",")
    return {"qpos": rows[:, [0, 1, 2, 6, 3, 4, 5, *range(7, rows.shape[1])]]}


def loco_mujoco(path: Path) -> Columns:
    return {key: np.load(path)[key] for key in ("qpos", "qvel")}


def loco_mujoco_legacy(path: Path) -> Columns:
    file = np.load(path)
    joints = [name.removeprefix("q_") for name in file.files if name.startswith("q_")]
    return {
        "qpos": np.stack([file[f"q_{joint}"] for joint in joints], axis=1),
        "qvel": np.stack([file[f"dq_{joint}"] for joint in joints], axis=1),
    }


FILES: list[tuple[str, Callable[[Path], Columns], int, set[str]]] = [
    ("unitree_g1/G1_Take_102.bvh_60hz.csv", csv, 1, set()),
    ("unitree_g1/G1_gangnam_style_V01.bvh_60hz.csv", csv, 1, {"jump"}),
    ("unitree_g1/g1_dance1_subject2_30.npz", amp, 1, {"quaternion", "velocity", "jump"}),
    ("isaaclab_amp/humanoid_dance.npz", amp, 1, {"quaternion", "repeat", "jump"}),
    ("isaaclab_amp/humanoid_run.npz", amp, 1, {"repeat", "jump"}),
    ("isaaclab_amp/humanoid_walk.npz", amp, 1, {"repeat", "jump"}),
    ("loco_mujoco/v1.0/UnitreeH1_walk_v1.npz", loco_mujoco, 2, {"velocity"}),
    ("loco_mujoco/v0.4/02-constspeed_UnitreeG1.npz", loco_mujoco_legacy, 1, {"velocity"}),
    ("loco_mujoco/v0.4/05-run_UnitreeH1.npz", loco_mujoco_legacy, 1, set()),
    ("loco_mujoco/v0.4/walk_straight.npz", loco_mujoco_legacy, 3, set()),
]


@pytest.mark.parametrize(("name", "read", "num_clips", "complaints"), FILES, ids=[entry[0] for entry in FILES])
def test_a_real_file_all_the_way(
    shared_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    read: Callable[[Path], Columns],
    num_clips: int,
    complaints: set[str],
) -> None:
    def iltools(*arguments: object, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as stopped:
            main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert (stopped.value.code or 0) == code, captured.err
        return json.loads(captured.out)

    archive, store = tmp_path / "motion.zarr", tmp_path / "store"
    assert iltools("export", "auto", shared_data / name, "--out", archive)["num_clips"] == num_clips
    found = {finding["check"] for finding in iltools("doctor", archive, code=1 if complaints else 0)["findings"]}
    assert found == complaints
    iltools("build", archive, "--out", store, "--float-dtype", "keep")
    raw = read(shared_data / name)
    about = iltools("info", store)
    assert about["num_clips"] == num_clips
    assert iltools("info", archive)["num_states"] == about["num_states"]
    assert iltools("view", store)["num_states"] == max(iltools("view", archive)["clip_lengths"])
    assert iltools("verify", store)["damages"] == []
    opened = TrajectoryStore.open(store)
    rows = opened.gather(np.arange(len(opened)))
    first = np.delete(np.arange(about["num_states"]), np.cumsum(opened.segments.length + 1) - 1)
    for key in set(raw) & set(rows):
        np.testing.assert_array_equal(rows[key], raw[key][first])
        np.testing.assert_array_equal(rows["next", key], raw[key][first + 1])
    assert set(raw) & set(rows)


def test_push_t(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["export", "auto", str(shared_data / "pusht_zarr"), "--out", str(tmp_path / "motion.zarr")],
        ["doctor", str(tmp_path / "motion.zarr")],
        ["build", str(tmp_path / "motion.zarr"), "--out", str(tmp_path / "store")],
        ["info", str(tmp_path / "store")],
        ["view", str(tmp_path / "store"), "--key", "action"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert not stopped.value.code, capsys.readouterr().err
    assert "206 of 49 to 246 states" in capsys.readouterr().out
