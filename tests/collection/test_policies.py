"""Experts of every kind: what they did is what their distribution says, and their files run nothing but themselves."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from iltools_datasets.errors import ArgumentError, MissingKeyError, SourceError, SourceNotFoundError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection.envs import Step  # noqa: E402
from iltools_datasets.collection.policies import as_policy, load_exported, named_object  # noqa: E402

NUM_ENVS = 6


def step_of(width: int = 4) -> Step:
    seen = torch.linspace(-1, 1, NUM_ENVS * width).reshape(NUM_ENVS, width)
    none = torch.zeros(NUM_ENVS, dtype=torch.bool)
    return Step({"policy": seen}, {"policy": seen}, none, none)


class Drawing(torch.nn.Module):  # type: ignore[misc]
    """A layer, its deviation, and what was drawn last."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.std = torch.nn.Linear(4, 2), torch.nn.Parameter(torch.tensor([0.5, 2.0]))
        self.distribution: Any = None
        self.told: Any = None

    def draw(self, observations: Any) -> Any:
        self.distribution = torch.distributions.Normal(self.mlp(observations["policy"]), self.std)
        return self.distribution.sample()

    def reset(self, dones: Any = None) -> None:
        self.told = dones


class ActorCritic(Drawing):
    """rsl_rl 2's and 3's: `act` draws, then `action_mean` and `action_std` are there; the rest changed its name."""

    def act(self, observations: Any) -> Any:
        return self.draw(observations)

    def act_inference(self, observations: Any) -> Any:
        return self.mlp(observations["policy"])

    def forward(self) -> Any:
        raise NotImplementedError

    @property
    def action_mean(self) -> Any:
        return self.distribution.mean

    @property
    def action_std(self) -> Any:
        return self.distribution.stddev


class Model4(Drawing):
    """rsl_rl 4's: there is no distribution before the first call that draws."""

    def forward(self, observations: Any, stochastic_output: bool = False) -> Any:
        return self.draw(observations) if stochastic_output else self.mlp(observations["policy"])

    @property
    def output_mean(self) -> Any:
        return self.distribution.mean

    @property
    def output_std(self) -> Any:
        return self.distribution.stddev


class Model(torch.nn.Module):  # type: ignore[misc]
    """rsl_rl 5's: mean and deviation are there after a stochastic call, and stale after any other."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.distribution = torch.nn.Linear(4, 2), torch.nn.Module()
        self.distribution.std_param = torch.nn.Parameter(torch.tensor([0.5, 2.0]))
        self.output_mean = self.output_std = None

    @property
    def std(self) -> Any:
        return self.distribution.std_param

    def forward(self, observations: Any, stochastic_output: bool = False) -> Any:
        mean = self.mlp(observations["policy"])
        if not stochastic_output or self.distribution is None:
            return mean
        self.output_mean, self.output_std = mean, self.std.expand_as(mean)
        return torch.normal(self.output_mean, self.output_std)

    def reset(self, dones: Any = None) -> None:
        self.told = dones


@pytest.mark.parametrize("kind", [ActorCritic, Model4, Model])
@pytest.mark.parametrize("stochastic", [False, True])
def test_mean_and_deviation_are_of_this_step(kind: Any, stochastic: bool) -> None:
    torch.manual_seed(0)
    model = kind()
    policy = as_policy(model, stochastic=stochastic)
    for _ in range(3):
        step = step_of()
        step.groups["policy"].add_(torch.rand(()))
        found = policy(step)
        expected = model.mlp(step.groups["policy"]).detach()
        assert torch.equal(found.mean, expected)
        assert torch.equal(found.sigma, model.std.detach().expand(NUM_ENVS, 2))
        assert torch.equal(found.actions, expected) != stochastic
        assert not found.actions.requires_grad
    ended = torch.arange(NUM_ENVS) < 2
    policy.reset(ended)
    assert torch.equal(model.told, ended)


def test_any_callable() -> None:
    given = []
    alone = as_policy(lambda observations: given.append(observations) or observations["policy"][:, :2])
    step = step_of()
    found = alone(step)
    assert given == [step.given]
    assert (found.mean, found.sigma) == (None, None)
    whole = as_policy(lambda observations: (observations["policy"][:, 0].numpy(), observations["policy"][:, :1], 0.5))
    found = whole(step)
    assert found.actions.tolist() == found.mean[:, 0].tolist()
    assert float(found.sigma) == 0.5
    with pytest.raises(ArgumentError, match="found 2 values"):
        as_policy(lambda observations: (1, 2))(step)
    with pytest.raises(ArgumentError, match="expected a callable, found int"):
        as_policy(3)


def test_a_model_without_a_distribution_does_what_it_does() -> None:
    model = Model()
    model.distribution = None
    found = as_policy(model)(step_of())
    assert torch.equal(found.actions, model.mlp(step_of().groups["policy"]).detach())
    assert (found.mean, found.sigma) == (None, None)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_exported_policies(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    torch.jit.trace(network, torch.zeros(1, 4)).save(str(tmp_path / "policy.pt"))
    policy = load_exported(tmp_path / "policy.pt", "policy")
    step = step_of()
    found = policy(step)
    assert torch.equal(found.actions, network(step.groups["policy"]).detach())
    assert (found.mean, found.sigma) == (None, None)
    with pytest.raises(MissingKeyError, match=r"no observation group 'student'; there are \['policy'\]"):
        load_exported(tmp_path / "policy.pt", "student")(step)
    (tmp_path / "other.pt").write_bytes(b"no module")
    with pytest.raises(SourceError, match=r"other\.pt: not a TorchScript module"):
        load_exported(tmp_path / "other.pt", "policy")
    with pytest.raises(SourceNotFoundError):
        load_exported(tmp_path / "none.onnx", "policy")


class Session:
    """onnxruntime's, of a model that doubles its first columns, as strict about the number of rows as the real one."""

    inputs: Any = (("obs", [1, 4]),)

    def __init__(self, path: str, providers: Any) -> None:
        if "broken" in path:
            raise RuntimeError("no graph was found")

    def get_inputs(self) -> Any:
        return [SimpleNamespace(name=name, shape=shape) for name, shape in self.inputs]

    def get_outputs(self) -> Any:
        return [SimpleNamespace(name=name, shape=[1, 2]) for name in ("joint_pos", "actions")]

    def run(self, outputs: Any, given: Any) -> Any:
        rows = given["obs"]
        assert outputs == ["actions"]
        assert rows.dtype == "float32"
        assert self.inputs[0][1][0] in ("batch", len(rows))
        return [2 * rows[:, :2]]


def test_models_that_take_a_row_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    step = step_of()
    for name in ("policy.onnx", "broken.onnx"):
        (tmp_path / name).touch()
    for rows in (1, 2, NUM_ENVS, "batch"):
        monkeypatch.setattr(Session, "inputs", (("obs", [rows, 4]),))
        found = load_exported(tmp_path / "policy.onnx", "policy")(step)
        assert torch.equal(found.actions, 2 * step.groups["policy"][:, :2])
    monkeypatch.setattr(Session, "inputs", (("obs", [4, 4]),))
    with pytest.raises(SourceError, match="takes 4 observations at once, and there are 6 envs"):
        load_exported(tmp_path / "policy.onnx", "policy")(step)
    monkeypatch.setattr(Session, "inputs", (("obs", [1, 4]), ("time_step", [1, 1])))
    with pytest.raises(SourceError, match=r"found the inputs \['obs', 'time_step'\]"):
        load_exported(tmp_path / "policy.onnx", "policy")
    with pytest.raises(SourceError, match=r"broken\.onnx: not a model: no graph"):
        load_exported(tmp_path / "broken.onnx", "policy")


def test_named_objects() -> None:
    assert named_object("os.path:join") is os.path.join
    assert named_object("collections:OrderedDict.fromkeys")
    for name in ("os", "os:", ":join", "no_such_module:f", "os:no_such_name"):
        with pytest.raises(ArgumentError):
            named_object(name)
