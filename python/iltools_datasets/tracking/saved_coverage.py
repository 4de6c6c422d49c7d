"""What a saved state says of a store's coverage, without a sampler over the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iltools_datasets import _core
from iltools_datasets.errors import StateError
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.tracking import checkpoint
from iltools_datasets.tracking.coverage import Coverage


def saved_coverage(path: str | Path, store: TrajectoryStore) -> Coverage:
    """Return what `MotionSampler.dumps` wrote of a store: that of all its clips, or its part of a mixture.

    Raises:
        StateError: there is no such file, it is damaged, or of other stores.
    """
    arrays, about = checkpoint.opened(checkpoint.read_state(path))
    try:
        config = about["config"]
        uuids = [uuid for _, uuid, _ in config["stores"]]
        counts = [clips for _, _, clips in config["stores"]]
        if store.uuid not in uuids:
            raise StateError(f"{path}: is of the builds {uuids}, not of {store.uuid}, which is {store.path}")
        bins = _core.MotionBins(arrays["last"], arrays["fps"], config["control_dt"], config["adaptive"]["bin_s"])
        tracker = checkpoint.restored(config, bins, arrays, about)
        number = uuids.index(store.uuid)
        first = sum(counts[:number])
        own = slice(first, first + counts[number])
        if not np.array_equal(arrays["last"][own], store.core.segments.length):
            raise StateError(f"{path}: is of other clips than those of {store.path}")
        names = [str(clip) for clip in range(len(arrays["last"]))]
        names[own] = store.trajectory_paths
        return Coverage.of(names, bins, tracker, tracker.since(), config["control_dt"]).of_part(own)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"{path}: is no saved state of a sampler: {error}") from error
