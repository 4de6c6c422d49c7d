"""From a saved state to a sampler that goes on from there, on as many ranks or another number of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets.errors import ArgumentError, StateError
from iltools_datasets.tracking import checkpoint
from iltools_datasets.tracking.mixture import Mixture

_OF_A_RANK = ("num_envs", "rank", "world_size")


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a sampler takes over of a state."""

    tracker: _core.Tracker
    weights: dict[str, float] | None
    clip_weights: NDArray[np.float64]
    warned: bool


def resumed(
    state: Any, config: Mapping[str, Any], bins: _core.MotionBins, mixture: Mixture, with_envs: bool
) -> Resumed:
    """Return what goes on where a state was taken; see `MotionSampler.load_state_dict`."""
    arrays, about = checkpoint.opened(state)
    theirs = about["config"]
    whole = with_envs and theirs["world_size"] == config["world_size"]
    for name in config:
        if theirs.get(name) != config[name] and (whole or name not in _OF_A_RANK):
            found = f"expected {name} {config[name]!r}, found {theirs.get(name)!r}"
            raise StateError(f"state of {checkpoint.KIND}: of another sampler: {found}")
    for name, own in (("last", mixture.last), ("fps", mixture.fps)):
        if name not in arrays or not np.array_equal(arrays[name], own):
            raise StateError(f"state of {checkpoint.KIND}: of other clips: {name} differs")
    if not whole:
        arrays, about = _shared(arrays, about, config)
    tracker = checkpoint.restored(config, bins, arrays, about)
    try:
        weights = None if about["weights"] is None else mixture.checked_weights(about["weights"])
        clip_weights = mixture.checked_clip_weights(arrays["clip_weights"], np.ones(len(mixture.last)))
    except (ArgumentError, KeyError) as error:
        raise StateError(f"state of {checkpoint.KIND}: {error}") from error
    return Resumed(tracker, weights, clip_weights, bool(about["warned"]))


def _shared(
    arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the part of a state that all ranks share, with envs that stand nowhere, for another number of ranks."""
    before, now = about["config"]["world_size"], config["world_size"]
    if (before, now) != (1, 1) and arrays["since"].any():
        raise StateError(f"state of {checkpoint.KIND}: has counts of one rank alone; save right after sync()")
    envs = config["num_envs"]
    nowhere = {"clip": np.full(envs, -1), "start": np.zeros(envs), "steps": np.zeros(envs, dtype=np.int64)}
    # So many per rank that all together have come as far in their common order, or a little further.
    drawn = [-(-number * before // now) for number in about["drawn"]]
    return {**arrays, **nowhere}, {**about, "drawn": drawn}
