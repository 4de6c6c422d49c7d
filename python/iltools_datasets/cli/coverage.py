"""What a sampler saw of a store, in the terminal and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from iltools_datasets.cli.opened import is_store
from iltools_datasets.cli.output import facts, heading
from iltools_datasets.errors import SourceError
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.tracking.coverage import Coverage
from iltools_datasets.tracking.saved_coverage import saved_coverage

_SHADES = " ▁▂▃▄▅▆▇█"
_NAME_WIDTH = 24


def read_coverage(path: str, state: Path) -> Coverage:
    """Return what a saved state says of the store at a path; SourceError where there is no store."""
    if not is_store(path):
        raise SourceError(f"{path}: expected a store, whose coverage {state} is to be")
    return saved_coverage(state, TrajectoryStore.open(path))


def coverage_document(path: str, state: Path, coverage: Coverage) -> dict[str, Any]:
    """Return everything that there is to say, for programs."""
    never = {what: coverage.never(what) for what in ("started", "visited", "completed")}
    return {
        "path": path,
        "state": str(state),
        "metrics": coverage.metrics(),
        "clips": coverage.clip_names,
        "left_out": dict(coverage.left_out),
        "never": {what: {"clips": clips, "bins": bins.tolist()} for what, (clips, bins) in never.items()},
        "bins": {
            "clip": coverage.bin_clip.tolist(),
            "begin": coverage.bin_begin.tolist(),
            "end": coverage.bin_end.tolist(),
            "visits": coverage.visits.tolist(),
            "failures": coverage.failures.tolist(),
            "starts": coverage.starts.tolist(),
            "completions": coverage.completions.tolist(),
            "probabilities": coverage.probabilities.tolist(),
        },
    }


def print_facts(path: str, state: Path, coverage: Coverage, console: Console) -> None:
    """Say what was seen, and what never was."""
    console.print(heading(path, f"coverage of {state.name}"), soft_wrap=True)
    console.print(facts(*coverage.facts()))


def draw_clips(coverage: Coverage, console: Console, most: int) -> None:
    """Draw a row per clip, a character per bin: how much each was visited, and how likely it is started next."""
    width = max(8, min(100, console.width) - _NAME_WIDTH - 10)
    passes = coverage.passes
    likely = coverage.probabilities
    shown = list(dict.fromkeys(coverage.bin_clip.tolist()))
    console.print(Text("a column per bin; above: passes, below: how likely the next start is", style="dim"))
    for clip in shown[: most or len(shown)]:
        own = coverage.bin_clip == clip
        name = coverage.clip_names[clip]
        label = name if len(name) <= _NAME_WIDTH else f"…{name[1 - _NAME_WIDTH :]}"
        for title, values, all_ in ((label, passes[own], passes), ("", likely[own], likely)):
            row = _shaded(values, float(all_.max()), width)
            console.print(Text.assemble((f"{title:<{_NAME_WIDTH}} ", "dim"), (row, "number" if title else "good")))
    if most and len(shown) > most:
        console.print(Text(f"and {len(shown) - most} clips more; --most 0 draws them", style="dim"))


def _shaded(values: NDArray[Any], greatest: float, width: int) -> str:
    """Return a character per bin, or per so many bins that the row fits; nothing at all stays blank."""
    parts = np.array_split(values.astype(np.float64), min(width, len(values)))
    levels = [float(part.mean()) / greatest if greatest > 0 else 0.0 for part in parts]
    return "".join(_SHADES[0 if level <= 0 else max(1, round(level * (len(_SHADES) - 1)))] for level in levels)
