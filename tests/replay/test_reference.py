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


@pytest.mark.parametrize("root", [0, 7])
def test_joints_are_found_by_name(tmp_path: Path, root: int) -> None:
    mgr = make(tmp_path, 3 + root, 3 + (6 if root else 0))
    references = ReferenceManager(mgr, joint_mapping=JointMapping(JOINTS, TARGET))
    window = references.get_reference_window(4)
    raw = mgr.sample_per_env_window(4)
    for key, skip in (("qpos", root), ("qvel", 6 if root else 0)):
        assert window[key].shape == (2, 4, skip + 3)
        assert torch.equal(window[key][..., :skip], raw[key][..., :skip])
        joints, source = window[key][..., skip:], raw[key][..., skip:]
        assert torch.equal(joints[..., 0], source[..., 2])
        assert joints[..., 1].isnan().all()
        assert torch.equal(joints[..., 2], source[..., 0])
    assert mgr.assignment == [EnvAssignment(0, 1, 3), EnvAssignment(0, 0, 0)], "cursors do not move"


def test_without_a_mapping_joints_pass_through(tmp_path: Path) -> None:
    mgr = make(tmp_path, 3, 3)
    window = ReferenceManager(mgr).get_reference_window(3)
    assert torch.equal(window["qpos"], mgr.sample_per_env_window(3)["qpos"])
    assert set(window.keys()) == {"qpos", "qvel"}


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
    assert references.get_reference_window(2)["next", "qpos"].shape == (2, 2, 3)


def test_widths_and_keys_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    mgr = make(tmp_path, 5, 3)
    with pytest.raises(SchemaError, match=r"key 'qpos': expected 3 reference joints.*\[5\]"):
        ReferenceManager(mgr, JointMapping(JOINTS, TARGET))
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
