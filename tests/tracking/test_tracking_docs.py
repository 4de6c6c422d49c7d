"""The code of docs/tracking.md runs, in its order, on made clips."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="makes the motion")
torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("jax", reason="needs the jax extra")

from iltools_datasets import StoreBuilder  # noqa: E402
from motion_cases import BODIES, JOINTS, moving  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs" / "tracking.md"


class Robot:
    """Follows, and falls now and then."""

    def __init__(self, num_envs: int) -> None:
        self.rng = np.random.default_rng(0)
        self.pos = self.rng.normal(size=(num_envs, 3))
        self.quat = self.rng.normal(size=(num_envs, 4))

    def act(self, reference: dict[str, np.ndarray]) -> np.ndarray:
        assert reference["body_pos_w"].shape == (64, 5, len(BODIES), 3)
        assert reference["valid"][:, 0].all()
        return self.rng.random(64) < 0.05


@pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")
@pytest.mark.jax
def test_every_block_runs_in_order(tmp_path: Path) -> None:
    names = [body.replace("torso", "torso_link") for body in BODIES]
    told = {"fps": 30.0, "kinds": {"yaw": "angle", "speed": "local"}, "joint_names": JOINTS, "body_names": names}
    for name, lengths in (("store", (100, 200)), ("other", (150,))):
        with StoreBuilder(tmp_path / name, attributes={"motion": told}) as builder:
            for number, states in enumerate(lengths):
                clip = moving(states, number)
                builder.add(0, number, clip, {"action": clip["joint_pos"][:-1]}, name=f"clip{number}")
    from iltools_datasets import TrajectoryStore

    other = TrajectoryStore.open(tmp_path / "other")
    known = {"path": tmp_path / "store", "other": other, "robot": Robot(64), "checkpoint": tmp_path / "state.npz"}
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert len(blocks) == 10
    distributed = torch.distributed
    distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/ranks")
    try:
        for block in blocks:
            exec(compile(block, str(DOCS), "exec"), known)
    finally:
        distributed.destroy_process_group()
    assert known["motion"].coverage().starts.sum() >= 64
