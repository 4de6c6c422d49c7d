"""A recording on disk: its journal, and which columns of a store its episodes become."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets._base.saved_state import SavedState
from iltools_datasets.collection.columns import layout_of
from iltools_datasets.collection.histories import HistoryRule
from iltools_datasets.collection.place import Place
from iltools_datasets.collection.rows import DATA, RecordedColumn
from iltools_datasets.errors import StateError

_KIND, _VERSION = "recording", 1
DEFAULT_TASK = "expert"


@dataclass(slots=True)
class UnknownEnds:
    """How many episodes ended of which it is not known in which env.

    Attributes:
        unknown_ends: so that boundaries are unknown.
        counted_ends: for which running episodes were cut instead.
        cut_for_them: how many were.
    """

    unknown_ends: int = 0
    counted_ends: int = 0
    cut_for_them: int = 0


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
        ends: UnknownEnds,
        history: HistoryRule | None,
    ) -> None:
        self.core, self.place, self.num_envs, self.columns = core, place, num_envs, columns
        self.tasks = tasks
        """Names of the tasks, by id."""
        self._ends, self._said_unknown = ends, False
        self.history = history
        """How frames make students' observations; None where these are recorded as they are."""
        self._longest = longest

    @classmethod
    def begin(
        cls, place: Place, num_envs: int, columns: list[RecordedColumn], longest: int, history: HistoryRule | None
    ) -> Recording:
        """Begin a recording of these columns."""
        tasks = [DEFAULT_TASK]
        core = place.begin(_text(num_envs, columns, longest, tasks, UnknownEnds(), history))
        return cls(core, place, num_envs, columns, longest, tasks, UnknownEnds(), history)

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
            UnknownEnds(*(saved.integer(name) for name in ("unknown_ends", "counted_ends", "cut_for_them"))),
            history_of(saved),
        )

    @property
    def knows_boundaries(self) -> bool:
        """Whether it is known of every episode where it ended."""
        return not self._ends.unknown_ends

    @property
    def num_trajectories(self) -> int:
        """How many episodes are over, as the caller counts them."""
        return self.core.num_episodes - self._ends.cut_for_them + self._ends.counted_ends + self._ends.unknown_ends

    def note_unknown_ends(self, number: int) -> None:
        """Keep how many more episodes ended of which it is not known in which env.

        Where a store has grown out of episodes of known boundaries, those that run are cut here instead, so that no
        next observation is made up.
        """
        if not self._said_unknown:
            self._said_unknown = True
            warnings.warn(
                f"{number} of {len(self.core.running)} running episodes ended, and not which: boundaries stay unknown, "
                "and a store of this recording has no next observations; pass env_ids",
                stacklevel=3,
            )
        cuts = self.place.grows and self.knows_boundaries and self.core.num_episodes
        if cuts:
            self._ends.counted_ends += number
            self._ends.cut_for_them += len(self.core.running)
        else:
            self._ends.unknown_ends += number
        self._write()
        if cuts:
            self.core.end_running()

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
        self.core.set_layout(_text(self.num_envs, self.columns, self._longest, self.tasks, self._ends, self.history))

    def number_of(self, argument: str) -> int | None:
        """Return the position of an argument's column; None if it is not recorded."""
        return next((at for at, column in enumerate(self.columns) if column.argument == argument), None)

    def begins(self) -> NDArray[np.int64]:
        """Return env and first step of each episode whose steps are all in the journal, [M, 2]."""
        return np.array(self.core.begins, dtype=np.int64).reshape(-1, 2)

    def mask(self, step: int) -> NDArray[np.bool_]:
        """Return which rows of a step are data, bool [N]."""
        mask = np.empty(self.num_envs, dtype=np.uint8)
        self.core.read_mask(step, mask)
        return np.asarray(mask == DATA)

    def step(self, step: int, column: int) -> NDArray[Any]:
        """Return one column of a step, [N, width]."""
        spec = self.columns[column]
        rows = np.empty((self.num_envs, spec.width), dtype=spec.dtype)
        self.core.read_step(step, column, rows.reshape(-1).view(np.uint8))
        return rows


def _text(
    num_envs: int,
    columns: list[RecordedColumn],
    longest: int,
    tasks: list[str],
    ends: UnknownEnds,
    history: HistoryRule | None,
) -> str:
    content = {
        "kind": _KIND,
        "version": _VERSION,
        **layout_of(num_envs, columns, longest, knows_boundaries=not ends.unknown_ends, history=history),
        "tasks": {str(number): name for number, name in enumerate(tasks)},
        **asdict(ends),
        "recorded": [asdict(column) for column in columns],
        "student_history": [] if history is None else [history.to_json()],
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


def history_of(saved: SavedState) -> HistoryRule | None:
    """Return how a layout's frames make students' observations, if it records frames; `StateError` if it is unclear."""
    try:
        return next((HistoryRule.from_json(entry) for entry in saved.entries("student_history")), None)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"state of {_KIND}: student_history: {error!r}") from error
