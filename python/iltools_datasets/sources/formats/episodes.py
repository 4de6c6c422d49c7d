"""Roll-outs: steps of many episodes back to back, and observations with and without the one after the last action."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.schema import TRANSITION_KEYS
from iltools_datasets.errors import SourceError
from iltools_datasets.sources.told import ToldSource

Arrays = dict[str, NDArray[Any]]

RENAMED = {
    "acts": "actions",
    "rews": "rewards",
    "dones": "done",
    "terminals": "terminated",
    "terminations": "terminated",
    "timeouts": "truncated",
    "truncations": "truncated",
}
"""Names that writers of roll-outs use -> keys of the archive, where those have a meaning."""
_ENDS = ("terminals", "terminations", "timeouts", "truncations", "dones")


def renamed(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return arrays under the names that the archive has for them; a name that is taken already stays as it is."""
    return {key if RENAMED.get(key, key) in arrays else RENAMED.get(key, key): array for key, array in arrays.items()}


def episode_ranges(path: Path, arrays: Mapping[str, NDArray[Any]], steps: int) -> Iterator[tuple[int, int]]:
    """Yield (first step, step after the last) of each episode: one ends where any flag of `arrays` holds.

    What follows the last flag is an episode that was cut. Raises SourceError for a flag that is none.
    """
    ends = np.zeros(steps, np.bool_)
    for key in _ENDS:
        if key in arrays:
            flag = arrays[key].reshape(len(arrays[key]), -1)
            if flag.shape != (steps, 1) or not ((flag == 0) | (flag == 1)).all():
                raise SourceError(f"{path}: {key!r} should be a flag of each of the {steps} steps")
            ends |= flag[:, 0] != 0
    if steps:
        ends[-1] = True
    first = 0
    for end in (np.flatnonzero(ends) + 1).tolist():
        yield first, end
        first = end


def following_in(arrays: Arrays) -> dict[str, str]:
    """Return which key is the next of which, by their names (`next_obs`, `next_observations`)."""
    return {key: key.removeprefix("next_") for key in arrays if key.startswith("next_obs")}


def with_last_observation(source: ToldSource, path: Path, arrays: Arrays, following: Mapping[str, str]) -> Arrays:
    """Return an episode's arrays with what was observed after the last action, where the file has it.

    A file of T steps that tells for each step what follows it holds T + 1 states. Where what follows is the next step's
    observation, bit for bit, the observations become `[T + 1, ...]` and what belongs to a step stays `[T, ...]`: so the
    last action, with its reward and its end, is a transition. Other arrays have no row for the last state and are left
    out, which is said; with `skip` of what follows they stay, and the last action leads nowhere.

    Args:
        source: says what was left out.
        path: the file.
        arrays: key -> rows of one episode.
        following: key of what follows -> key of what it is the next of.
    """
    pairs = {after: now for after, now in following.items() if after in arrays and now in arrays}
    if not pairs or not all(_is_next(arrays[now], arrays[after]) for after, now in pairs.items()):
        return arrays
    joined: Arrays = {}
    for key, array in arrays.items():
        if key in pairs.values():
            after = next(after for after, now in pairs.items() if now == key)
            joined[key] = np.concatenate([array, arrays[after][-1:]])
        elif key in TRANSITION_KEYS - pairs.keys():
            joined[key] = array
        elif key not in pairs:
            group = next(iter(pairs)).split(".")[0]
            source.leave_out(path, [key], f", which has no row for the last state; with skip={group} it is kept")
    return joined


def _is_next(now: NDArray[Any], after: NDArray[Any]) -> bool:
    same = now.dtype == after.dtype and now.shape == after.shape and len(now) > 0
    return same and now[1:].tobytes() == after[:-1].tobytes()
