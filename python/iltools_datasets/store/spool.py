"""Trajectories on disk whose final layout is not known yet."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.files import Maker
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.shifted_next import Parts, split
from iltools_datasets.store.trajectory_store import TrajectoryStore


class StoreSpool:
    """A store in the making within the directory of the target, which can adopt it as it is once it is closed.

    Its directory is named like a generation of the target, so that the next build removes it if this one is killed.
    """

    def __init__(self, target: Path) -> None:
        self._maker = Maker()
        self.path = target / f"data-{uuid.uuid4()}"
        self._builder = StoreBuilder(self.path)

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
        """Finish it: it can be read or adopted, and nothing can be added."""
        self._builder.publish()

    def remove(self) -> None:
        """Delete it, finished or not; in a forked copy of the process that made it, do nothing."""
        self._builder.abort()
        self._maker.remove_tree(self.path)

    def copy_to(self, target: StoreBuilder, stored_once: set[Parts]) -> None:
        """Add its trajectories to the target one by one, now with only the keys in `stored_once` as states."""
        store = TrajectoryStore.open(self.path)
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
