"""`iltools collect` over gymnasium's cart-pole and an environment of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("typer", reason="needs the cli extra")
pytest.importorskip("gymnasium", reason="needs gymnasium")

from iltools_datasets.cli import main  # noqa: E402


def upright(observations: Any) -> Any:
    return (torch.as_tensor(observations)[:, 2] + torch.as_tensor(observations)[:, 3] > 0).long()


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_cartpole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, npy = tmp_path / "store", tmp_path / "expert.npy"
    policy = "test_cli_collect:upright"
    assert run(
        "collect", "gym:CartPole-v1", "--policy", policy, "--out", str(store), "--num-envs", "4", "--episodes", "6",
        "--episode-steps", "30", "--seed", "1", "--npy", str(npy), "--json",
    ) == 0  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    opened = TrajectoryStore.open(store)
    assert opened.num_trajectories == said["num_trajectories"] >= 6
    assert opened.attributes["env"] == "gym:CartPole-v1"
    rows = opened.gather(np.arange(len(opened)))
    lean = rows["observation"][:, 2] + rows["observation"][:, 3] > 0
    np.testing.assert_array_equal(rows["action"][:, 0], lean)
    loaded = np.load(npy, allow_pickle=True).item()
    assert loaded["observations"].shape == (said["num_steps"], 1, 4)
    assert run("collect", "gym:CartPole-v1", "--policy", policy, "--out", str(store), "--episodes", "1") == 2
    assert "a store is here already" in capsys.readouterr().err


def test_what_cannot_be_collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        ("gym:CartPole-v1", "test_cli_collect:upright"): "--episodes or --steps",
        ("gym:NoSuchEnv-v0", "test_cli_collect:upright", "--steps", "3"): "gym:NoSuchEnv-v0",
        ("gym:CartPole-v1", "test_cli_collect:none", "--steps", "3"): "test_cli_collect:none",
        ("nowhere:make", "test_cli_collect:upright", "--steps", "3"): "nowhere:make",
    }
    for (env, policy, *more), message in cases.items():
        assert run("collect", env, "--policy", policy, "--out", str(tmp_path / "store"), *more) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "store").exists()
