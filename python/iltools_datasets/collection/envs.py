"""Vectorised environments of several kinds as one: what was observed, which episodes ended, what they saw last.

Kinds are told by what an environment has and returns, never by what package it comes from.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, cast

from iltools_datasets._base.extras import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.collection") from error

import numpy as np

from iltools_datasets.errors import ArgumentError, MissingKeyError, SchemaError

__all__ = ["Groups", "Step", "VectorEnv", "adapt", "group_of"]

Groups = dict[str, torch.Tensor]
"""Observation group -> [N, width]. An environment that knows no groups has one, "policy"."""


@dataclass(frozen=True, slots=True)
class Step:
    """What came of a step, or of the reset at the beginning.

    Attributes:
        given: the observation as the environment gives it, for the policy; may be overwritten by the next step.
        groups: the same by group; may be overwritten, too.
        terminated: bool [N]: the episode ended by what happened.
        truncated: bool [N]: it was cut, by its time limit for instance.
        final: what the envs whose episode ended saw last, by group, [N, width], rows of the others undefined; a copy.
            None where the environment does not say.
        live: bool [N]: False where the environment will ignore the coming action because it resets instead, so that the
            coming row is no data. None: all are live.
    """

    given: Any
    groups: Groups
    terminated: torch.Tensor
    truncated: torch.Tensor
    final: Groups | None = None
    live: torch.Tensor | None = None

    @property
    def ended(self) -> torch.Tensor:
        """Bool [N]: terminated or truncated."""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """N environments that step together.

    `max_episode_steps` and `action_width` are None where the environment does not say.
    """

    num_envs: int
    max_episode_steps: int | None
    action_width: int | None

    def reset(self, seed: int | None = None) -> Step:
        """Begin episodes in all of them."""

    def step(self, actions: torch.Tensor) -> Step:
        """Apply actions [N, ...]; episodes that ended have begun anew in `given` and `groups`."""


def adapt(env: Any) -> VectorEnv:
    """Return an environment as a `VectorEnv`.

    Args:
        env: rsl_rl's VecEnv (`get_observations`, 2.x or later), a manager-based env of Isaac Lab or mjlab
            (`observation_manager`, and no `num_actions`, which a VecEnv has), gymnasium's vector env
            (`metadata["autoreset_mode"]`), or what this returned.

    Raises:
        ArgumentError: it is none of them.
    """
    if isinstance(env, _Adapted):
        return cast(VectorEnv, env)
    if not hasattr(env, "num_envs") or not callable(getattr(env, "step", None)):
        raise ArgumentError(f"{type(env).__name__}: expected a vectorised environment with num_envs and step")
    is_manager_env = hasattr(env, "observation_manager") and not hasattr(env, "num_actions")
    if callable(getattr(env, "get_observations", None)) and not is_manager_env:
        return _RslRlEnv(env)
    if hasattr(getattr(env, "unwrapped", env), "observation_manager"):
        return _ManagerEnv(env)
    metadata = getattr(env, "metadata", None)
    if isinstance(metadata, Mapping) and "autoreset_mode" in metadata:
        return _GymnasiumEnv(env)
    raise ArgumentError(
        f"{type(env).__name__}: expected get_observations (rsl_rl), observation_manager (Isaac Lab, mjlab) or "
        "metadata['autoreset_mode'] (gymnasium's vector envs); it has none of them"
    )


def group_of(groups: Groups, group: str | None) -> torch.Tensor:
    """Return an observation group; None is "policy", or else "actor". `MissingKeyError` with what there is."""
    names = ("policy", "actor") if group is None else (group,)
    for name in names:
        if name in groups:
            return groups[name]
    raise MissingKeyError(f"no observation group {' or '.join(map(repr, names))}; there are {sorted(groups)}")


class _Adapted:
    """Base of what is a `VectorEnv` already."""


class _RslRlEnv(_Adapted):
    """rsl_rl's VecEnv: groups from 3 on, one tensor and extras before. Resets in the step."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.num_envs = int(env.num_envs)
        self.max_episode_steps = _longest(getattr(env, "max_episode_length", None))
        self.action_width = _width(getattr(env, "num_actions", None))
        self._said_no_time_outs = False

    def reset(self, seed: int | None = None) -> Step:
        # rsl_rl never resets: who makes the env does. With a seed it is reset here, so that the seed has an effect.
        if seed is not None:
            if callable(getattr(self._env, "seed", None)):
                self._env.seed(seed)
            self._env.reset()
        found = self._env.get_observations()
        given, groups = self._split(found[0] if isinstance(found, tuple) else found, _second(found))
        none = torch.zeros(self.num_envs, dtype=torch.bool)
        return Step(given, groups, none, none.clone())

    def step(self, actions: torch.Tensor) -> Step:
        found = self._env.step(actions.to(getattr(self._env, "device", actions.device)))
        observations, _, dones, extras = _results(self._env, found, 4)
        given, groups = self._split(observations, extras)
        ended = dones.bool()
        time_outs = extras.get("time_outs")
        if time_outs is None:
            self._say_no_time_outs(bool(ended.any()))
            truncated = torch.zeros_like(ended)
        else:
            truncated = time_outs.bool() & ended
        final = extras.get("final_obs")
        return Step(given, groups, ended & ~truncated, truncated, None if final is None else _copied(_as_groups(final)))

    def _split(self, observations: Any, extras: Mapping[str, Any]) -> tuple[Any, Groups]:
        if isinstance(observations, torch.Tensor):
            others = {name: value for name, value in extras.get("observations", {}).items() if name != "policy"}
            return observations, {"policy": observations, **_as_groups(others)}
        return observations, _as_groups(observations)

    def _say_no_time_outs(self, some_ended: bool) -> None:
        if some_ended and not self._said_no_time_outs:
            self._said_no_time_outs = True
            warnings.warn("the env gives no extras['time_outs']: all ends count as terminated", stacklevel=3)


class _ManagerEnv(_Adapted):
    """A manager-based env: groups, both flags; resets in the step unless its settings say that the caller does."""

    def __init__(self, env: Any) -> None:
        self._env = env
        inner = getattr(env, "unwrapped", env)
        self.num_envs = int(inner.num_envs)
        self.max_episode_steps = _longest(getattr(inner, "max_episode_length", None))
        self.action_width = _width(getattr(getattr(inner, "action_manager", None), "total_action_dim", None))
        self._resets_itself = bool(getattr(getattr(inner, "cfg", None), "auto_reset", True))

    def reset(self, seed: int | None = None) -> Step:
        given, _ = self._env.reset() if seed is None else self._env.reset(seed=seed)
        none = torch.zeros(self.num_envs, dtype=torch.bool)
        return Step(given, _as_groups(given), none, none.clone())

    def step(self, actions: torch.Tensor) -> Step:
        given, _, terminated, truncated, extras = _results(self._env, self._env.step(actions), 5)
        # Copies: the env may keep its flags in buffers that a reset clears.
        terminated = terminated.bool().clone()
        truncated = truncated.bool() & ~terminated
        ended = terminated | truncated
        if self._resets_itself or not bool(ended.any()):
            last = extras.get("final_obs") if isinstance(extras, Mapping) else None
            final = None if last is None else _copied(_as_groups(last))
        else:
            before, final = _cloned(given), _copied(_as_groups(given))
            begun, _ = self._env.reset(env_ids=ended.nonzero().squeeze(1))
            # Of the others this has the same state with noise drawn anew, which no history of the env's has seen.
            given = _rows_of(begun, before, ended)
        return Step(given, _as_groups(given), terminated, truncated, final)


class _GymnasiumEnv(_Adapted):
    """gymnasium's vector env, in each of its three ways to begin the next episode."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.num_envs = int(env.num_envs)
        self.max_episode_steps = _longest(getattr(getattr(env, "spec", None), "max_episode_steps", None))
        self._mode = str(getattr(env.metadata["autoreset_mode"], "name", env.metadata["autoreset_mode"])).upper()
        space = getattr(env, "single_action_space", None)
        self._action_dtype = getattr(space, "dtype", None)
        shape = tuple(getattr(space, "shape", None) or ())
        self._action_shape = (self.num_envs, *shape)
        self.action_width = None if space is None else prod(shape)

    def reset(self, seed: int | None = None) -> Step:
        given, _ = self._env.reset(seed=seed)
        none = torch.zeros(self.num_envs, dtype=torch.bool)
        return Step(given, _as_groups(given), none, none.clone())

    def step(self, actions: torch.Tensor) -> Step:
        plain = actions.detach().cpu().numpy().astype(self._action_dtype).reshape(self._action_shape)
        given, _, terminated, truncated, info = _results(self._env, self._env.step(plain), 5)
        ended = np.asarray(terminated) | np.asarray(truncated)
        final: Groups | None = None
        live: torch.Tensor | None = None
        if ended.any() and self._mode == "SAME_STEP":
            final = self._final_of(info, ended, _as_groups(given))
        elif ended.any():
            final = _copied(_as_groups(given))
            if self._mode == "DISABLED":
                given, _ = self._env.reset(options={"reset_mask": ended})
            else:
                live = torch.from_numpy(~ended)
        cut = np.asarray(truncated) & ~np.asarray(terminated)
        flags = (torch.from_numpy(np.array(terminated, dtype=bool)), torch.from_numpy(cut))
        return Step(given, _as_groups(given), *flags, final, live)

    def _final_of(self, info: Mapping[str, Any], ended: Any, groups: Groups) -> Groups | None:
        """Return the last observations out of `info`, an object per env that ended."""
        held = info.get("final_obs", info.get("final_observation"))
        if held is None:
            return None
        final = _copied(groups)
        for env in np.flatnonzero(ended):
            for name, value in _as_groups_of_one(held[env]).items():
                final[name][env] = value
        return final


def _second(found: Any) -> Mapping[str, Any]:
    return found[1] if isinstance(found, tuple) and len(found) > 1 else {}


def _results(env: Any, found: Any, count: int) -> Any:
    if not isinstance(found, tuple) or len(found) != count:
        what = f"{len(found)} results" if isinstance(found, tuple) else type(found).__name__
        raise SchemaError(f"{type(env).__name__}.step: expected {count} results, found {what}")
    return found


def _width(actions: Any) -> int | None:
    return None if actions is None else int(actions)


def _longest(steps: Any) -> int | None:
    if steps is None:
        return None
    return int(steps.max()) if isinstance(steps, torch.Tensor) else int(steps)


def _as_groups(observations: Any) -> Groups:
    """Return observations by group; a group that is given term by term is put side by side in the order given."""
    if isinstance(observations, torch.Tensor | np.ndarray):
        return {"policy": _matrix(observations)}
    if not hasattr(observations, "items"):
        raise SchemaError(f"observations: expected tensors or groups of them, found {type(observations).__name__}")
    groups = {}
    for name, value in observations.items():
        if hasattr(value, "items"):
            groups[name] = torch.cat([_matrix(term) for term in cast(Any, value).values()], dim=1)
        else:
            groups[name] = _matrix(value)
    return groups


def _as_groups_of_one(observation: Any) -> Groups:
    if hasattr(observation, "items"):
        return {name: _tensor(value).reshape(-1) for name, value in observation.items()}
    return {"policy": _tensor(observation).reshape(-1)}


def _matrix(value: Any) -> torch.Tensor:
    tensor = _tensor(value)
    return tensor.reshape(tensor.shape[0], -1)


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value))


def _cloned(given: Any) -> Any:
    """Return observations as the env gave them, groups of terms included, in memory of their own."""
    if hasattr(given, "items"):
        return {name: _cloned(value) for name, value in given.items()}
    return given.clone()


def _rows_of(begun: Any, before: Any, chosen: torch.Tensor) -> Any:
    """Return, like `begun`, its rows of the envs chosen and those of `before` of the others."""
    if hasattr(begun, "items"):
        return {name: _rows_of(value, before[name], chosen) for name, value in begun.items()}
    return torch.where(chosen.reshape(-1, *(1,) * (begun.ndim - 1)), begun, before)


def _copied(groups: Groups) -> Groups:
    return {name: value.clone() for name, value in groups.items()}
