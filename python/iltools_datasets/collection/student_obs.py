"""What a student will observe, built beside the environment: its terms, each with a history of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any, Literal, Self

from iltools_datasets._base.extras import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.collection") from error

from iltools_datasets._base.integers import checked_integer
from iltools_datasets.collection.frames import FrameRing
from iltools_datasets.errors import ArgumentError, MissingKeyError, OutOfRangeError, SchemaError

__all__ = ["StudentObsBuilder"]

Order = Literal["newest_first", "oldest_first"]
Pad = Literal["zero", "first"]
History = Literal["current", "past"]


@dataclass(frozen=True, slots=True)
class Term:
    """One observation term: its name, the width of a frame, and how many frames the env's group holds of it."""

    name: str
    width: int
    frames: int = 1


class StudentObsBuilder:
    """Concatenates observation terms of an environment, term by term, each with its last frames side by side.

    The environment is read once, for its terms' names and widths. No term is computed, and no buffer, history or random
    state of the environment is touched: frames are what the caller hands in, and they are copied.

    One step of a loop: `student_obs = builder.get_observation(obs_dict)`, then `builder.update_history(obs_dict)`, then
    the environment's step, then `builder.reset_history(ids of the episodes that ended)`.

    Args:
        env: has `observation_manager` and `num_envs` (itself, or its `unwrapped`), as Isaac Lab's and mjlab's envs do.
        obs_keys: terms of the group, in the order wanted.
        history_length: H, frames per term; 0 is the frame itself, without a history.
        device: where frames are kept; None = the environment's device.
        group: the observation group whose terms these are; an environment without "policy" is asked for "actor".
        order: how a term's frames lie: "newest_first" or "oldest_first".
        pad: what stands before an episode's first frame: "zero", or "first": that frame, as env managers do.
        history: "current": the frame handed in and the H - 1 updated before it, which is what a student sees in
            training. "past": the H frames updated before, without the one handed in.

    Attributes:
        obs_keys: the terms, in order.
        obs_dims: width of one frame of each.
        history_length: H.
        total_dim: width of an observation, `max(H, 1) * sum(obs_dims)`.

    Raises:
        ArgumentError: no such group or term, a term twice, an unknown option; what there is, is named. (A ValueError.)
    """

    def __init__(
        self,
        env: Any,
        obs_keys: Sequence[str],
        history_length: int = 0,
        device: torch.device | str | None = None,
        *,
        group: str = "policy",
        order: Order = "newest_first",
        pad: Pad = "zero",
        history: History = "current",
    ) -> None:
        env = env if hasattr(env, "observation_manager") else getattr(env, "unwrapped", env)
        self.history_length = checked_integer("history_length", history_length, low=0)
        self.order: Order = _one_of("order", order, ("newest_first", "oldest_first"))
        self.pad: Pad = _one_of("pad", pad, ("zero", "first"))
        self.history: History = _one_of("history", history, ("current", "past"))
        terms = _terms_of_group(env, group)
        self._group_terms = list(terms.values())
        self.obs_keys = _known_once(obs_keys, terms)
        self.obs_dims = [terms[name].width for name in self.obs_keys]
        self.frame_dim = sum(self.obs_dims)
        self.total_dim = self.frame_dim * max(self.history_length, 1)
        self.num_envs = checked_integer("num_envs", env.num_envs, low=1)
        self.device = torch.device(getattr(env, "device", "cpu") if device is None else device)
        self._kept = self.history_length - (self.history == "current") if self.history_length else 0
        self._ring: FrameRing | None = None
        self._begins = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        self._some_begin = True
        self._was_asked = self._was_updated = self._updates_first = False
        self._due: torch.Tensor | None = None
        self._latest: torch.Tensor | None = None

    @classmethod
    def like(cls, env: Any, group: str = "policy_student", device: torch.device | str | None = None) -> Self:
        """Return the builder whose observations are, bit for bit, those that the env computes for one of its groups.

        Raises `ArgumentError` if the group's terms have histories of different lengths.
        """
        holder = env if hasattr(env, "observation_manager") else getattr(env, "unwrapped", env)
        terms = _terms_of_group(holder, group)
        lengths = {term.frames for term in terms.values()}
        if len(lengths) != 1:
            raise ArgumentError(
                f"group {group!r}: its terms have histories of {sorted(lengths)} frames, not of one length"
            )
        length = lengths.pop()
        options: dict[str, Any] = {"group": group, "order": "oldest_first", "pad": "first"}
        return cls(env, list(terms), 0 if length == 1 else length, device, **options)

    def get_observation(self, obs_dict: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the student's observations, a new tensor [N, total_dim] of the frames' dtype.

        Args:
            obs_dict: term -> its frame [N, ...]; further terms are not looked at.

        Raises:
            MissingKeyError: a term is missing.
            SchemaError: a frame of another width, dtype or number of envs. Nothing was changed.
        """
        pieces = self._pieces(obs_dict)
        if not self._was_asked:
            self._was_asked, self._updates_first = True, self._was_updated
        if not self._kept:
            return torch.cat(pieces, dim=1)
        if not self._updates_first:
            self._forget_due()
        if self.history == "past":
            self._latest = torch.cat(pieces, dim=1)
        ring = self._ring_for(pieces)
        if self._some_begin and self.pad == "first":
            ring.fill(self._begins, pieces)
        return ring.last(pieces if self.history == "current" else None)

    def update_history(self, obs_dict: Mapping[str, torch.Tensor]) -> None:
        """Append the frame of this step; a copy is kept.

        Raises:
            ArgumentError: with `history="current"`, before any observation was asked for: the frame that is then handed
                in would be there twice.
            MissingKeyError, SchemaError: as `get_observation`. Nothing was changed.
        """
        if self.history == "current" and self._kept and not self._was_asked:
            raise ArgumentError(
                "update_history came before get_observation: with history='current' the frame handed to "
                "get_observation would be there twice; call get_observation first, or choose history='past'"
            )
        pieces = self._pieces(obs_dict)
        self._was_updated = True
        if not self._kept:
            return
        if self._updates_first:
            self._forget_due()
        ring = self._ring_for(pieces)
        if self._some_begin and self.pad == "first":
            ring.fill(self._begins, pieces)
        ring.push(pieces)
        self._begins.zero_()
        self._some_begin = False

    def reset_history(self, env_ids: torch.Tensor | Sequence[int]) -> None:
        """Forget the frames of these envs.

        Args:
            env_ids: ids, or a bool mask [N]; none is fine.

        Raises:
            OutOfRangeError: no such env. TypeError: neither integers nor bools.
        """
        chosen = self._checked_envs(env_ids)
        if not len(chosen):
            return
        if self._ring is not None:
            self._ring.clear(chosen)
        self._begins[chosen] = True
        self._some_begin = True

    def forget_later(self, envs: Any) -> None:
        """Forget the frames of these envs, a bool mask [N], before the next step's are handed in."""
        due = torch.as_tensor(envs, device=self.device)
        self._due = due if self._due is None else self._due | due

    @property
    def lag(self) -> int | None:
        """How many steps before the frame handed in the newest one of an observation is.

        1 with `history="past"` where observations are asked for before the step's update, else 0; None as long as it is
        not known which comes first.
        """
        if self.history == "current" or not self._kept:
            return 0
        return int(not self._updates_first) if self._was_asked else None

    @property
    def latest_frame(self) -> torch.Tensor | None:
        """The frame [N, frame_dim] that an observation was asked for with last; kept with `history="past"` alone."""
        return self._latest

    def split(self, group_tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the terms within the env's own concatenated group, each its newest frame: `{term: [N, width]}`.

        Views of `group_tensor` [N, D]; SchemaError if D is not the group's width.
        """
        widths = [term.width * term.frames for term in self._group_terms]
        if group_tensor.ndim != 2 or group_tensor.shape[1] != sum(widths):
            raise SchemaError(f"the group is [N, {sum(widths)}], found {list(group_tensor.shape)}")
        pieces = torch.split(group_tensor, widths, dim=1)
        # Env managers put the newest frame last.
        return {term.name: piece[:, -term.width :] for term, piece in zip(self._group_terms, pieces, strict=True)}

    def frame(self, obs_dict: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the terms of one step side by side, a new tensor [N, frame_dim]; raises as `get_observation`."""
        return torch.cat(self._pieces(obs_dict), dim=1)

    def _forget_due(self) -> None:
        if self._due is not None:
            due, self._due = self._due, None
            self.reset_history(due)

    def _pieces(self, obs_dict: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the frame of each term, [N, width], all of one dtype."""
        pieces = []
        for name, width in zip(self.obs_keys, self.obs_dims, strict=True):
            if name not in obs_dict:
                raise MissingKeyError(f"no observation term {name!r}; there are {sorted(obs_dict)}")
            piece = obs_dict[name].detach()
            if piece.ndim < 1 or piece.shape[0] != self.num_envs or prod(piece.shape[1:]) != width:
                raise SchemaError(f"term {name!r}: expected [{self.num_envs}, {width}], found {list(piece.shape)}")
            pieces.append(piece.reshape(self.num_envs, width).to(self.device))
        dtypes = [piece.dtype for piece in pieces]
        dtype = reduce(torch.promote_types, dtypes)
        if self._ring is not None and dtype != self._ring.dtype:
            raise SchemaError(f"frames of {self._ring.dtype} so far, now one of {dtype}")
        return pieces

    def _ring_for(self, pieces: list[torch.Tensor]) -> FrameRing:
        if self._ring is None:
            like = torch.cat(pieces, dim=1)
            self._ring = FrameRing(self.obs_dims, self._kept, self.order == "newest_first", like)
        return self._ring

    def _checked_envs(self, env_ids: torch.Tensor | Sequence[int]) -> torch.Tensor:
        ids = torch.as_tensor(env_ids, device=self.device)
        if not ids.numel():
            return ids.new_empty(0, dtype=torch.int64)
        if ids.dtype == torch.bool:
            if ids.shape != (self.num_envs,):
                raise OutOfRangeError(f"env_ids: expected a mask of {self.num_envs} envs, found {list(ids.shape)}")
            return ids.nonzero().squeeze(1)
        if ids.is_floating_point() or ids.is_complex():
            raise TypeError(f"env_ids: expected integers or a bool mask, found {ids.dtype}")
        ids = ids.reshape(-1).to(torch.int64)
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.num_envs:
            raise OutOfRangeError(f"env_ids: expected ids within 0..{self.num_envs - 1}, found {low} to {high}")
        return ids


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise ArgumentError(f"{name}: expected one of {list(choices)}, found {value!r}")
    return value


def _known_once(obs_keys: Sequence[str], terms: Mapping[str, Term]) -> list[str]:
    names = [obs_keys] if isinstance(obs_keys, str) else list(obs_keys)
    if not names:
        raise ArgumentError(f"obs_keys: no term is named; there are {list(terms)}")
    for at, name in enumerate(names):
        if name not in terms:
            raise ArgumentError(f"obs_keys: no term {name!r}; there are {list(terms)}")
        if name in names[:at]:
            raise ArgumentError(f"obs_keys: term {name!r} is named twice")
    return names


def _terms_of_group(env: Any, group: str) -> dict[str, Term]:
    manager = getattr(env, "observation_manager", None)
    if manager is None:
        raise ArgumentError(
            f"{type(env).__name__} has no observation_manager, so the widths of its terms are not known"
        )
    names = _public_or_private(manager, "active_terms", "_group_obs_term_names")
    if group == "policy" and group not in names and "actor" in names:
        group = "actor"
    if group not in names:
        raise ArgumentError(f"no observation group {group!r}; there are {sorted(names)}")
    dims = _public_or_private(manager, "group_obs_term_dim", "_group_obs_term_dim")[group]
    terms = {}
    for name, dim in zip(names[group], dims, strict=True):
        extent = prod(dim) if isinstance(dim, Sequence) else int(dim)
        frames = max(_own_history(manager, group, name, list(names[group])), 1)
        if extent % frames:
            raise ArgumentError(f"group {group!r}, term {name!r}: {extent} values are not {frames} frames")
        terms[name] = Term(name, extent // frames, frames)
    return terms


def _public_or_private(manager: Any, public: str, private: str) -> Any:
    return getattr(manager, public) if hasattr(manager, public) else getattr(manager, private)


def _own_history(manager: Any, group: str, name: str, names: list[str]) -> int:
    """Return how many frames of a term the env's group holds: the group's setting if it has one, else the term's."""
    settings = getattr(manager, "cfg", None)
    group_settings = settings.get(group) if isinstance(settings, Mapping) else getattr(settings, group, None)
    of_group = getattr(group_settings, "history_length", None)
    if of_group is not None:
        return int(of_group)
    terms = getattr(group_settings, "terms", group_settings)
    term = terms.get(name) if isinstance(terms, Mapping) else getattr(terms, name, None)
    if term is None:
        configs = getattr(manager, "_group_obs_term_cfgs", {}).get(group)
        term = configs[names.index(name)] if configs else None
    return int(getattr(term, "history_length", 0) or 0)
