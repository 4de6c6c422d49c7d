"""The state of a replay manager: what is saved, and how all of it is checked before anything is taken over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torchrl.data import TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler

from iltools_datasets._base.saved_state import Changes, SavedState
from iltools_datasets.errors import StateError, StoreChangedError
from iltools_datasets.ranks import Rank
from iltools_datasets.store.env_cursors import EnvCursors, FollowsEnvs, saved_places
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.torchrl.parts import prepare_state
from iltools_datasets.torchrl.samplers.segments import (
    AssignedUniformSampler,
    EpochUniformSampler,
    SequentialPerEnvSampler,
)

_KIND, _VERSION = "ExpertReplayManager", 1


def save_manager_state(
    store: TrajectoryStore, buffer: TensorDictReplayBuffer, cursors: EnvCursors | None
) -> dict[str, Any]:
    """Return the state of a manager's sampling."""
    sampler = buffer.sampler
    return {
        "kind": _KIND,
        "version": _VERSION,
        "store": store.uuid,
        "num_transitions": len(store),
        "batch_size": buffer.batch_size,
        "num_envs": None if cursors is None else len(cursors),
        "segment": None if cursors is None else cursors.segment.tolist(),
        "step": None if cursors is None else cursors.step.tolist(),
        "sampler_kind": type(sampler).__name__,
        "without_replacement": getattr(sampler, "without_replacement", False),
        "sampler": sampler.state_dict(),
    }


def load_manager_state(
    state: Mapping[str, Any], store: TrajectoryStore, buffer: TensorDictReplayBuffer, seed: int | None, share: Rank
) -> tuple[EnvCursors | None, Sampler, int, Changes]:
    """Return the cursors, the sampler and the batch size of a state, and what the sampler takes over; nothing changes.

    `seed` and `share` are the manager's.

    Raises `StateError` for a damaged, impossible or contradictory state and `StoreChangedError` for one of another
    store.
    """
    saved = SavedState(state, _KIND, _VERSION)
    if (uuid := saved.text("store")) != store.uuid:
        raise StoreChangedError(f"{store.path}: the state is of another build: expected {store.uuid}, found {uuid}")
    # Of a store that grows the state may be of fewer: its sampler says of which.
    ends = store.segments.start + store.segments.length
    if (count := saved.integer("num_transitions")) != len(store) and count not in ends:
        raise saved.refuse("num_transitions", str(len(store)))
    batch_size = saved.integer("batch_size", low=1, high=2**63 - 1)
    cursors = _saved_cursors(saved, store)
    kind, without_replacement = saved.text("sampler_kind"), saved.flag("without_replacement")
    sampler: Sampler
    if kind == SequentialPerEnvSampler.__name__:
        if cursors is None:
            raise saved.refuse("num_envs", "at least one env, which its sampler follows")
        sampler = SequentialPerEnvSampler(store.segments, cursors)
    elif kind == AssignedUniformSampler.__name__:
        sampler = AssignedUniformSampler(store.segments, cursors, without_replacement, seed=seed, **share)
    elif kind == EpochUniformSampler.__name__:
        sampler = EpochUniformSampler(store.segments, without_replacement, seed=seed, **share)
    elif kind == type(buffer.sampler).__name__:
        sampler = buffer.sampler
    else:
        raise StateError(f"state of {_KIND}: sampler {kind}: call set_custom_sampler with one before loading")
    sampler._rng = buffer._rng
    if "sampler" not in state:
        raise saved.refuse("sampler", "the state of a sampler")
    _check_agrees(saved, state["sampler"], store, cursors if isinstance(sampler, FollowsEnvs) else None)
    changes = Changes()
    prepare_state(changes, sampler, state["sampler"])
    return cursors, sampler, batch_size, changes


def _check_agrees(saved: SavedState, of_sampler: Any, store: TrajectoryStore, cursors: EnvCursors | None) -> None:
    """Refuse a state whose sampler says other than the rest: of the store, and of the envs that it follows."""
    if not isinstance(of_sampler, Mapping):
        return
    if of_sampler.get("store") not in (None, store.uuid):
        raise saved.refuse("sampler", f"a sampler of the store {store.uuid}")
    for name in ("segment", "step"):
        own = [] if cursors is None else getattr(cursors, name).tolist()
        if name in of_sampler and np.asarray(of_sampler[name], dtype=object).tolist() != own:
            raise StateError(
                f"state of {_KIND}: {name}: the manager's envs are at {own!r:.80}, its sampler's elsewhere"
            )


def _saved_cursors(saved: SavedState, store: TrajectoryStore) -> EnvCursors | None:
    num_envs = saved.optional_integer("num_envs", low=1, high=2**31)
    if num_envs is None:
        return None
    return EnvCursors.at(store.segments, *saved_places(saved, store.segments, num_envs))
