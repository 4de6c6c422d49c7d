"""Episodes in npz: roll-outs of `imitation` and stable-baselines, steps of an environment, states by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.episodes import (
    Arrays,
    episode_ranges,
    following_in,
    renamed,
    with_last_observation,
)
from iltools_datasets.sources.formats.held import Held
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource

_ACTIONS = ("acts", "actions")
_INDICES, _TERMINAL, _STARTS = "indices", "terminal", "episode_starts"
_EPISODE_VALUES = ("episode_returns", "ep_rets")


class EpisodeNpzSource(ToldSource):
    """One npz of steps back to back; told by its members, each episode is a trajectory.

    - `imitation`: `obs` with one row more than `acts` in each episode, `indices` where `acts` are cut, `terminal`. The
      last step of an episode is `terminated` if it says so, else `truncated`.
    - stable-baselines: `obs`, `actions`, `rewards`, cut where `episode_starts`.
    - others with `obs` or `observations` and `acts` or `actions`, a row per step: cut where `terminals`, `timeouts` or
      `dones` hold; with `next_obs` or `next_observations` as `episodes.with_last_observation` says.
    - `qpos` without `qvel`: one trajectory of states.

    Values and dtypes are kept; `acts` is called `actions`, `rews` `rewards`, flags as in `hdf5-demos`. Nothing is taken
    for a quaternion.
    """

    format = "episode-npz"
    summary = "npz of episodes: roll-outs of imitation and stable-baselines, observations and actions, qpos alone"
    suffixes = (".npz",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        names = member_names(path)
        steps = any(key in names for key in ("obs", "observations")) and any(key in names for key in _ACTIONS)
        return steps or ("qpos" in names and "qvel" not in names)

    def read(self, file: SourceFile) -> Iterator[Recording]:
        path = file.path
        with Npz(path, self.skip) as npz:
            fps = self.rate_in(npz)
            held = Held(str(path), {key: npz.read(key) for key in npz.arrays})
            self.leave_out(path, npz.unreadable, ", a pickled object, which is never read")
        attributes = held.attributes({*_EPISODE_VALUES, _INDICES, _TERMINAL, _STARTS, *held.arrays})
        attributes |= self.all_names(path, held.names("joint_names"), held.names("body_names"))
        for number, arrays in enumerate(self._episodes(path, held, attributes)):
            yield Recording(arrays, fps=fps, quaternions=None, attributes={"episode": number, **attributes})

    def _episodes(self, path: Path, held: Held, attributes: dict[str, Any]) -> Iterator[Arrays]:
        observed, acted = held.first(("obs", "observations")), held.first(_ACTIONS)
        if observed is None or acted is None:
            yield self._rows(path, held, "qpos", attributes)
        elif _INDICES in held.arrays or _TERMINAL in held.arrays:
            yield from self._of_imitation(path, held, observed, acted, attributes)
        else:
            yield from self._of_steps(path, held, acted, attributes)

    def _rows(self, path: Path, held: Held, key: str, attributes: dict[str, Any], *known: str) -> Arrays:
        """Return the arrays with as many rows as `key`, and say what else there is."""
        if key not in held.arrays or not len(held.arrays[key]):
            raise SourceError(f"{path}: {key!r} should be numbers with a row per step")
        arrays = held.rows(len(held.arrays[key]), known)
        held.say_what_is_left(self, path, {*arrays, *attributes, *known})
        return arrays

    def _of_steps(self, path: Path, held: Held, acted: str, attributes: dict[str, Any]) -> Iterator[Arrays]:
        whole = self._rows(path, held, acted, attributes, _STARTS, *_EPISODE_VALUES)
        steps = len(whole[acted])
        for key in ("obs", "observations"):
            if key in held.arrays and key not in whole:
                raise SourceError(f"{path}: {key!r} has {len(held.arrays[key])} rows, expected {steps} like {acted!r}")
        ranges = list(episode_ranges(path, whole, steps))
        if _STARTS in held.arrays:
            ranges = _ranges_from_starts(path, held.arrays[_STARTS], steps)
        for first, end in ranges:
            arrays = renamed({key: array[first:end].copy() for key, array in whole.items()})
            following = following_in(arrays)
            yield with_last_observation(self, path, arrays, following)

    def _of_imitation(
        self, path: Path, held: Held, observed: str, acted: str, attributes: dict[str, Any]
    ) -> Iterator[Arrays]:
        steps = self._rows(path, held, acted, attributes, observed, _INDICES, _TERMINAL)
        count, states = len(steps[acted]), held.arrays[observed]
        cuts = held.arrays.get(_INDICES, np.zeros(0, np.int64))
        bounds = np.concatenate([[0], cuts.reshape(-1), [count]])
        if cuts.size and (cuts.dtype.kind not in "iu" or (np.diff(bounds.astype(np.int64)) <= 0).any()):
            raise SourceError(
                f"{path}: {_INDICES!r} should rise from 0 to the {count} steps, found {cuts.tolist()[:12]}"
            )
        bounds = bounds.astype(np.int64)
        episodes = len(bounds) - 1
        if len(states) != count + episodes:
            raise SourceError(
                f"{path}: {observed!r} has {len(states)} rows; {count} steps in {episodes} episodes have "
                f"{count + episodes} observations"
            )
        ended = held.arrays.get(_TERMINAL)
        if ended is not None and (ended.shape != (episodes,) or ended.dtype.kind not in "bi"):
            raise SourceError(f"{path}: {_TERMINAL!r} should be a flag of each of the {episodes} episodes")
        for episode in range(episodes):
            first, end = bounds[episode : episode + 2].tolist()
            arrays = renamed({key: array[first:end].copy() for key, array in steps.items()})
            arrays[observed] = states[first + episode : end + episode + 1].copy()
            if ended is not None:
                last = np.arange(end - first) == end - first - 1
                arrays["terminated"], arrays["truncated"] = last & bool(ended[episode]), last & (not ended[episode])
            yield arrays


def _ranges_from_starts(path: Path, starts: NDArray[Any], steps: int) -> list[tuple[int, int]]:
    flags = starts.reshape(-1)
    if len(flags) != steps or not ((flags == 0) | (flags == 1)).all():
        raise SourceError(f"{path}: {_STARTS!r} should be a flag of each of the {steps} steps")
    begins = np.flatnonzero(flags)
    first = sorted({0, *begins.tolist()})
    return list(zip(first, [*first[1:], steps], strict=True))
