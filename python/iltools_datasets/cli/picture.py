"""A picture of one clip for a file; needs the extra `view`."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from iltools_datasets.cli.curves import value_range

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
    axes.grid(alpha=0.25)
