"""A picture of what a sampler saw of a store, for a file; needs the extra `view`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from iltools_datasets.tracking.coverage import Coverage

_MOST_NAMED = 40


def save_coverage_picture(coverage: Coverage, title: str, path: Path) -> None:
    """Write, a row per clip and a column per bin: passes, failures per pass, and how likely starts are.

    The suffix picks the format. Raises OSError where the file cannot be written.
    """
    shown = list(dict.fromkeys(coverage.bin_clip.tolist()))
    height = min(24.0, max(4.0, 1.6 + 0.16 * len(shown)))
    figure = Figure(figsize=(13, height), layout="constrained")
    said = "   ".join(f"{what}: {how}" for what, how in coverage.facts()[:4])
    figure.suptitle(f"{title}\n{said}", fontsize=10)
    passes = coverage.passes
    rate = np.divide(coverage.failures, passes, out=np.full(len(passes), np.nan), where=passes > 0)
    base = (coverage.bin_end - coverage.bin_begin) / (coverage.bin_end - coverage.bin_begin).sum()
    panels = (
        ("passes; grey: never", np.where(passes > 0, passes, np.nan), "viridis", passes.max() > 100),
        ("failures per pass; grey: never passed", rate, "magma_r", False),
        ("start probability ÷ share of time", coverage.probabilities / base, "cividis", False),
    )
    for number, (axes, (name, values, colours, spans)) in enumerate(zip(figure.subplots(1, 3), panels, strict=True)):
        grid = _grid(coverage, shown, values)
        low = np.nanmin(grid) if np.isfinite(grid).any() else 0.0
        scale = {"norm": LogNorm(max(low, 1e-3), None)} if spans else {"vmin": 0}
        image = axes.imshow(grid, aspect="auto", interpolation="nearest", cmap=colours, **scale)
        figure.colorbar(image, ax=axes, shrink=0.8)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(f"bin, of {np.median(coverage.bin_end - coverage.bin_begin):.2g} s")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_facecolor("#dddddd")
        _name_rows(axes, [coverage.clip_names[clip] for clip in shown], number == 0)
    figure.savefig(path, dpi=140)


def _grid(coverage: Coverage, shown: list[int], values: NDArray[Any]) -> NDArray[np.float64]:
    """Return values as [clips, most bins], NaN where a clip has no bin."""
    counts = np.bincount(coverage.bin_clip, minlength=len(coverage.clip_names))
    grid = np.full((len(shown), int(counts.max())), np.nan)
    first = np.searchsorted(coverage.bin_clip, coverage.bin_clip)
    grid[np.searchsorted(shown, coverage.bin_clip), np.arange(len(values)) - first] = values
    return np.ma.masked_invalid(grid)


def _name_rows(axes: Any, names: list[str], named: bool) -> None:
    if named and len(names) <= _MOST_NAMED:
        axes.set_yticks(range(len(names)), names, fontsize=7)
    elif named:
        axes.set_ylabel(f"{len(names):,} clips")
    else:
        axes.set_yticks([])
