"""Weights out of checkpoints of every version go to the runner that is there, and nothing in a file is run."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from iltools_datasets.errors import ArgumentError, SourceError, SourceNotFoundError
from test_policies import ActorCritic, Model, Model4, step_of

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection.checkpoints import load_checkpoint, open_policy  # noqa: E402
from iltools_datasets.collection.policies import as_policy  # noqa: E402


class Algorithm:
    """rsl_rl's PPO since 4."""

    def __init__(self, model: Any) -> None:
        self.actor = model

    def load(self, state: Any, parts: Any, strict: bool) -> bool:
        assert parts == {"actor": True}
        assert strict
        self.actor.load_state_dict(state["actor_state_dict"], strict=strict)
        return False


def runner_of(model: Any, **more: Any) -> Any:
    older = isinstance(model, ActorCritic)
    return SimpleNamespace(alg=SimpleNamespace(policy=model) if older else Algorithm(model), **more)


def older(model: Any) -> dict[str, Any]:
    """The weights of a model as rsl_rl 2 and 3 call them, those of a critic among them."""
    named = {name.replace("mlp.", "actor."): value for name, value in model.state_dict().items()}
    return {**named, "critic.weight": torch.zeros(1, 4), "critic_obs_normalizer.count": torch.tensor(3)}


@pytest.mark.parametrize(
    ("trained", "fresh", "key"),
    [
        (ActorCritic(), ActorCritic(), "model_state_dict"),
        (Model4(), Model4(), "actor_state_dict"),
        (Model(), Model(), "actor_state_dict"),
        (Model4(), Model(), "actor_state_dict"),
    ],
    ids=["3", "4", "5", "4 in 5"],
)
def test_weights_go_to_the_runner(tmp_path: Path, trained: Any, fresh: Any, key: str) -> None:
    assert not torch.equal(trained.mlp.weight, fresh.mlp.weight)
    trained.std.data.fill_(0.25)
    torch.save({key: trained.state_dict(), "iter": 3, "infos": None}, tmp_path / "model.pt")
    found = load_checkpoint(tmp_path / "model.pt", runner_of(fresh))(step_of())
    assert torch.equal(found.mean, as_policy(trained)(step_of()).mean)
    assert (found.sigma == 0.25).all()
    assert not fresh.training


@pytest.mark.parametrize("made", [Model4, Model])
def test_weights_of_2_and_3_go_to_later_runners(tmp_path: Path, made: Any) -> None:
    trained, fresh = Model4(), made()
    torch.save({"model_state_dict": older(trained), "infos": None}, tmp_path / "model.pt")
    found = load_checkpoint(tmp_path / "model.pt", runner_of(fresh))(step_of())
    assert torch.equal(found.mean, as_policy(trained)(step_of()).mean)


class Normalizer(torch.nn.Module):  # type: ignore[misc]
    """What rsl_rl 2's runner puts observations through."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("_mean", torch.tensor(mean))

    def forward(self, observations: Any) -> Any:
        return {"policy": observations["policy"] - self._mean}


def test_statistics_of_rsl_rl_2_are_taken_over(tmp_path: Path) -> None:
    trained, fresh, path = ActorCritic(), ActorCritic(), tmp_path / "model.pt"
    torch.save({"model_state_dict": trained.state_dict(), "obs_norm_state_dict": Normalizer(2.0).state_dict()}, path)
    found = load_checkpoint(path, runner_of(fresh, obs_normalizer=Normalizer(0.0)))(step_of())
    assert torch.equal(found.mean, trained.mlp(step_of().groups["policy"] - 2).detach())
    with pytest.raises(SourceError, match="the policy would see others"):
        load_checkpoint(path, runner_of(fresh))
    torch.save({"model_state_dict": trained.state_dict()}, path)
    with pytest.raises(SourceError, match="the checkpoint has no statistics of it"):
        load_checkpoint(path, runner_of(fresh, obs_normalizer=Normalizer(0.0)))
    load_checkpoint(path, runner_of(fresh, obs_normalizer=torch.nn.Identity()))


def test_the_env_is_told_how_far_training_was(tmp_path: Path) -> None:
    trained, env = Model(), SimpleNamespace(common_step_counter=0)
    infos = {"env_state": {"common_step_counter": 4800}}
    torch.save({"actor_state_dict": trained.state_dict(), "infos": infos}, tmp_path / "model.pt")
    load_checkpoint(tmp_path / "model.pt", runner_of(Model(), env=SimpleNamespace(unwrapped=env)))
    assert env.common_step_counter == 4800


class _Code:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._marker}",)


@pytest.mark.faults
def test_wrong_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for model, content, message in (
        (ActorCritic(), {"model_state_dict": {}, "hook": _Code(tmp_path / "ran")}, "not a checkpoint of tensors"),
        (ActorCritic(), {"weights": torch.zeros(1)}, r"\(model_state_dict\); there are \['weights'\]"),
        (Model(), {"weights": torch.zeros(1)}, r"\(actor_state_dict\); there are \['weights'\]"),
        (ActorCritic(), {"model_state_dict": torch.nn.Linear(3, 2).state_dict()}, "not the weights of this policy"),
        (Model(), {"actor_state_dict": torch.nn.Linear(3, 2).state_dict()}, "not the weights of this policy"),
        (Model(), [1], "expected a dictionary of weights, found list"),
    ):
        torch.save(content, path)
        with pytest.raises(SourceError, match=message):
            load_checkpoint(path, runner_of(model))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(SourceNotFoundError):
        load_checkpoint(tmp_path / "none.pt", runner_of(Model()))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_name_or_a_file_stands_for_a_policy(tmp_path: Path) -> None:
    def no_runner() -> Any:
        raise AssertionError("nobody asked for a runner")

    step, network = step_of(), torch.nn.Linear(4, 2)
    torch.jit.trace(network, torch.zeros(1, 4)).save(str(tmp_path / "exported.pt"))
    found = open_policy(str(tmp_path / "exported.pt"), no_runner, group="policy")(step)
    assert torch.equal(found.actions, network(step.groups["policy"]).detach())
    trained = Model()
    torch.save({"actor_state_dict": trained.state_dict()}, tmp_path / "model.pt")
    decides = open_policy(str(tmp_path / "model.pt"), lambda: runner_of(Model()), group="policy", stochastic=True)
    found = decides(step)
    assert torch.equal(found.mean, trained.mlp(step.groups["policy"]).detach())
    assert not torch.equal(found.actions, found.mean)
    first = open_policy("operator:itemgetter", no_runner, group="policy")
    assert first is not None
    for name, error in (
        (str(tmp_path / "none.pt"), SourceNotFoundError),
        (str(tmp_path), SourceNotFoundError),
        ("no_such_module:f", ArgumentError),
    ):
        with pytest.raises(error):
            open_policy(name, no_runner, group="policy")
