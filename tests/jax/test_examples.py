"""The examples with JAX run, on real motion where it is there and on simulated motion where it is not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="needs the jax extra")

pytestmark = pytest.mark.jax

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), "--num-envs", "16", "--window", "8", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def losses(output: str) -> list[tuple[float, float]]:
    """The loss at the beginning and at the end, of each path."""
    return [(float(a), float(b)) for a, b in re.findall(r": loss ([0-9.]+) over .*, ([0-9.]+) over", output)]


def test_scan_over_windows() -> None:
    assert "50 windows of 16 envs x 8 steps" in run("scan_windows_jax.py", "--steps", "50")


def test_both_ways_of_cloning_agree() -> None:
    output = run("behaviour_cloning_jax.py", "--steps", "150")
    (first, last), on_device = losses(output)
    assert last < first / 2
    assert on_device == (first, last)
    assert "largest relative difference of the losses" in output


def test_cloning_without_recordings(tmp_path: Path) -> None:
    """A copy of the examples that has no recordings next to it simulates its expert."""
    for path in EXAMPLES.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    command = [sys.executable, str(tmp_path / "behaviour_cloning_jax.py"), "--num-envs", "16", "--steps", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cart-pole" in done.stdout
