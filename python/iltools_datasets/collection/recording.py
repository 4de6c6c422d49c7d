"""A recording on disk: its journal, and beside it what the journal's columns are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets._base.files import read_json, write_json
from iltools_datasets._base.saved_state import SavedState
from iltools_datasets.collection.rows import RecordedColumn
from iltools_datasets.errors import StateError

_FILE, _JOURNAL = "recording.json", "journal"
_KIND, _VERSION = "recording", 1


@dataclass(frozen=True, slots=True)
class Episode:
    """The rows of one env from one step on; see `ExpertTrajectoryCollector`."""

    number: int
    env: int
    first: int
    rows: int
    terminated: bool
    truncated: bool
    next_known: bool


class Recording:
    """Steps of N envs, by column, and the episodes they form."""

    def __init__(
        self, path: Path, num_envs: int, columns: list[RecordedColumn], core: _core.Recorder, num_unknown_ends: int = 0
    ) -> None:
        self.path, self.num_envs, self.columns, self.core = path, num_envs, columns, core
        self.num_unknown_ends = num_unknown_ends

    @classmethod
    def begin(cls, path: Path, num_envs: int, columns: list[RecordedColumn], longest: int) -> Recording:
        """Begin a recording in a directory that holds none; it is made if it is missing."""
        # The columns first: a journal without them could not be read.
        _write(path, num_envs, columns, 0)
        return cls(path, num_envs, columns, _recorder(path, num_envs, columns, longest, resume=False))

    @classmethod
    def resume(cls, path: Path, longest: int) -> Recording:
        """Open a recording that was not closed; episodes that ran then are cut. StateError if it cannot be read."""
        saved = SavedState(read_json(path / _FILE), _KIND, _VERSION)
        columns = _columns_of(saved)
        num_envs = saved.integer("num_envs", low=1)
        recorder = _recorder(path, num_envs, columns, longest, resume=True)
        return cls(path, num_envs, columns, recorder, saved.integer("num_unknown_ends"))

    def note_unknown_ends(self, number: int) -> None:
        """Keep how many episodes ended of which it is not known in which env."""
        self.num_unknown_ends = number
        _write(self.path, self.num_envs, self.columns, number)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes that are over, in the order of their ends."""
        for row in self.core.episodes(0):
            yield Episode(*row)

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

    def rows(self, episode: Episode, column: int) -> NDArray[Any]:
        """Return one column of an episode: [rows, width], and one more of a state, its last next state."""
        spec = self.columns[column]
        rows = np.empty((episode.rows + spec.is_state, spec.width), dtype=spec.dtype)
        self.core.read_episode(episode.number, column, rows.reshape(-1).view(np.uint8))
        return rows


def _recorder(
    path: Path, num_envs: int, columns: list[RecordedColumn], longest: int, *, resume: bool
) -> _core.Recorder:
    row_bytes = [column.row_bytes for column in columns]
    num_states = sum(column.is_state for column in columns)
    return _core.Recorder(str(path / _JOURNAL), num_envs, row_bytes, num_states, longest, resume)


def _write(path: Path, num_envs: int, columns: list[RecordedColumn], num_unknown_ends: int) -> None:
    content = {
        "kind": _KIND,
        "version": _VERSION,
        "num_envs": num_envs,
        "num_unknown_ends": num_unknown_ends,
        "columns": [asdict(column) for column in columns],
    }
    write_json(path / _FILE, content)


def _columns_of(saved: SavedState) -> list[RecordedColumn]:
    try:
        return [
            RecordedColumn(
                str(entry["key"]),
                str(entry["argument"]),
                int(entry["width"]),
                np.dtype(entry["dtype"]).name,
                bool(entry["is_state"]),
            )
            for entry in saved.entries("columns")
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"state of {_KIND}: columns: {error!r}") from error
