"""Policies by name or file. Of a checkpoint of rsl_rl only tensors are read, for the policy of a runner."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from iltools_datasets._base.extras import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.collection") from error

from iltools_datasets.collection.policies import Policy, as_policy, load_exported, named_object
from iltools_datasets.errors import SourceError, SourceNotFoundError

__all__ = ["load_checkpoint", "open_policy"]

_ROLES = ("actor", "student")
"""What rsl_rl from 4 on trains, by PPO and by distillation; each has its weights under a key of its own."""
_SINCE_4 = (("actor.", "mlp."), ("actor_obs_normalizer.", "obs_normalizer."))
_SINCE_5 = (("std", "distribution.std_param"), ("log_std", "distribution.log_std_param"))


def open_policy(
    name: str,
    make_runner: Callable[[], Any],
    *,
    group: str | None = None,
    stochastic: bool = False,
    device: torch.device | str = "cpu",
) -> Policy:
    """Return the policy that a name or a file stands for.

    Args:
        name: `module:function`; a file of TorchScript, or one that ends in `.onnx`; or a checkpoint of rsl_rl.
        make_runner: makes the runner that a checkpoint's weights go to.
        group: the observation group that an exported policy takes; None = "policy" or "actor".
        stochastic: as in `policies.as_policy`.
        device: where a TorchScript module runs.

    Raises:
        ArgumentError: no such function. SourceNotFoundError, SourceError: no such file; nothing that decides.
    """
    path = Path(name)
    if not path.exists() and ":" in name:
        return as_policy(named_object(name), stochastic=stochastic)
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file, and not module:function")
    if _is_exported(path):
        return load_exported(path, group, device)
    return load_checkpoint(path, make_runner(), stochastic=stochastic)


def load_checkpoint(path: Path, runner: Any, *, stochastic: bool = False) -> Policy:
    """Return the policy of an rsl_rl checkpoint.

    Args:
        path: a file of `OnPolicyRunner.save`, of rsl_rl 2 or later, and of no later one than the runner is of.
        runner: the runner whose configuration the checkpoint was trained with, made for the env; it gets the weights.
        stochastic: as in `policies.as_policy`.

    Raises:
        SourceNotFoundError, SourceError: no file; not a checkpoint of tensors, or of another network.
    """
    state = _read_weights(path)
    try:
        model = _load_into(runner.alg, state, path)
        normalizer = _normalizer(runner, state, path)
    except (RuntimeError, KeyError) as error:
        raise SourceError(f"{path}: not the weights of this policy: {str(error).splitlines()[0]}") from error
    _take_over_progress(runner, state)
    model.eval()
    return as_policy(model, stochastic=stochastic, normalizer=normalizer)


def _is_exported(path: Path) -> bool:
    """Tell a policy that is a program (TorchScript, or a name that ends in `.onnx`) from a checkpoint of weights."""
    if path.suffix.lower() == ".onnx":
        return True
    try:
        with zipfile.ZipFile(path) as file:
            return any("/code/" in name for name in file.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _read_weights(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise SourceError(f"{path}: not a checkpoint of tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise SourceError(f"{path}: expected a dictionary of weights, found {type(state).__name__}")
    return state


def _load_into(algorithm: Any, state: dict[str, Any], path: Path) -> Any:
    """Give the weights to the policy of an algorithm, and return it."""
    older = getattr(algorithm, "policy", None) or getattr(algorithm, "actor_critic", None)
    if older is not None:
        if "model_state_dict" not in state:
            raise _no_weights(path, state, "model_state_dict")
        older.load_state_dict(state["model_state_dict"])
        return older
    if "model_state_dict" in state:
        state = {**state, "actor_state_dict": _renamed(state["model_state_dict"], _SINCE_4)}
    role = next((role for role in _ROLES if f"{role}_state_dict" in state), None)
    if role is None:
        raise _no_weights(path, state, "actor_state_dict")
    model = algorithm.get_policy() if hasattr(algorithm, "get_policy") else getattr(algorithm, role)
    known = model.state_dict()
    if any(new in known for _, new in _SINCE_5):
        state = {**state, f"{role}_state_dict": _renamed(state[f"{role}_state_dict"], _SINCE_5, whole=True)}
    algorithm.load(state, {role: True}, True)
    return model


def _renamed(
    weights: Mapping[str, Any], changes: tuple[tuple[str, str], ...], *, whole: bool = False
) -> dict[str, Any]:
    """Return weights by the names of a later version. Without `whole`, names that have none belong to the critic."""
    renamed = {}
    for name, value in weights.items():
        for old, new in changes:
            if name == old or (name.startswith(old) and not whole):
                renamed[new + name.removeprefix(old)] = value
                break
        else:
            if whole or not name.startswith("critic"):
                renamed[name] = value
    return renamed


def _normalizer(runner: Any, state: Mapping[str, Any], path: Path) -> Any:
    """Return what rsl_rl 2's runner puts observations through, with the checkpoint's statistics; None if nothing."""
    held = getattr(runner, "obs_normalizer", None)
    if "obs_norm_state_dict" not in state:
        if held is not None and len(held.state_dict()):
            raise SourceError(f"{path}: the runner normalises observations, and the checkpoint has no statistics of it")
        return None
    if held is None:
        raise SourceError(
            f"{path}: was trained on observations that its runner normalised (rsl_rl 2), which this runner does not; "
            "the policy would see others"
        )
    held.load_state_dict(state["obs_norm_state_dict"])
    held.eval()
    return held


def _take_over_progress(runner: Any, state: Mapping[str, Any]) -> None:
    """Tell the env how far training was: curricula go by it, and the policy saw what they had come to."""
    infos = state.get("infos")
    env_state = infos.get("env_state") if isinstance(infos, Mapping) else None
    steps = env_state.get("common_step_counter") if isinstance(env_state, Mapping) else None
    inner: Any = getattr(getattr(runner, "env", None), "unwrapped", None)
    if isinstance(steps, int) and hasattr(inner, "common_step_counter"):
        inner.common_step_counter = steps


def _no_weights(path: Path, state: Mapping[str, Any], key: str) -> SourceError:
    return SourceError(f"{path}: no weights of an rsl_rl policy ({key}); there are {sorted(map(str, state))}")
