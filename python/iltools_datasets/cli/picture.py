"""A picture of one clip for a file; needs the extra `view`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from iltools_datasets.cli.curves import value_range
from iltools_datasets.cli.overlay import moving_most, times_of

if TYPE_CHECKING:
    from iltools_datasets.cli.scene import Scene

_MOST_LABELLED = 12
_MOST_CAMERAS = 4
_WIDTH = 11


def save_picture(scene: Scene, path: Path) -> None:
    """Write the clip's curves, its root's path, its cameras' pictures if it has any, and all clip lengths.

    The suffix picks the format.

    Raises OSError where the file cannot be written.
    """
    strips = list(scene.strips.items())[:_MOST_CAMERAS]
    curves = min(30, max(6.5, 0.14 * len(scene.names)))
    heights = [curves, *(_strip_height(pictures) for _, (_, pictures) in strips)]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    figure.suptitle(f"{scene.clip.path}  ({PurePath(scene.path).name})", fontsize=11)
    rows = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    for number, (camera, (seconds, pictures)) in enumerate(strips, start=1):
        _strip(figure, rows[number], camera, seconds, pictures)
    grid = rows[0].subgridspec(2, 3)
    _curves(figure.add_subplot(grid[:, :2]), scene)
    if scene.root is None:
        _lengths(figure.add_subplot(grid[:, 2]), scene)
    else:
        _root(figure.add_subplot(grid[0, 2]), scene)
        _lengths(figure.add_subplot(grid[1, 2]), scene)
    figure.savefig(path, dpi=140)


def _curves(axes: Any, scene: Scene) -> None:
    fps = scene.clip.fps
    time = np.arange(len(scene.values)) / (fps or 1.0)
    few = len(scene.names) <= _MOST_LABELLED
    if few:
        for name, column in zip(scene.names, scene.values.T, strict=True):
            axes.plot(time, column, linewidth=1.1, label=name)
        axes.legend(fontsize=8, ncols=2)
    else:
        _stack(axes, time, scene)
    axes.set_xlabel("time (s)" if fps else "state")
    _whole(axes.xaxis, not fps)
    axes.set_title(f"{scene.key}, {len(scene.names)} columns{'' if few else ', each in its own range'}", fontsize=10)
    axes.margins(x=0)
    axes.grid(alpha=0.25)


def _stack(axes: Any, time: NDArray[Any], scene: Scene) -> None:
    """Draw one curve above the other, each scaled to its own range: dozens on common axes cannot be told apart."""
    for row, column in enumerate(scene.values.T):
        low, high = value_range([column])
        scaled = (column - low) / (high - low) if high > low else np.full(len(column), 0.5)
        axes.plot(time, -row + 0.9 * (scaled - 0.5), linewidth=0.7)
    axes.set_yticks(-np.arange(len(scene.names)), scene.names, fontsize=6)
    axes.set_ylim(-len(scene.names) + 0.4, 0.6)


def _root(axes: Any, scene: Scene) -> None:
    assert scene.root is not None
    x, y = scene.root.T
    axes.plot(x, y, linewidth=1.2)
    axes.plot(x[:1], y[:1], "o", markersize=5, label="start")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("root path, from above (m)", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def _strip_height(pictures: NDArray[Any]) -> float:
    """Return the inches that a row of pictures [n, H, W, C] takes, with its title."""
    count, height, width = pictures.shape[:3]
    return float(min(4.0, _WIDTH / count * height / width)) + 0.5


def _strip(figure: Figure, place: Any, camera: str, seconds: NDArray[Any], pictures: NDArray[Any]) -> None:
    """Draw some pictures of a camera in a row, each under its time."""
    grid = place.subgridspec(1, len(pictures), wspace=0.02)
    for number, (time, picture) in enumerate(zip(seconds, pictures, strict=True)):
        axes = figure.add_subplot(grid[number])
        axes.imshow(picture if picture.shape[2] > 1 else picture[..., 0], cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{time:.1f} s", fontsize=8, loc="left")
        axes.set_axis_off()
        if number == 0:
            axes.text(0, -0.05, camera, transform=axes.transAxes, fontsize=8, va="top")


def _lengths(axes: Any, scene: Scene) -> None:
    axes.hist(scene.lengths, bins=min(40, max(5, len(scene.lengths) // 4)))
    axes.set_title(f"lengths of {len(scene.lengths):,} clips (states)", fontsize=10)
    axes.set_ylabel("clips")
    _whole(axes.xaxis, True)
    _whole(axes.yaxis, True)
    axes.grid(alpha=0.25)


def save_overlay(scenes: Sequence[Scene], path: Path) -> None:
    """Write the columns of several clips that move most, a panel each, over one axis of time, with the clips' names.

    Where the clips have roots, their paths from above come last. The suffix picks the format. Raises OSError where the
    file cannot be written.
    """
    times, unit = times_of(scenes)
    columns = moving_most(scenes, _MOST_LABELLED)
    has_roots = all(scene.root is not None for scene in scenes)
    across = min(3, len(columns))
    down = -(-(len(columns) + has_roots) // across)
    figure = Figure(figsize=(_WIDTH, 1.0 + 0.3 * len(scenes) + 2.2 * down), layout="constrained")
    grid = figure.add_gridspec(down, across)
    for place, column in enumerate(columns):
        axes = figure.add_subplot(grid[place // across, place % across])
        for time, scene in zip(times, scenes, strict=True):
            axes.plot(time, scene.values[:, column], linewidth=1.1, label=scene.clip.path)
        axes.set_title(scenes[0].names[column], fontsize=9)
        axes.set_xlabel("time (s)" if unit == "s" else "state", fontsize=8)
        _whole(axes.xaxis, unit != "s")
        axes.margins(x=0)
        axes.grid(alpha=0.25)
    figure.suptitle(f"{scenes[0].key}  ({PurePath(scenes[0].path).name})", fontsize=11)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", fontsize=8)
    if has_roots:
        axes = figure.add_subplot(grid[len(columns) // across, len(columns) % across])
        for scene in scenes:
            assert scene.root is not None
            axes.plot(*scene.root.T, linewidth=1.1)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title("root paths, from above (m)", fontsize=9)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=140)


def _whole(axis: Any, counts: bool) -> None:
    """Have an axis of counts name whole numbers alone."""
    if counts:
        axis.set_major_locator(MaxNLocator(integer=True, nbins="auto"))
