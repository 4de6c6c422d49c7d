"""Workers of a torch DataLoader never draw the same, under any start method, used before or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stores import build_store, make_clips

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

pytestmark = pytest.mark.torch


@pytest.mark.faults("workers that draw the same")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_draw_disjointly(method: str, tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", make_clips([40, 7, 90, 33, 2, 61]))
    here = Path(__file__).parent
    process = subprocess.run(
        [sys.executable, here / "loader_workers.py", method, path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.endswith(f"drawn in workers by {method}\n")
