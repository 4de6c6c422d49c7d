"""Several clips on common axes: which they are, and how they look in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from iltools_datasets.cli.curves import Curve, draw_with_scale, value_range
from iltools_datasets.cli.looked_at import Opened
from iltools_datasets.cli.opened import find_clip
from iltools_datasets.cli.output import heading
from iltools_datasets.cli.scene import Scene, scene_of
from iltools_datasets.errors import ArgumentError, SchemaError, UnknownSegmentError

_STYLES = ("number", "warn", "good", "bad", "head", "dim")
_HEIGHT = 4


def chosen_clips(opened: Opened, wanted: str) -> list[int]:
    """Return the positions of clips named with commas between them; a name that has commas itself counts whole.

    Raises UnknownSegmentError for one that is not there, ArgumentError where one is named twice.
    """
    try:
        return [find_clip(opened, wanted)]
    except UnknownSegmentError:
        names = [name.strip() for name in wanted.split(",")]
        if len(names) < 2:
            raise
    positions = [find_clip(opened, name) for name in names]
    if len(set(positions)) < len(positions):
        raise ArgumentError(f"{opened.path}: clips {wanted!r} name one twice")
    return positions


def scenes_of(opened: Opened, positions: Sequence[int], key: str | None) -> list[Scene]:
    """Return the same array of each clip; SchemaError where they have not the same columns."""
    scenes = [scene_of(opened, position, key) for position in positions]
    for scene in scenes[1:]:
        if len(scene.names) != len(scenes[0].names):
            raise SchemaError(
                f"{opened.path}: {scene.clip.path} has {len(scene.names)} columns of {scene.key!r}, "
                f"{scenes[0].clip.path} has {len(scenes[0].names)}"
            )
    return scenes


def times_of(scenes: Sequence[Scene]) -> tuple[list[NDArray[np.float64]], str]:
    """Return when each state of each clip is: in seconds, or in states where a clip does not say its rate."""
    rates = [scene.clip.fps for scene in scenes]
    in_seconds = None not in rates
    times = [
        np.arange(len(scene.values)) / (rate if in_seconds and rate else 1.0)
        for scene, rate in zip(scenes, rates, strict=True)
    ]
    return times, "s" if in_seconds else "states"


def moving_most(scenes: Sequence[Scene], most: int) -> list[int]:
    """Return the columns, in their order, whose values lie furthest apart over all clips."""
    ranges = [value_range([scene.values[:, column] for scene in scenes]) for column in range(len(scenes[0].names))]
    with np.errstate(over="ignore"):
        apart = np.array([high - low for low, high in ranges])
    return sorted(np.argsort(-apart, kind="stable")[: most or len(apart)].tolist())


def draw_overlay(scenes: Sequence[Scene], console: Console, most: int) -> None:
    """Draw the columns that move most, each with a curve per clip over one axis of time."""
    times, unit = times_of(scenes)
    last = max(float(time[-1]) for time in times)
    span = f"0 to {last:.2f} s" if unit == "s" else f"state 0 to {last:.0f}"
    console.print(heading(scenes[0].path, f"{scenes[0].key}, {span}"), soft_wrap=True)
    for number, scene in enumerate(scenes):
        mark = "┅" if number % 2 else "━"
        said = f" {scene.clip.path}, {scene.clip.num_states} states"
        console.print(Text.assemble((mark * 3, _STYLES[number % len(_STYLES)]), said), soft_wrap=True)
    width = max(20, min(78, console.width - 2))
    steps = np.linspace(0, last, max(len(time) for time in times) if last else 1)
    shown = moving_most(scenes, most)
    for column in shown:
        console.print(Text(scenes[0].names[column], style="number"), soft_wrap=True)
        curves = [
            Curve(_at(steps, time, scene.values[:, column]), _STYLES[number % len(_STYLES)], dotted=number % 2 == 1)
            for number, (time, scene) in enumerate(zip(times, scenes, strict=True))
        ]
        for line in draw_with_scale(curves, width, _HEIGHT):
            console.print(line, soft_wrap=True)
    if len(shown) < len(scenes[0].names):
        left = len(scenes[0].names) - len(shown)
        console.print(Text(f"and {left} columns more, which move less; --most 0 draws them", style="dim"))


def _at(steps: NDArray[Any], time: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
    """Return values at other times; NaN, a gap, once the clip is over."""
    between: NDArray[np.float64] = np.interp(steps, time, values.astype(np.float64), right=np.nan)
    return between
