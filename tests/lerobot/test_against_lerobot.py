"""Item by item against lerobot itself, where it is installed: on the real set, and on one with every kind of feature.

How to install 0.4.4 beside a newer torch: see docs/lerobot.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.torch, pytest.mark.lerobot, pytest.mark.filterwarnings("ignore")]

torch = pytest.importorskip("torch", reason="needs the torch extra")
peer = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="needs lerobot", exc_type=ImportError)

from iltools_datasets.lerobot import LeRobotDataset  # noqa: E402
from lerobot_items import CAMERA, CASES  # noqa: E402
from sets import make_set  # noqa: E402

TOP, SIDE = "observation.images.top", "observation.images.side"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The network is not asked, and what `datasets` converts goes to a cache of its own."""
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def compare(root: Path, places: int, **options: Any) -> None:
    theirs, ours = (kind("some/name", root=root, **options) for kind in (peer.LeRobotDataset, LeRobotDataset))
    assert len(theirs) == len(ours)
    chosen = [0, len(ours) - 1, *np.random.default_rng(0).integers(0, len(ours), places).tolist()]
    for place in chosen:
        expected, found = theirs[place], ours[place]
        assert set(expected) == set(found)
        for key, value in expected.items():
            if not torch.is_tensor(value):
                assert found[key] == value
                continue
            assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape), key
            assert torch.equal(found[key], value), f"{place} {key}"
    for name in ("fps", "num_frames", "num_episodes"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.meta.camera_keys == theirs.meta.camera_keys
    assert ours.meta.episodes["dataset_from_index"] == list(theirs.meta.episodes["dataset_from_index"])
    assert set(ours.meta.stats) == set(theirs.meta.stats)
    for key, entry in theirs.meta.stats.items():
        for name, value in entry.items():
            np.testing.assert_allclose(ours.meta.stats[key][name], value, rtol=1e-12)


@pytest.mark.shared_data
@pytest.mark.parametrize("case", CASES)
def test_the_real_set(case: str, shared_data: Path) -> None:
    compare(shared_data / "lerobot_g1_v30", 20, **CASES[case])
    assert CAMERA


@pytest.mark.parametrize(
    "deltas",
    [
        None,
        {SIDE: [0.0], TOP: [0.0, 1 / 30], "next.reward": [0, 1 / 30], "observation.matrix": [0, 1 / 30]},
        {TOP: [0.0], SIDE: [-2 / 30, 0], "observation.half": [0.0], "next.done": [0.0, 0.1], "task_index": [0.0]},
    ],
)
def test_every_kind_of_feature(deltas: Any, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v3.0", (12, 9, 20), fps=30, cameras={TOP: "video", SIDE: "image"})
    compare(made.root, 10, delta_timestamps=deltas)
