"""Reference windows: joints by name, roots passed through, and NaN where the data has no such joint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from archives import write_archive

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets.errors import MissingKeyError, OutOfRangeError, SchemaError  # noqa: E402
from iltools_datasets.reference import JointMapping, ReferenceManager  # noqa: E402
from iltools_datasets.replay_export import build_replay_from_zarr  # noqa: E402
from iltools_datasets.replay_manager import EnvAssignment, ExpertReplayManager  # noqa: E402

pytestmark = pytest.mark.torch

JOINTS = ["hip", "knee", "ankle"]
TARGET = ["ankle", "wrist", "hip"]


def make(path: Path, nq: int, nv: int, states: int = 6) -> ExpertReplayManager:
    rng = np.random.default_rng(0)
    clips = {
        f"lab/walk/traj{number}": {
            "qpos": rng.standard_normal((states, nq), dtype=np.float32),
            "qvel": rng.standard_normal((states, nv), dtype=np.float32),
        }
        for number in range(2)
    }
    mgr = build_replay_from_zarr(write_archive(path / "archive.zarr", clips), path / "store", ["qpos", "qvel"])
    mgr.set_assignment([EnvAssignment(0, 1, 3), EnvAssignment(0, 0, 0)])
    return mgr


ROOT = {"root_pos", "root_quat", "root_lin_vel", "root_ang_vel"}


@pytest.mark.parametrize("root", [False, True])
def test_joints_are_found_by_name(tmp_path: Path, root: bool) -> None:
    mgr = make(tmp_path, 3 + 7 * root, 3 + 6 * root)
    references = ReferenceManager(mgr, joint_mapping=JointMapping(JOINTS, TARGET))
    window = references.get_reference_window(4)
    raw = mgr.sample_per_env_window(4)
    assert set(window.keys()) == {"joint_pos", "joint_vel", "raw_qpos", "raw_qvel"} | (ROOT if root else set())
    for key, joints, skip in (("qpos", "joint_pos", 7 * root), ("qvel", "joint_vel", 6 * root)):
        assert torch.equal(window[f"raw_{key}"], raw[key])
        assert window[joints].shape == (2, 4, 3)
        assert torch.equal(window[joints][..., 0], raw[key][..., skip + 2])
        assert window[joints][..., 1].isnan().all()
        assert torch.equal(window[joints][..., 2], raw[key][..., skip])
    if root:
        assert torch.equal(torch.cat([window["root_pos"], window["root_quat"]], -1), raw["qpos"][..., :7])
        assert torch.equal(torch.cat([window["root_lin_vel"], window["root_ang_vel"]], -1), raw["qvel"][..., :6])
    assert mgr.assignment == [EnvAssignment(0, 1, 3), EnvAssignment(0, 0, 0)], "cursors do not move"


@pytest.mark.parametrize("mapping", [None, JointMapping([], [])])
def test_without_names_joints_pass_through(tmp_path: Path, mapping: JointMapping | None) -> None:
    mgr = make(tmp_path, 3, 3)
    window = ReferenceManager(mgr, mapping).get_reference_window(3)
    assert torch.equal(window["joint_pos"], mgr.sample_per_env_window(3)["qpos"])
    assert not ROOT & set(window.keys())
    mgr = make(tmp_path / "with a root", 9, 8)
    window = ReferenceManager(mgr, mapping).get_reference_window(3)
    assert torch.equal(window["joint_pos"], mgr.sample_per_env_window(3)["qpos"][..., 7:])
    assert torch.equal(window["root_ang_vel"], mgr.sample_per_env_window(3)["qvel"][..., 3:6])
    seven_joints = ReferenceManager(make(tmp_path / "an arm", 7, 7), mapping).get_reference_window(3)
    assert seven_joints["joint_pos"].shape == (2, 3, 7)


def test_velocities_that_the_data_lacks_are_zeros(tmp_path: Path) -> None:
    mgr = make(tmp_path, 10, 9)
    window = ReferenceManager(mgr, JointMapping(JOINTS, ["knee"]), qvel_key="dq").get_reference_window(2)
    assert (window["raw_qvel"].shape, window["joint_vel"].shape) == ((2, 2, 9), (2, 2, 1))
    assert not any(window[key].any() for key in ("raw_qvel", "joint_vel", "root_lin_vel", "root_ang_vel"))


def test_one_step_has_no_time_axis(tmp_path: Path) -> None:
    mgr = make(tmp_path, 10, 9)
    references = ReferenceManager(mgr, JointMapping(JOINTS, TARGET))
    window, longer = references.get_reference_window(1), references.get_reference_window(2)
    assert window.batch_size == torch.Size([2])
    assert all(torch.equal(window[key].nan_to_num(), longer[key][:, 0].nan_to_num()) for key in longer.keys())  # noqa: SIM118


def test_a_window_past_the_end(tmp_path: Path) -> None:
    mgr = make(tmp_path, 3, 3)
    references = ReferenceManager(mgr, device="cpu")
    assert references.get_reference_window(3).batch_size == torch.Size([2, 3])
    with pytest.raises(OutOfRangeError):
        references.get_reference_window(3, wrap=False)
    assert references.get_reference_window(2, wrap=False).batch_size == torch.Size([2, 2])


def test_other_keys(tmp_path: Path) -> None:
    mgr = make(tmp_path, 3, 3)
    references = ReferenceManager(mgr, JointMapping(JOINTS, TARGET), qpos_key=("next", "qpos"), qvel_key="qvel")
    after = mgr.sample_per_env_window(2)["next", "qpos"]
    assert torch.equal(references.get_reference_window(2)["raw_qpos"], after)


def test_widths_and_keys_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    mgr = make(tmp_path, 5, 3)
    with pytest.raises(SchemaError, match=r"key 'qpos': expected 3 reference joints.*\[5\]"):
        ReferenceManager(mgr, JointMapping(JOINTS, TARGET))
    with pytest.raises(SchemaError, match="10 positions and 3 velocities lacks the root"):
        ReferenceManager(make(tmp_path / "half", 10, 3), JointMapping(JOINTS, TARGET))
    with pytest.raises(MissingKeyError, match="'joint_pos'"):
        ReferenceManager(mgr, qpos_key="joint_pos")


def test_a_mapping() -> None:
    mapping = JointMapping(JOINTS, TARGET)
    assert mapping.missing == ("wrist",)
    values = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(mapping.apply(values)[:, [0, 2]], values[:, [2, 0]])
    assert torch.equal(values, torch.arange(6.0).reshape(2, 3)), "the input stays as it was"
    complete = JointMapping(JOINTS, ["knee"])
    assert complete.missing == ()
    assert complete.apply(torch.arange(3)).tolist() == [1]
    assert JointMapping(JOINTS, []).apply(values).shape == (2, 0)


@pytest.mark.parametrize(("reference", "target"), [(["a", "a"], ["a"]), (["a"], ["b", "b"])])
def test_names_must_be_unique(reference: list[str], target: list[str]) -> None:
    with pytest.raises(ValueError, match="more than once"):
        JointMapping(reference, target)


def test_values_that_do_not_fit_are_refused() -> None:
    mapping = JointMapping(JOINTS, TARGET)
    with pytest.raises(SchemaError, match="expected 3 joints"):
        mapping.apply(torch.zeros(2, 4))
    with pytest.raises(SchemaError, match=r"\['wrist'\].*no NaN"):
        mapping.apply(torch.zeros(2, 3, dtype=torch.int64))
