"""The example that trains a policy of action chunks, in short: both frameworks learn, and to the same loss."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="needs the jax extra")
pytest.importorskip("torchrl", reason="needs the torch extra")
pytest.importorskip("pyarrow", reason="needs the extra data")

pytestmark = [pytest.mark.jax, pytest.mark.torch]

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, cache: Path, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(folder / "action_chunking.py"), *arguments]
    environment = {**os.environ, "ILTOOLS_CACHE": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def assert_learned(output: str) -> None:
    losses = re.findall(r"^(\w+): loss ([0-9.]+) over .*, ([0-9.]+) over", output, flags=re.MULTILINE)
    assert [name for name, _, _ in losses] == ["JAX", "torch"]
    assert losses[0][1:] == losses[1][1:]
    for _, first, last in losses:
        assert float(last) < 0.8 * float(first)
    difference = re.search(r"largest relative difference of the losses: (\S+)", output)
    assert difference is not None
    assert float(difference[1]) < 1e-3


@pytest.mark.shared_data
def test_on_real_recordings(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "lerobot_g1").is_dir():
        pytest.skip("no recordings of the G1")
    output = run(EXAMPLES, tmp_path / "cache", "--steps", "150")
    assert "35965 transitions" in output
    assert_learned(output)


def test_on_a_set_of_its_own(tmp_path: Path) -> None:
    """A copy of the examples that has no recordings next to it simulates its expert."""
    folder = tmp_path / "copy" / "examples"
    folder.mkdir(parents=True)
    for path in EXAMPLES.glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    output = run(folder, tmp_path / "cache", "--steps", "150", "--chunk", "8")
    assert "cart-pole" in output
    assert_learned(output)
