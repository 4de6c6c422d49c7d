"""Experts as one thing to call: what they do, and the distribution they did it from."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from iltools_datasets._base.extras import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.collection") from error

import numpy as np

from iltools_datasets.collection.envs import Step, group_of
from iltools_datasets.errors import ArgumentError, SourceError, SourceNotFoundError

__all__ = ["Decision", "Policy", "as_policy", "load_exported", "named_object"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do in each env.

    Attributes:
        actions: [N, ...].
        mean: of the distribution the actions come from, like `actions`; None where the policy gives none.
        sigma: its standard deviation; None likewise.
    """

    actions: torch.Tensor
    mean: torch.Tensor | None = None
    sigma: torch.Tensor | None = None


class Policy(Protocol):
    """Decides for N envs, and is told which episodes ended."""

    def __call__(self, step: Step) -> Decision:
        """Decide."""

    def reset(self, ended: torch.Tensor) -> None:
        """Forget what belongs to episodes that ended, bool [N]; only a policy with a memory needs it."""


def as_policy(policy: Any, *, stochastic: bool = False, normalizer: Callable[[Any], Any] | None = None) -> Policy:
    """Return anything that decides as a `Policy`.

    Args:
        policy: rsl_rl's model or actor-critic, or any callable of what the environment gives as observation that
            returns the actions, or (actions, mean, sigma).
        stochastic: let rsl_rl's models draw from their distribution; otherwise its mean is what is done.
        normalizer: what an actor-critic of rsl_rl 2 gets its observations through, which its runner holds.

    Raises:
        ArgumentError: it cannot be called.
    """
    if isinstance(policy, Decides):
        return cast(Policy, policy)
    if hasattr(policy, "act") and hasattr(policy, "act_inference"):
        return _ActorCritic(policy, stochastic, normalizer)
    if hasattr(policy, "output_distribution_params") or _takes(policy, "stochastic_output"):
        return _DistributionModel(policy, stochastic)
    if not callable(policy):
        raise ArgumentError(f"policy: expected a callable, found {type(policy).__name__}")
    return _Callable(policy)


class Decides:
    """Base of what is a `Policy` already."""


class _Callable(Decides):
    """A function of what the env gives: actions alone, or (actions, mean, sigma)."""

    def __init__(self, policy: Callable[[Any], Any]) -> None:
        self._policy = policy

    def __call__(self, step: Step) -> Decision:
        with torch.no_grad():
            found = self._policy(step.given)
        if isinstance(found, tuple):
            if len(found) != 3:
                raise ArgumentError(f"policy: expected actions or (actions, mean, sigma), found {len(found)} values")
            actions, mean, sigma = (None if part is None else _tensor(part) for part in found)
            if actions is None:
                raise ArgumentError("policy: expected actions, found None")
            return Decision(actions, mean, sigma)
        return Decision(_tensor(found))

    def reset(self, ended: torch.Tensor) -> None:
        reset = getattr(self._policy, "reset", None)
        if callable(reset):
            reset(ended)


class _ActorCritic(Decides):
    """rsl_rl 2 and 3: `act` draws, and mean and deviation are those of this call afterwards."""

    def __init__(self, policy: Any, stochastic: bool, normalizer: Callable[[Any], Any] | None) -> None:
        self._policy, self._stochastic, self._normalizer = policy, stochastic, normalizer

    def __call__(self, step: Step) -> Decision:
        with torch.no_grad():
            observations = step.given if self._normalizer is None else self._normalizer(step.given)
            # Whether it is used or not, the generator moves as if it were; a run is the same run again with its seed.
            drawn = self._policy.act(observations)
            mean, sigma = self._policy.action_mean, self._policy.action_std
        return Decision(drawn if self._stochastic else mean, mean, sigma.expand_as(mean))

    def reset(self, ended: torch.Tensor) -> None:
        self._policy.reset(ended)


class _DistributionModel(Decides):
    """rsl_rl 4 and later: one call that draws, after which mean and deviation are those of this call.

    After a deterministic call they would be missing, or of an earlier step.
    """

    def __init__(self, model: Any, stochastic: bool) -> None:
        self._model, self._stochastic = model, stochastic

    def __call__(self, step: Step) -> Decision:
        with torch.no_grad():
            drawn = self._model(step.given, stochastic_output=True)
            # Of 4 it is made by the call, of 5 it is there; a model that has none has done what it does.
            if getattr(self._model, "distribution", None) is None:
                return Decision(drawn)
            mean, sigma = self._model.output_mean, self._model.output_std
        return Decision(drawn if self._stochastic else mean, mean, sigma.expand_as(mean))

    def reset(self, ended: torch.Tensor) -> None:
        self._model.reset(ended)


def load_exported(path: Path, group: str | None = None, device: torch.device | str = "cpu") -> Policy:
    """Return an exported policy, which takes the observations [N, width] of one group and gives the actions alone.

    Args:
        path: a TorchScript module, or a model that ends in `.onnx` (needs onnxruntime).
        group: the observation group it takes; None = "policy" or "actor", whichever there is.
        device: where a TorchScript module runs.

    Raises:
        SourceNotFoundError, SourceError: no file; not such a file.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    if path.suffix.lower() == ".onnx":
        return _OfGroup(_onnx(path), group)
    try:
        module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise SourceError(f"{path}: not a TorchScript module: {str(error).splitlines()[0]}") from error
    module.eval()
    return _OfGroup(module, group, getattr(module, "reset", None))


class _OfGroup(Decides):
    def __init__(self, call: Callable[[torch.Tensor], torch.Tensor], group: str | None, reset: Any = None) -> None:
        self._call, self._group, self._reset = call, group, reset

    def __call__(self, step: Step) -> Decision:
        with torch.no_grad():
            return Decision(self._call(group_of(step.groups, self._group)))

    def reset(self, ended: torch.Tensor) -> None:
        # An export's reset takes no envs, so it can only be told where all end together.
        if callable(self._reset) and bool(ended.all()):
            self._reset()


def _onnx(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnx", "a policy in an .onnx file") from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, one per reason
        raise SourceError(f"{path}: not a model: {error}") from error
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != 1:
        raise SourceError(f"{path}: expected a model of observations alone, found the inputs {names}")
    outputs = [entry.name for entry in session.get_outputs()]
    actions = "actions" if "actions" in outputs else outputs[0]
    takes = session.get_inputs()[0].shape[0]

    def call(observations: torch.Tensor) -> torch.Tensor:
        rows = observations.cpu().numpy().astype(np.float32)
        # rsl_rl's exports, and those of the simulators around it, take as many rows as the example had: one.
        count = takes if isinstance(takes, int) else len(rows)
        if len(rows) % count:
            raise SourceError(f"{path}: takes {count} observations at once, and there are {len(rows)} envs")
        pieces = [
            session.run([actions], {names[0]: rows[first : first + count]})[0] for first in range(0, len(rows), count)
        ]
        return torch.from_numpy(np.concatenate(pieces)).to(observations.device)

    return call


def named_object(name: str) -> Any:
    """Return `module:attribute`, importing the module: it is code that the caller named."""
    module, found, attribute = name.partition(":")
    if not found or not module or not attribute:
        raise ArgumentError(f"{name!r}: expected module:function")
    try:
        target: Any = importlib.import_module(module)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"{name!r}: {error}") from error
    return target


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value))


def _takes(policy: Any, parameter: str) -> bool:
    call = policy.forward if isinstance(policy, torch.nn.Module) else policy
    try:
        return parameter in inspect.signature(call).parameters
    except (TypeError, ValueError):
        return False
