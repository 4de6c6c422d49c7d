"""The transitions of a store."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets._base.aligned import aligned_empty
from iltools_datasets._base.bfloat16 import as_bfloat16
from iltools_datasets.data.dataset import BatchDataset
from iltools_datasets.data.transition import Transition
from iltools_datasets.errors import MissingKeyError
from iltools_datasets.store.keys import Key, parts_of
from iltools_datasets.store.segments import int64
from iltools_datasets.store.trajectory_store import TrajectoryStore

__all__ = ["StoreDataset"]

_OBS: tuple[Key, ...] = ("observation", "observation.state")
_REWARDS: tuple[Key, ...] = ("reward", ("next", "reward"), "next.reward")
_DONE: Key = ("next", "done")
_INDEX = "index"


class StoreDataset(BatchDataset):
    """The transitions of a store, in its order; safe to use from several threads.

    Args:
        store: the store.
        obs_keys: what makes up the observation; several are flattened and put side by side. Each needs its
            `("next", key)`. None = `observation`, or else `observation.state`.
        action_key: the action.
        reward_key: the reward, `[]` or `[1]`; None = the first that is there of `reward`, `("next", "reward")` and
            `next.reward`, and zeros where there is none.
        done_key: whether a transition ends its episode, `[]` or `[1]`; None = `("next", "done")`, and where that is not
            there, the last transition of each trajectory.

    Raises:
        MissingKeyError: the store has no such key.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        obs_keys: Sequence[Key] | None = None,
        action_key: Key = "action",
        reward_key: Key | None = None,
        done_key: Key | None = None,
    ) -> None:
        self.store = store
        usual = next((key for key in _OBS if key in store.keys), _OBS[0])
        self._obs_keys: list[Key] = [usual] if obs_keys is None else list(obs_keys)
        self._next_keys: list[Key] = [("next", *parts_of(key)) for key in self._obs_keys]
        self._reward_key = (
            next((key for key in _REWARDS if key in store.keys), None) if reward_key is None else reward_key
        )
        self._done_key = _DONE if done_key is None and _DONE in store.keys else done_key
        flags = [key for key in (self._reward_key, self._done_key) if key is not None]
        self._keys: list[Key] = [*self._obs_keys, *self._next_keys, action_key, *flags]
        missing = [key for key in self._keys if key not in store.keys]
        if missing:
            raise MissingKeyError(
                f"{store.path}: no key {missing[0]!r}; there are {store.keys}. Say which are meant: "
                "StoreDataset(store, obs_keys=[...], action_key=...)"
            )
        self._bfloat16 = {key for key in store.keys if store.is_bfloat16(key)}
        lengths = store.segments.length
        self._last_step = lengths - 1
        self._identity = store.uuid or f"{len(lengths)} trajectories, crc32 {zlib.crc32(lengths.tobytes()):08x}"

    def __len__(self) -> int:
        return len(self.store)

    def __repr__(self) -> str:
        return f"StoreDataset({self.store!r})"

    @property
    def identity(self) -> str:
        """The store's uuid; for a foreign directory, which has none, the lengths of its trajectories."""
        return self._identity

    def check_extra(self, extra: Sequence[Key]) -> None:
        """Any key of the store can be added, and `"index"`, int64 `[B]`: which transitions these are."""
        for key in extra:
            if key != _INDEX and key not in self.store.keys:
                raise MissingKeyError(
                    f"extra: no key {key!r} in {self.store.path}; there are {[*self.store.keys, _INDEX]}"
                )

    def batch(self, index: ArrayLike, *, extra: Sequence[Key] = ()) -> Any:
        """Return the transitions `index`, int `[B]`: obs and next_obs `[B, D]`, action `[B, A]`, reward and done `[B]`.

        Args:
            index: each in [0, len(store)).
            extra: further keys; with any, the result is `(transition, {key: [B, ...]})`, where a key of several names
                is `"a/b"`.

        Raises:
            OutOfRangeError: an index is out of range.
            MissingKeyError: no such key to add.
        """
        rows = int64(index)
        added = [key for key in extra if key != _INDEX]
        columns = iter(self._gather(rows, [*self._keys, *added]))
        obs, next_obs = (side_by_side([next(columns) for _ in self._obs_keys]) for _ in range(2))
        action = next(columns)
        reward = _flat(next(columns), np.float32) if self._reward_key else np.zeros(len(rows), np.float32)
        done = _flat(next(columns), np.bool_) if self._done_key else self._is_last(rows)
        transition = Transition(obs, action, reward, next_obs, done)
        if not extra:
            return transition
        return transition, {"/".join(parts_of(key)): rows if key == _INDEX else next(columns) for key in extra}

    def _gather(self, rows: NDArray[np.int64], keys: list[Key]) -> list[NDArray[Any]]:
        """Return an array of its own for each key, also for one that is named twice."""
        store = self.store
        arrays = store.core.gather(store.field_ids(keys), rows, None, store.num_threads)
        for number, key in enumerate(keys):
            if key in self._bfloat16:
                arrays[number] = as_bfloat16(arrays[number])
        return arrays

    def _is_last(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        segment, step = self.store.segments.locate(rows)
        return np.equal(step, self._last_step[segment])


def _flat(column: NDArray[Any], dtype: Any) -> NDArray[Any]:
    return column.reshape(len(column)).astype(dtype, copy=False)


def side_by_side(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return [B, D] of several [B, ...] each, or the only one as it is."""
    if len(parts) == 1:
        return parts[0]
    flat = [part.reshape(len(part), -1) for part in parts]
    whole = aligned_empty((len(flat[0]), sum(part.shape[1] for part in flat)), np.result_type(*flat))
    return np.concatenate(flat, axis=1, out=whole)
