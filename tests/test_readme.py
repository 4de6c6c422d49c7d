"""The README's Python runs as printed, twice, and its links and commands exist."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_python_runs_and_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchrl", reason="the README samples with the extra torch")
    from iltools_datasets.demo.cartpole import CartPole
    from iltools_datasets.demo.recording import archive_clips, record_clips

    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    plant = CartPole()
    archive_clips(Path("demo/expert.zarr"), plant, record_clips(plant, np.random.default_rng(0), 5, 8))
    script = tmp_path / "readme.py"
    assert len(blocks("python")) == 1
    script.write_text("\n".join(blocks("python")))
    uuids = []
    for _ in range(2):
        names = runpy.run_path(str(script))
        assert names["batch"].shape == (256,)
        assert names["window"].shape == (8, 16)
        assert names["rows"]["next", "qpos"].shape == (3, 2)
        uuids.append(names["store"].uuid)
    assert uuids[0] == uuids[1], "what is up to date is opened and not built again"


def test_it_is_one_screen() -> None:
    assert len(README.splitlines()) < 100
    # A few numbers, those that miss their targets among them.
    assert 4 <= len(re.findall(r"^\| .* \| (?:yes|\*\*no\*\*) \|$", README, flags=re.MULTILINE)) <= 9
    assert len(blocks("python")[0].splitlines()) < 16


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_exist() -> None:
    pytest.importorskip("typer", reason="the command line needs the extra cli")
    from iltools_datasets.cli.app import VERBS

    shell = "".join(blocks("bash"))
    assert set(re.findall(r"^iltools (\w+)", shell, re.MULTILINE)) <= set(VERBS)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\S+)", shell, re.MULTILINE)) <= targets
