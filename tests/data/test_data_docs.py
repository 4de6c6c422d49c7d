"""The examples of the page on transitions run, one after the other, as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax", reason="needs the jax extra")
from lerobot_cases import HEIGHT, WIDTH, cache_fixture, make_set  # noqa: F401
from stores import build_store, make_clips

pytestmark = pytest.mark.jax

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_examples_run(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "home"))
    build_store(tmp_path / "store", make_clips([30, 40, 25, 19]))
    rng = np.random.default_rng(0)
    length = 70
    columns = {
        episode: {
            "observation.state": rng.standard_normal((length, 14), dtype=np.float32),
            "action": rng.standard_normal((length, 14), dtype=np.float32),
            "timestamp": (np.arange(length) / 50).astype(np.float32)[:, None],
            "frame_index": np.arange(length)[:, None],
            "episode_index": np.full((length, 1), episode),
            "index": (length * episode + np.arange(length))[:, None],
            "task_index": np.zeros((length, 1), np.int64),
        }
        for episode in range(4)
    }
    root = tmp_path / "home" / "lerobot" / "aloha_sim_insertion_human"
    make_set(root, "v2.1", [length] * 4, fps=50, columns=columns, cameras={"observation.images.top": "image"})
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 7
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
        if number == 0:
            assert names["batch"].obs.shape == (64, 14)  # type: ignore[attr-defined]
        if number == 1:
            assert names["batch"].action.shape == (64, 16, 14)  # type: ignore[attr-defined]
            assert names["batch"].obs.shape == (64, 2, 14)  # type: ignore[attr-defined]
            assert names["mask"].shape == (64, 16)  # type: ignore[attr-defined]
        if number == 2:
            picture = names["batch"].obs["observation.images.top"]  # type: ignore[attr-defined]
            assert (picture.dtype, picture.shape) == (np.uint8, (2, 24, 40, 3))
