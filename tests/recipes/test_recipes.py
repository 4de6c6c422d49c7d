"""The recipes run as a reader would run them, and end with the figure that their pages promise."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LOSS = r"loss (\S+) to (\S+)$"

pytestmark = pytest.mark.slow


def run(script: str, *arguments: str, needs: str) -> str:
    """What a script prints; skips where something that it needs is not installed."""
    for module in needs.split():
        if find_spec(module) is None:
            pytest.skip(f"needs {module} (the extra recipes, and those of the package)")
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def figures(pattern: str, output: str) -> list[float]:
    """The numbers that a line of the output has."""
    found = re.search(pattern, output, re.MULTILINE)
    assert found is not None, output
    return [float(number) for number in found.groups()]


@pytest.mark.torch
def test_torch_data_loader() -> None:
    output = run("dataloader_torch.py", "--epochs", "2", "--workers", "1", needs="torch torchrl")
    first, last = figures(LOSS, output)
    assert last < 0.9 * first
    (off,) = figures(r"off by (\S+)$", output)
    assert off < 1e-9


@pytest.mark.torch
def test_torchrl_online() -> None:
    before, after = figures(r"^mean reward (\S+) to (\S+)$", run("online_rl_torchrl.py", needs="torch torchrl"))
    assert after > before + 0.1


@pytest.mark.torch
def test_rsl_rl_with_amp() -> None:
    output = run("rsl_rl_amp.py", "--iterations", "5", "--device", "cpu", needs="torch")
    width, policy, expert = figures(r"^observation_dim (\d+); policy (\S+), expert (\S+)$", output)
    assert width == 34  # 8 joints' positions and velocities, 6 bodies' positions
    assert policy < -0.8
    assert expert > 0.8


@pytest.mark.jax
def test_flax_and_optax() -> None:
    first, last = figures(LOSS, run("flax_optax.py", needs="jax flax optax"))
    assert last < first / 3


@pytest.mark.jax
def test_mjx() -> None:
    output = run("mjx_tracking.py", "--num-envs", "64", needs="jax mujoco mujoco.mjx")
    (blind,) = figures(r"^blind: mean reward (\S+)", output)
    (corrected,) = figures(r"^corrected: mean reward (\S+)", output)
    assert blind < 0.7
    assert corrected > 0.85


@pytest.mark.torch
@pytest.mark.parametrize("trainer", ["lightning", "accelerate"])
def test_two_processes(trainer: str) -> None:
    output = run(f"{trainer}_ranks.py", needs=f"torch torchrl {trainer}")
    one, other, count = figures(r"^2 ranks with \[(\d+), (\d+)\] rows of (\d+) in 4 epochs$", output)
    assert one + other == 4 * count
    fewest, most, first, last = figures(r"^each transition (\d+) to (\d+) times; loss (\S+) to (\S+)$", output)
    assert fewest == most == 4
    assert last < first


@pytest.mark.torch
def test_lerobots_loop() -> None:
    output = run("lerobot_training.py", needs="torch pyarrow")
    assert "'action', 'action_is_pad'" in output
    first, last = figures(LOSS, output)
    assert last < 0.9 * first


@pytest.mark.torch
def test_mosaic() -> None:
    output = run("mosaic_consumer.py", needs="torch")
    of_file, of_store = figures(r"^(\d+) rows in the file, (\d+) in the store, same: True$", output)
    assert of_file == of_store > 1000
    for name in ("file", "store"):
        first, last = figures(rf"^{name}: {LOSS}", output)
        assert last < first / 4


def test_every_recipe_is_listed_and_every_script_is_there() -> None:
    """The table of recipes names each page, and each page names a script that is there and that a test here runs."""
    index = (ROOT / "docs" / "recipes.md").read_text()
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = sorted((ROOT / "docs" / "recipes").glob("*.md"))
    assert set(re.findall(r"\]\(recipes/([\w-]+\.md)\)", index)) == {page.name for page in pages}
    tested = Path(__file__).read_text()
    for page in pages:
        assert f"recipes/{page.name}" in nav
        scripts = re.findall(r"\]\(\.\./\.\./examples/(\w+\.py)\)", page.read_text())
        assert scripts, page
        assert all((EXAMPLES / script).is_file() for script in scripts)
        assert any(script in tested or script.replace("lightning", "{trainer}") in tested for script in scripts), page
    for script in re.findall(r"`(\w+\.py)`", index):
        assert (EXAMPLES / script).is_file()
