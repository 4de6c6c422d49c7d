"""Curves drawn in a terminal with braille dots, two by four to a character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

_DOT_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BLANK = 0x2800


@dataclass(frozen=True, slots=True)
class Curve:
    """Values [T], drawn in a rich style; `dotted` tells two curves apart where there is no colour."""

    values: NDArray[Any]
    style: str = ""
    dotted: bool = False


def draw_curves(curves: Sequence[Curve], width: int, height: int) -> list[Text]:
    """Return `height` lines of `width` characters with all curves on common axes, the first one on top.

    Values that are not finite leave a gap. A flat line is drawn in the middle.
    """
    low, high = value_range([curve.values for curve in curves])
    cells = np.full((height, width), _BLANK)
    owner = np.full((height, width), -1)
    for number, curve in reversed(list(enumerate(curves))):
        dots = _rasterise(curve.values, low, high, width * 2, height * 4)
        if curve.dotted:
            dots[:, np.arange(width * 2) % 4 >= 2] = False
        bits = (dots.reshape(height, 4, width, 2) * _DOT_BITS[None, :, None, :]).sum(axis=(1, 3))
        owner[bits > 0] = number
        cells |= bits
    lines = []
    for row, owners in zip(cells, owner, strict=True):
        line = Text()
        for cell, number in zip(row, owners, strict=True):
            line.append(chr(cell), style=curves[number].style if number >= 0 else "")
        lines.append(line)
    return lines


def draw_with_scale(curves: Sequence[Curve], width: int, height: int, unit: str = "") -> list[Text]:
    """Return the lines of `draw_curves`, `width` characters wide with the largest and the least value at the left."""
    low, high = value_range([curve.values for curve in curves])
    labels = [f"{high:.3g}{unit}", *[""] * (height - 2), f"{low:.3g}{unit}"][:height]
    margin = max(map(len, labels)) + 1
    lines = draw_curves(curves, max(1, width - margin), height)
    return [
        Text.assemble((label.rjust(margin - 1) + " ", "dim"), line) for label, line in zip(labels, lines, strict=True)
    ]


def value_range(arrays: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Return the smallest and largest finite value of all arrays; (0, 0) if there is none."""
    finite = [array[np.isfinite(array)] for array in arrays]
    present = [array for array in finite if array.size]
    if not present:
        return 0.0, 0.0
    return float(min(array.min() for array in present)), float(max(array.max() for array in present))


def _rasterise(values: NDArray[Any], low: float, high: float, columns: int, rows: int) -> NDArray[np.bool_]:
    """Set the dots [rows, columns] between the least and the greatest value that falls on each column."""
    dots = np.zeros((rows, columns), dtype=bool)
    if not len(values):
        return dots
    if len(values) == 1:
        values = np.repeat(values, 2)
    # Every value, and at least one sample per column, so that a short curve is a line, not loose dots.
    last = len(values) - 1
    position = np.union1d(np.arange(len(values)), np.linspace(0, last, columns))
    samples = np.interp(position, np.arange(len(values)), values.astype(np.float64))
    scale = (rows - 1) / (high - low) if high > low else 0.0
    middle = 0 if high > low else (rows - 1) / 2
    level = rows - 1 - np.rint((samples - low) * scale + middle)
    column = np.rint(position * ((columns - 1) / last)).astype(int)
    previous: float | None = None
    for x in range(columns):
        here = level[(column == x) & np.isfinite(level)]
        if not here.size:
            previous = None
            continue
        top, bottom = here.min(), here.max()
        if previous is not None:
            top, bottom = (
                min(top, previous + 1 if previous < top else top),
                max(bottom, previous - 1 if previous > bottom else bottom),
            )
        dots[int(top) : int(bottom) + 1, x] = True
        previous = float(here[-1])
    return dots
