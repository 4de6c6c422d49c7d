"""Which columns of a store the episodes of a recording become."""

from __future__ import annotations

from typing import Any

import numpy as np

from iltools_datasets.collection.histories import HistoryRule
from iltools_datasets.collection.rows import RecordedColumn

SIGMA = np.float32(0.01)
"""Where the policy gives no deviation."""

_FLAGS = ("terminated", "truncated", "done")


def layout_of(
    num_envs: int,
    columns: list[RecordedColumn],
    longest: int,
    *,
    knows_boundaries: bool,
    history: HistoryRule | None = None,
) -> dict[str, Any]:
    """Return what the native recorder needs to know: what a step holds, and what becomes of it.

    With `history`, students' observations are histories of their frames, or, where those are not recorded, of the
    observation.

    An episode of L rows is L transitions. Its last next state is what the env said, or else its last one once more, and
    `next_known` is False there. Where it is not known which episodes ended, observations belong to transitions and have
    no next.
    """
    stored = []
    for number, column in enumerate(columns):
        kind = "state" if column.is_state and knows_boundaries else "transition"
        stored.append(_column((column.key,), kind, column.dtype, column.width, {"journal": number}))
    recorded = {column.argument: column for column in columns}
    action = recorded["actions"]
    if "action_sigma" not in recorded:
        row = np.full(action.width, SIGMA).tobytes()
        stored.append(_column(("action_sigma",), "transition", "float32", action.width, {"repeat": list(row)}))
    stored.append(_column(("env_id",), "transition", "int64", 1, "env_id"))
    if knows_boundaries:
        stored.append(_column(("next_known",), "transition", "bool", 1, "next_known"))
    for flag in _FLAGS:
        source: Any = flag if knows_boundaries else {"repeat": [0]}
        stored.append(_column(("next", flag), "transition", "bool", 1, source))
    views = [_alias((flag,), ("next", flag), 1) for flag in _FLAGS[:2]]
    if "action_mean" not in recorded:
        views.append(_alias(("action_mean",), (action.key,), action.width))
    source = recorded.get("student_observations", recorded["observations"])
    return {
        "num_envs": num_envs,
        "row_bytes": [column.row_bytes for column in columns],
        "num_states": sum(column.is_state for column in columns),
        "longest": longest,
        "columns": stored,
        "views": views,
        "histories": [] if history is None else history.entries(source.key),
    }


def _column(key: tuple[str, ...], kind: str, dtype: str, width: int, source: Any) -> dict[str, Any]:
    return {"key": key, "kind": kind, "dtype": dtype, "shape": [width], "source": source}


def _alias(key: tuple[str, ...], source: tuple[str, ...], width: int) -> dict[str, Any]:
    return {"key": key, "source": source, "offset": 0, "shape": [width]}
