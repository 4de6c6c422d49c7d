"""Trajectories on disk whose final layout is not known yet."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.shifted_next import Parts, split
from iltools_datasets.store.trajectory_store import TrajectoryStore


class StoreSpool:
    """A store in the making within the directory of the target.

    Its directory is named like a generation of the target, so that the next build removes it if this one is killed.
    """

    def __init__(self, target: Path) -> None:
        self._path = target / f"data-{uuid.uuid4()}"
        self._builder = StoreBuilder(self._path)

    def add(
        self,
        task_id: int,
        traj_id: int,
        arrays: dict[Parts, NDArray[Any]],
        stored_once: set[Parts],
        name: str | None,
        task_name: str | None,
    ) -> None:
        """Append a trajectory of transitions [T, ...]; the keys in `stored_once` become states."""
        states, transitions = split(arrays, stored_once)
        self._builder.add(task_id, traj_id, states, transitions, name, task_name)

    def close(self) -> None:
        """Finish it: it can be read, and nothing can be added."""
        self._builder.publish()

    def remove(self) -> None:
        """Delete it, finished or not."""
        self._builder.abort()
        shutil.rmtree(self._path, ignore_errors=True)

    def become(self, target: Path) -> None:
        """Move the finished store into the target's place, the manifest last, as every build does."""
        replaced = [path for path in target.glob("data-*") if path != self._path and (path / "segments.i64").exists()]
        for data in self._path.glob("data-*"):
            data.rename(target / data.name)
        _sync(target)
        (self._path / "manifest.json").replace(target / "manifest.json")
        _sync(target)
        for generation in replaced:
            shutil.rmtree(generation, ignore_errors=True)

    def copy_to(self, target: StoreBuilder, stored_once: set[Parts]) -> None:
        """Add its trajectories to the target one by one, now with only the keys in `stored_once` as states."""
        store = TrajectoryStore.open(self._path)
        names, task_names = store.trajectory_names, store.task_names
        for position, segment in enumerate(store.segments):
            rows = store.gather(np.arange(segment.start, segment.start + segment.length))
            arrays = {(key,) if isinstance(key, str) else key: array for key, array in rows.items()}
            states, transitions = split(arrays, stored_once)
            target.add(
                segment.task_id,
                segment.traj_id,
                states,
                transitions,
                names[position],
                task_names.get(segment.task_id),
            )


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
