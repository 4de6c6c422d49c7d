"""One trajectory as a TensorDict of transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iltools_datasets._base.extras import missing_extra

try:
    import torch
    from tensordict import TensorDict
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.replay.trajectory_td") from error

from iltools_datasets.errors import SchemaError

Parts = Mapping[str, torch.Tensor] | Sequence[torch.Tensor]


def build_trajectory_td(
    observation: torch.Tensor,
    action: torch.Tensor,
    next_observation: torch.Tensor,
    *,
    terminated: torch.Tensor | None = None,
    truncated: torch.Tensor | None = None,
    extra: Mapping[str | tuple[str, ...], torch.Tensor] | None = None,
) -> TensorDict:
    """Pack a trajectory of T transitions into a TensorDict of batch size [T].

    Args:
        observation: [T, ...], before each action.
        action: [T, ...].
        next_observation: [T, ...], after each action, shape and dtype of `observation`; stored under
            ("next", "observation").
        terminated: bool [T] or [T, 1]; stored as bool [T, 1] at the root and under "next".
        truncated: as `terminated`.
        extra: further entries [T, ...] by their TensorDict key, for instance ("next", "reward").

    With a flag, ("next", "done") is set too: where either flag holds.

    Raises `SchemaError` naming the key if lengths, or the observations' shapes or dtypes, disagree, or if T is 0.
    """
    entries: dict[str | tuple[str, ...], torch.Tensor] = {
        "observation": observation,
        "action": action,
        ("next", "observation"): next_observation,
    }
    _check_pair("observation", observation, next_observation)
    return _pack(entries, terminated, truncated, extra)


def build_trajectory_td_from_components(
    obs_parts: Parts,
    action: torch.Tensor,
    next_obs_parts: Parts,
    *,
    concat_obs_to_key: str = "observation",
    terminated: torch.Tensor | None = None,
    truncated: torch.Tensor | None = None,
    extra: Mapping[str | tuple[str, ...], torch.Tensor] | None = None,
) -> TensorDict:
    """Pack a trajectory whose observation comes in parts, such as positions and velocities, into a TensorDict of [T].

    Args:
        obs_parts: the parts [T, ...], by name or as a sequence. They are concatenated under `concat_obs_to_key`;
            parts given by name are also there under their names.
        action: [T, ...].
        next_obs_parts: the same parts one step later.
        concat_obs_to_key: name of the concatenation, [T, sum of widths].
        terminated, truncated, extra: as in `build_trajectory_td`.

    Raises `SchemaError` naming the part if the two sides differ in names, shapes or dtypes.
    """
    before, after = _named(obs_parts), _named(next_obs_parts)
    if before.keys() != after.keys():
        raise SchemaError(f"obs_parts has {sorted(before)}, next_obs_parts has {sorted(after)}")
    entries: dict[str | tuple[str, ...], torch.Tensor] = {}
    for name, part in before.items():
        _check_pair(name, part, after[name])
        if isinstance(obs_parts, Mapping):
            if name == concat_obs_to_key and len(before) > 1:
                raise SchemaError(f"a part is called {name!r}, which is the name of the concatenation")
            entries[name] = part
            entries["next", name] = after[name]
    entries[concat_obs_to_key] = concat_components(list(before.values()))
    entries["next", concat_obs_to_key] = concat_components([after[name] for name in before])
    entries["action"] = action
    return _pack(entries, terminated, truncated, extra)


def concat_components(parts: Parts) -> torch.Tensor:
    """Concatenate parts [T, ...] side by side into [T, sum of widths], each flattened to [T, width].

    Parts given as a mapping are taken in its order. All must have the same T and dtype, else `SchemaError`.
    """
    named = _named(parts)
    if not named:
        raise SchemaError("there are no components to concatenate")
    (first_name, first), *_ = named.items()
    for name, part in named.items():
        if part.ndim == 0 or part.shape[0] != first.shape[0]:
            raise SchemaError(
                f"component {name}: expected {first.shape[0]} rows as {first_name} has, found {_shape(part)}"
            )
        if part.dtype != first.dtype:
            raise SchemaError(f"component {name}: expected {first.dtype} as {first_name} has, found {part.dtype}")
    return torch.cat([part.reshape(part.shape[0], -1) for part in named.values()], dim=1)


def _named(parts: Parts) -> dict[str, torch.Tensor]:
    items = parts.items() if isinstance(parts, Mapping) else ((str(i), part) for i, part in enumerate(parts))
    return {name: torch.as_tensor(part) for name, part in items}


def _shape(tensor: torch.Tensor) -> list[int]:
    return list(tensor.shape)


def _check_pair(name: str, before: torch.Tensor, after: torch.Tensor) -> None:
    if before.shape != after.shape or before.dtype != after.dtype:
        raise SchemaError(
            f"next {name}: expected {before.dtype} {_shape(before)} as {name} has, found {after.dtype} {_shape(after)}"
        )


def _pack(
    entries: dict[str | tuple[str, ...], torch.Tensor],
    terminated: torch.Tensor | None,
    truncated: torch.Tensor | None,
    extra: Mapping[str | tuple[str, ...], torch.Tensor] | None,
) -> TensorDict:
    for key, value in (extra or {}).items():
        if key in entries:
            raise SchemaError(f"extra entry {key!r} is there already")
        entries[key] = value
    length = entries["action"].shape[0] if entries["action"].ndim else 0
    flags = {
        name: _flag(name, flag)
        for name, flag in (("terminated", terminated), ("truncated", truncated))
        if flag is not None
    }
    for name, flag in flags.items():
        entries[name] = flag
        entries["next", name] = flag
    if flags:
        entries["next", "done"] = torch.stack(list(flags.values())).any(dim=0)
    if length == 0:
        raise SchemaError(f"action: expected at least one transition, found shape {_shape(entries['action'])}")
    for key, value in entries.items():
        if value.ndim == 0 or value.shape[0] != length:
            raise SchemaError(f"{key!r}: expected {length} rows as action has, found shape {_shape(value)}")
    packed = TensorDict({}, batch_size=[length])
    for key, value in entries.items():
        packed[key] = value
    return packed


def _flag(name: str, flag: torch.Tensor) -> torch.Tensor:
    if flag.ndim not in (1, 2) or flag.shape[1:] not in (torch.Size([]), torch.Size([1])):
        raise SchemaError(f"{name}: expected shape [T] or [T, 1], found {_shape(flag)}")
    return flag.reshape(-1, 1).to(torch.bool)
