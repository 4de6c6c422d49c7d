"""`iltools collect` over gymnasium's cart-pole and environments of one's own, however a run ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore
from test_envs import NUM_ENVS, RslRl

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("typer", reason="needs the cli extra")
pytest.importorskip("gymnasium", reason="needs gymnasium")

from iltools_datasets.cli import main  # noqa: E402


def upright(observations: Any) -> Any:
    return (torch.as_tensor(observations)[:, 2] + torch.as_tensor(observations)[:, 3] > 0).long()


def run(*arguments: str) -> int:
    if arguments[0] != "collect":
        arguments = ("collect", *arguments)
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


class Falling(RslRl):
    """Episodes of fixed lengths, groups of terms; goes wrong after so many steps, in the way that is asked for."""

    num_actions = 1

    def __init__(self, num_envs: int = NUM_ENVS, after: int = 10**9, how: str = "") -> None:
        super().__init__(groups=True, final=True)
        assert num_envs == NUM_ENVS
        print("a simulator that talks")
        self.left, self.how = after, how
        terms = {"active_terms": {"policy": ["who", "where"]}, "group_obs_term_dim": {"policy": [(1,), (2,)]}}
        self.observation_manager = SimpleNamespace(**terms)
        self.closed = False
        MADE.append(self)

    def step(self, actions: Any) -> Any:
        if self.left == 0 and self.how == "interrupt":
            raise KeyboardInterrupt
        if self.left == 0 and self.how == "fail":
            raise RuntimeError("the simulator is gone")
        if self.left == 0 and self.how == "die":
            os._exit(9)
        self.left -= 1
        print("and goes on talking")
        return super().step(actions)

    def close(self) -> None:
        self.closed = True


MADE: list[Falling] = []
FALLING = "test_cli_collect:Falling"


def leaning(observations: Any) -> Any:
    return observations["policy"][:, :1] * 0.5


def test_the_specifications_spelling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "expert_history2.npy"
    assert run(
        f"--task={FALLING}", "--checkpoint_path=test_cli_collect:leaning", f"--output_path={file}",
        f"--num_envs={NUM_ENVS}", "--max_steps=29", "--student_obs_history=2", "--headless",
    ) == 0  # fmt: skip
    said = capsys.readouterr()
    assert "episodes" in said.out
    assert "talk" not in said.out
    assert "talk" in said.err
    held = np.load(file, allow_pickle=True).item()
    # Ten steps of three envs: the first number that reaches 29 rows.
    assert held["observations"].shape == (30, 1, 3)
    assert held["student_observations"].shape == (30, 1, 6)
    np.testing.assert_array_equal(held["student_observations"][:, 0, 0], held["observations"][:, 0, 0])
    np.testing.assert_array_equal(held["student_observations"][:, 0, 2:4], held["observations"][:, 0, 1:])
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert MADE[-1].closed


def test_what_a_student_sees(tmp_path: Path) -> None:
    common = [FALLING, "--policy", "test_cli_collect:leaning", "--steps", "8"]
    assert run("collect", *common, "--out", str(tmp_path / "own"), "--student-group", "critic") == 0
    rows = TrajectoryStore.open(tmp_path / "own").gather(np.arange(24))
    np.testing.assert_array_equal(rows["student_observation"], rows["observation"] * 2)
    keys = ["--student-keys", "where", "--student-history", "3", "--student-order", "oldest_first"]
    assert run("collect", *common, "--out", str(tmp_path / "terms"), *keys, "--student-pad", "first") == 0
    rows = TrajectoryStore.open(tmp_path / "terms").gather(np.arange(24))
    np.testing.assert_array_equal(rows["student_observation"][:, 4:], rows["observation"][:, 1:])
    first = rows["observation"][:, 2] == 0
    np.testing.assert_array_equal(rows["student_observation"][first, :2], rows["observation"][first, 1:])


def test_an_interruption_and_a_failure_keep_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for how, code in (("interrupt", 130), ("fail", 2)):
        store, file = tmp_path / how, tmp_path / f"{how}.npy"
        assert run(
            "collect", FALLING, "--policy", "test_cli_collect:leaning", "--out", str(store), "--npy", str(file),
            "--episodes", "100", "--env-arg", "after=12", "--env-arg", f"how={how}", "--json",
        ) == code  # fmt: skip
        said = capsys.readouterr()
        opened = TrajectoryStore.open(store)
        assert len(opened) == 13 * NUM_ENVS
        assert np.load(file, allow_pickle=True).item()["actions"].shape == (13 * NUM_ENVS, 1, 1)
        assert MADE[-1].closed
        document = json.loads(said.out)
        if how == "interrupt":
            assert document["interrupted"] is True
            assert document["num_terminated"] + document["num_truncated"] == 9
            assert document["num_trajectories"] + document["num_running"] == opened.num_trajectories
        else:
            assert "the simulator is gone" in document["error"]["message"]
            assert f"are kept: {store}" in said.err


@pytest.mark.faults
def test_a_run_that_died_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in (tmp_path / "store", tmp_path / "expert.npy"):
        arguments = [
            "collect", FALLING, "--policy", "test_cli_collect:leaning", "--out", str(target), "--episodes", "9",
        ]  # fmt: skip
        code = f"import sys; sys.path[:0] = {sys.path!r}; from iltools_datasets.cli import main; main({arguments!r} + "
        code += "['--env-arg', 'after=7', '--env-arg', 'how=die'])"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 9
        assert run(*arguments) == 2
        assert "is here; --resume goes on with it" in capsys.readouterr().err
        assert not target.is_file()
        assert run(*arguments, "--resume") == 0
        capsys.readouterr()
        if target.suffix:
            assert len(np.load(target, allow_pickle=True).item()["actions"]) > 8 * NUM_ENVS
            assert [path.name for path in tmp_path.glob("expert*")] == ["expert.npy"]
        else:
            opened = TrajectoryStore.open(target)
            assert opened.num_trajectories >= 9
            steps = opened.gather(np.arange(len(opened)), ["observation"])["observation"]
            assert (steps[:, 0] == 0).sum() >= 8  # of the one env, the eight steps before it died are there


def test_nothing_recorded_is_nothing_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for how, code in (("interrupt", 130), ("fail", 2)):
        assert run(
            "collect", "test_cli_collect:Never", "--policy", "test_cli_collect:leaning", "--out",
            str(tmp_path / "store"), "--steps", "9", "--env-arg", f"how={how}",
        ) == code  # fmt: skip
        assert not list(tmp_path.iterdir())
        assert not capsys.readouterr().out


class Never(Falling):
    """Goes wrong before there is anything to record."""

    def get_observations(self) -> Any:
        raise KeyboardInterrupt if self.how == "interrupt" else RuntimeError("the simulator is gone")


def test_what_cannot_be_collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        ("gym:CartPole-v1", "test_cli_collect:upright"): "--episodes, --steps or --max-steps",
        ("gym:NoSuchEnv-v0", "test_cli_collect:upright", "--steps", "3"): "gym:NoSuchEnv-v0",
        ("gym:CartPole-v1", "test_cli_collect:none", "--steps", "3"): "test_cli_collect:none",
        ("nowhere:make", "test_cli_collect:upright", "--steps", "3"): "nowhere:make",
    }
    for (env, policy, *more), message in cases.items():
        assert run("collect", env, "--policy", policy, "--out", str(tmp_path / "store"), *more) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "store").exists()
    (tmp_path / "there.npy").write_bytes(b"old")
    stop, who = ["--steps", "3"], ["--policy", "test_cli_collect:leaning"]
    there, store = str(tmp_path / "there.npy"), str(tmp_path / "store")
    for arguments, message in (
        ([FALLING, *who, *stop, "--out", store, "--task", "x"], "ENV, or --task, and not both"),
        ([*who, *stop, "--out", store], "ENV, or --task, and not both"),
        ([FALLING, *stop, "--out", store], "say who acts: --policy"),
        ([FALLING, *who, *stop], "say where to: --out"),
        ([FALLING, *who, *stop, "--out", there], "there.npy: is here already; pass --overwrite"),
        ([FALLING, *who, *stop, "--out", store, "--npy", there], "pass --overwrite"),
        ([FALLING, *who, *stop, "--out", str(tmp_path / "no" / "x.npy")], "no directory"),
        ([FALLING, *who, *stop, "--out", str(tmp_path / "x.hdf5")], "ends in .npy or .pt"),
        ([FALLING, *who, *stop, "--out", store, "--student-group", "critic", "--student-history", "2"], "leave out"),
        ([FALLING, *who, *stop, "--out", store, "--student-keys", "colour"], "no term 'colour'"),
        ([FALLING, *who, *stop, "--out", store, "--group", "colour"], "no observation group 'colour'"),
        ([FALLING, *who, *stop, "--out", store, "--motion", str(tmp_path / "none")], "none: no such file"),
        ([FALLING, "--policy", str(tmp_path / "none.pt"), *stop, "--out", store], "none.pt: no such file"),
    ):
        assert run("collect", *arguments) == 2, arguments
        assert message in capsys.readouterr().err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["there.npy"]
    assert (tmp_path / "there.npy").read_bytes() == b"old"
