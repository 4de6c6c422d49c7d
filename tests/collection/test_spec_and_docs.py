"""The specification's and the page's blocks run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT.parent / "shared" / "spec" / "expert_collection.md"


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8", errors="replace"), re.S)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium", reason="needs gymnasium")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = blocks(ROOT / "docs" / "collection.md")
    assert len(found) == 7
    for block in found:
        exec(block, names)
    assert names["loaded"]["actions"].shape[1:] == (1, 2)


@pytest.mark.shared_data
def test_the_specification_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SPEC.is_file():
        pytest.skip(f"no specification at {SPEC}")
    monkeypatch.chdir(tmp_path)
    dims = {"command": 58, "joint_pos": 29, "joint_vel": 29, "actions": 29, "gravity": 9}
    manager = SimpleNamespace(
        active_terms={"policy": list(dims)}, group_obs_term_dim={"policy": [(dim,) for dim in dims.values()]}
    )
    num_envs = 6
    mask = torch.arange(num_envs) != 4
    names: dict[str, Any] = {
        "env": SimpleNamespace(observation_manager=manager, num_envs=num_envs),
        "teacher_obs": torch.randn(num_envs, 154),
        "actions": torch.randn(num_envs, 29),
        "student_obs": torch.randn(num_envs, 770),
        "active_mask": mask,
        "num_done": 5,
        "obs_dict": {name: torch.randn(num_envs, dim) for name, dim in dims.items()},
        "done_env_ids": torch.tensor([1, 3]),
    }
    ours = [block for block in blocks(SPEC) if "whole_body_tracking.collection" in block]
    assert len(ours) == 2
    Path("expert_data").mkdir()
    for block in ours:
        block = block.replace("whole_body_tracking.collection", "iltools_datasets.collection").replace("cuda:0", "cpu")
        with pytest.warns(UserWarning, match="only_valid=True") if "save(" in block else monkeypatch.context():
            exec(block, names)
        if "save(" in block:
            held = np.load("expert_data/expert.npy", allow_pickle=True).item()
            np.testing.assert_array_equal(held["student_observations"], names["student_obs"][None])
    np.testing.assert_array_equal(held["valid_mask"], mask[None])
    assert held["metadata"]["num_trajectories"] == 5
    names["collector"].close()
    assert names["student_obs"].shape == (num_envs, 5 * (58 + 29 + 29 + 29))
