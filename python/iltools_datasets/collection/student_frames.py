"""What is recorded of a student's observations: single frames, and that the rest follows from them."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.collection.histories import FRAME_KEY, FrameStack, HistoryRule
from iltools_datasets.collection.recording import Recording
from iltools_datasets.collection.rows import DATA, RecordedColumn, as_rows, checked_rows
from iltools_datasets.collection.student_obs import StudentObsBuilder
from iltools_datasets.errors import SchemaError

_ARGUMENT = "student_observations"

Rows = dict[RecordedColumn, NDArray[Any]]


class StudentFrames:
    """Takes a student's observations apart into frames, and makes sure that the rule puts them together again.

    All of the first `2 * length` steps are compared with the rule, and later each row that begins an episode. Where the
    collector ends an episode by itself (a row that is no data, one that is too long) the builder begins anew, too.

    Args:
        builder: what makes the observations.
        longest: rows after which an episode is cut.
    """

    def __init__(self, builder: StudentObsBuilder, longest: int) -> None:
        self._builder, self._longest = builder, longest
        self._rule: HistoryRule | None = None
        self.is_stored = True
        """Whether frames are a column of their own; else the observation is the frame."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._stack: FrameStack | None = None
        self._num_checked = 0
        self._age: NDArray[np.int64] = np.zeros(self._builder.num_envs, dtype=np.int64)
        self._full: NDArray[Any] = np.empty((0, 0))
        self._frame: NDArray[Any] = np.empty((0, 0))

    @property
    def rule(self) -> HistoryRule:
        """How frames make observations; known with the first step."""
        assert self._rule is not None
        return self._rule

    def resumed(self, recording: Recording) -> None:
        """Go on with a recording of the same rule."""
        self._rule = recording.history
        self.is_stored = recording.number_of(_ARGUMENT) is not None

    def rows(
        self,
        given: dict[str, Any],
        widths: dict[str, int],
        columns: list[RecordedColumn] | None,
        num_envs: int | None,
        float_dtype: str | None,
    ) -> Rows:
        """Return a step's rows as `checked_rows` does, with frames in the place of the student's observations."""
        full = as_rows(_ARGUMENT, given[_ARGUMENT], self._builder.total_dim, float_dtype)
        if len(full) != self._builder.num_envs:
            raise SchemaError(f"{_ARGUMENT}: expected {self._builder.num_envs} envs, found {len(full)}")
        self._follow_builder()
        frame = self._frame_of(full, float_dtype)
        asks = columns is None or self.is_stored
        given = {**given, _ARGUMENT: frame if asks else None}
        rows = checked_rows(given, {**widths, _ARGUMENT: self.rule.frame_width}, columns, num_envs, float_dtype)
        observation = next(iter(rows.values()))
        if columns is None:
            self.is_stored = _first_difference(frame, observation) is not None
            as_frame = {column: replace(column, key=FRAME_KEY) for column in rows if column.argument == _ARGUMENT}
            if self.is_stored:
                rows = {as_frame.get(column, column): values for column, values in rows.items()}
            else:
                rows = {column: values for column, values in rows.items() if column not in as_frame}
        self._full, self._frame = full, frame
        return rows

    def check(self, rows: Rows, mask: NDArray[np.uint8], step: int) -> None:
        """Raise `SchemaError` naming env, step and term where a valid row is not what the rule makes of frames."""
        is_data, begins = mask == DATA, self._age == 0
        if not self.is_stored:
            found = _first_difference(self._frame, next(iter(rows.values())), is_data)
            told = "the observation's own numbers, as in the first step; without student_builder both are stored"
            self._refuse(found, self.rule.frame_width, step, told)
        if self._num_checked < 2 * self.rule.length:
            if self._stack is None:
                self._stack = FrameStack(self.rule)
            expected = self._stack.observation(self._frame, begins)
            found = _first_difference(self._full, expected, is_data)
            self._refuse(found, expected.shape[1], step, "what follows from the frames of the episode so far")
            return
        envs = np.flatnonzero(begins & is_data)
        if len(envs):
            all_begin = np.ones(len(envs), dtype=bool)
            expected = FrameStack(self.rule).observation(self._frame[envs], all_begin)
            difference = _first_difference(self._full[envs], expected)
            found = None if difference is None else (int(envs[difference[0]]), difference[1])
            self._refuse(found, expected.shape[1], step, "a history that begins with the episode: call reset_history")

    def recorded(self, mask: NDArray[np.uint8]) -> None:
        """Be told that the step was recorded."""
        if self._stack is not None:
            self._stack.keep(self._frame, self._age == 0)
            self._num_checked += 1
            if self._num_checked == 2 * self.rule.length:
                self._stack = None
        self._age = np.where(mask == DATA, self._age + 1, 0)
        over = (mask != DATA) | (self._age == self._longest)
        if over.any():
            self._age[over] = 0
            self._builder.forget_later(over)

    def ended(self, envs: NDArray[np.int64]) -> None:
        """Be told that the episodes of these envs ended."""
        self._age[envs] = 0

    def final_frames(self, given: Any, observations: Any, float_dtype: str | None) -> Any:
        """Return the frames of what students saw last, `[N or M, frame_width]`; None where they are not stored."""
        if given is None:
            return None
        full = as_rows(f"final_{_ARGUMENT}", given, self._builder.total_dim, float_dtype)
        frame = self._frame_of(full, float_dtype)
        if self.is_stored:
            return frame
        last = as_rows("final_observations", observations, self.rule.frame_width, float_dtype)
        if self.rule.lag == 0 and _first_difference(frame, last) is not None:
            raise SchemaError(f"final_{_ARGUMENT}: the newest frame was the observation so far, and is another one now")
        return None

    def cleared(self) -> None:
        """Be told that everything was dropped."""
        self._rule, self.is_stored = None, True
        self._begin_anew()
        self._builder.forget_later(np.ones(self._builder.num_envs, dtype=bool))

    def _follow_builder(self) -> None:
        lag = self._builder.lag
        if lag is None:
            raise SchemaError(f"{_ARGUMENT}: student_builder was not asked for an observation yet")
        if self._rule is None:
            self._rule = HistoryRule.of(self._builder, lag)
        elif lag != self._rule.lag:
            raise SchemaError(f"{_ARGUMENT}: the newest frame was {self._rule.lag} steps old so far, now it is {lag}")

    def _frame_of(self, full: NDArray[Any], float_dtype: str | None) -> NDArray[Any]:
        if self.rule.lag == 0:
            return self.rule.newest(full)
        return as_rows(_ARGUMENT, self._builder.latest_frame, self.rule.frame_width, float_dtype)

    def _refuse(self, found: tuple[int, int] | None, width: int, step: int, expected: str) -> None:
        """Name an env and a number among `width` ones, where one was found that is not what was expected."""
        if found is None:
            return
        env, at = found
        # Of a frame, or of an observation, which is so many of them.
        frames = width // self.rule.frame_width
        ends = accumulate(term * frames for term in self.rule.widths)
        name = next(name for name, end in zip(self.rule.terms, ends, strict=True) if at < end)
        raise SchemaError(f"{_ARGUMENT}: env {env}, step {step}, term {name!r}: expected {expected}")


def _first_difference(
    found: NDArray[Any], expected: NDArray[Any], is_data: NDArray[np.bool_] | None = None
) -> tuple[int, int] | None:
    """Return row and column of the first number that differs in a row that is data; (0, 0) where shape or dtype do."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return 0, 0
    bits = np.dtype(f"u{found.dtype.itemsize}")
    # Bits: a NaN is itself, and 0.0 is not -0.0.
    differs = found.view(bits) != expected.view(bits)
    if is_data is not None:
        differs &= is_data[:, None]
    if not differs.any():
        return None
    row, column = np.argwhere(differs)[0]
    return int(row), int(column)
