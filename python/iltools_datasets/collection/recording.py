"""A recording on disk: its journal, and which columns of a store its episodes become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets._base.saved_state import SavedState
from iltools_datasets.collection.columns import layout_of
from iltools_datasets.collection.place import Place
from iltools_datasets.collection.rows import RecordedColumn
from iltools_datasets.errors import StateError

_KIND, _VERSION = "recording", 1
DEFAULT_TASK = "expert"


class Recording:
    """Steps of N envs, by column, and the episodes they form."""

    def __init__(
        self,
        core: _core.Recorder,
        place: Place,
        num_envs: int,
        columns: list[RecordedColumn],
        longest: int,
        tasks: list[str],
        unknown_ends: int,
    ) -> None:
        self.core, self.place, self.num_envs, self.columns = core, place, num_envs, columns
        self.tasks = tasks
        """Names of the tasks, by id."""
        self.unknown_ends = unknown_ends
        """How many episodes ended of which it is not known in which env."""
        self._longest = longest

    @classmethod
    def begin(cls, place: Place, num_envs: int, columns: list[RecordedColumn], longest: int) -> Recording:
        """Begin a recording of these columns."""
        tasks = [DEFAULT_TASK]
        core = place.begin(_text(num_envs, columns, longest, tasks, 0))
        return cls(core, place, num_envs, columns, longest, tasks, 0)

    @classmethod
    def resume(cls, place: Place, has_attributes: bool) -> Recording:
        """Go on with the recording that is there; episodes that ran then are cut. `StateError` if it cannot be read."""
        core = place.resume(has_attributes)
        saved = saved_layout(core.layout)
        return cls(
            core,
            place,
            saved.integer("num_envs", low=1),
            columns_of(saved),
            saved.integer("longest", low=1),
            list(json.loads(core.layout)["tasks"].values()),
            saved.integer("unknown_ends"),
        )

    @property
    def knows_boundaries(self) -> bool:
        """Whether it is known of every episode where it ended."""
        return not self.unknown_ends

    def note_unknown_ends(self, number: int) -> None:
        """Keep how many more episodes ended of which it is not known in which env.

        Where a store has grown out of episodes of known boundaries, those that run are cut here instead, so that no
        next observation is made up.
        """
        if self.place.grows and self.knows_boundaries and self.core.num_episodes:
            self.core.end_running()
            return
        self.unknown_ends += number
        self._write()

    def task_ids(self, names: Sequence[str]) -> list[int]:
        """Return the ids of tasks; a new name is kept with the recording first."""
        if self.tasks == [DEFAULT_TASK] and DEFAULT_TASK not in names and names and not self.core.num_episodes:
            self.tasks = []
        new = [name for name in dict.fromkeys(names) if name not in self.tasks]
        if new:
            self.tasks = [*self.tasks, *new]
            self._write()
        return [self.tasks.index(name) for name in names]

    def _write(self) -> None:
        self.core.set_layout(_text(self.num_envs, self.columns, self._longest, self.tasks, self.unknown_ends))

    def number_of(self, argument: str) -> int | None:
        """Return the position of an argument's column; None if it is not recorded."""
        return next((at for at, column in enumerate(self.columns) if column.argument == argument), None)

    def mask(self, step: int) -> NDArray[np.bool_]:
        """Return which rows of a step are data, bool [N]."""
        mask = np.empty(self.num_envs, dtype=np.uint8)
        self.core.read_mask(step, mask)
        return mask.view(np.bool_)

    def step(self, step: int, column: int) -> NDArray[Any]:
        """Return one column of a step, [N, width]."""
        spec = self.columns[column]
        rows = np.empty((self.num_envs, spec.width), dtype=spec.dtype)
        self.core.read_step(step, column, rows.reshape(-1).view(np.uint8))
        return rows


def _text(num_envs: int, columns: list[RecordedColumn], longest: int, tasks: list[str], unknown_ends: int) -> str:
    content = {
        "kind": _KIND,
        "version": _VERSION,
        **layout_of(num_envs, columns, longest, knows_boundaries=not unknown_ends),
        "tasks": {str(number): name for number, name in enumerate(tasks)},
        "unknown_ends": unknown_ends,
        "recorded": [asdict(column) for column in columns],
    }
    return json.dumps(content)


def saved_layout(text: str) -> SavedState:
    """Return what the layout of a recording says; `StateError` if it is none."""
    try:
        return SavedState(json.loads(text), _KIND, _VERSION)
    except ValueError as error:
        raise StateError(f"state of {_KIND}: not JSON: {error}") from error


def columns_of(saved: SavedState) -> list[RecordedColumn]:
    """Return the columns that a layout records; `StateError` if it does not say."""
    try:
        return [
            RecordedColumn(
                str(entry["key"]),
                str(entry["argument"]),
                int(entry["width"]),
                np.dtype(entry["dtype"]).name,
                bool(entry["is_state"]),
            )
            for entry in saved.entries("recorded")
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"state of {_KIND}: recorded: {error!r}") from error
