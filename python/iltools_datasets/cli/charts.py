"""Small charts as SVG elements, for a page that is one file. Colours are the page's (`page.css`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.cli.html_page import Node, element

_FONT = 11
_MOST_POINTS = 160
"""Points of a curve: of more, the least and the greatest of each stretch are kept."""


def histogram(values: NDArray[Any], unit: str, width: int = 560, height: int = 180) -> Node:
    """Return how many values [n] there are of each size; counts are whole numbers, the axis is in `unit`."""
    bins = min(40, max(1, len(np.unique(values))))
    counts, edges = np.histogram(values, bins=bins)
    left, bottom, top = 48, height - 34, 8
    right = width - 12
    scale = (bottom - top) / max(1, int(counts.max()))
    svg = _svg(width, height, f"how many clips there are of each length ({unit})")
    for tick in _whole_ticks(int(counts.max())):
        y = bottom - tick * scale
        svg.append(_line(left, y, right, y, "grid"))
        svg.append(_text(left - 6, y + 4, f"{tick:,}", "end"))
    step = (right - left) / len(counts)
    for number, count in enumerate(counts.tolist()):
        bar = element(
            "rect",
            element("title", f"{edges[number]:.4g} to {edges[number + 1]:.4g} {unit}: {count:,}"),
            x=f"{left + number * step:.1f}",
            y=f"{bottom - count * scale:.1f}",
            width=f"{max(1.0, step - 1):.1f}",
            height=f"{count * scale:.1f}",
            class_="bar",
        )
        svg.append(bar)
    _time_axis(svg, (left, right, bottom), (float(edges[0]), float(edges[-1])), unit)
    svg.append(_text(4, top + 4, "clips", "start"))
    return svg


def curves(columns: NDArray[Any], last: float, unit: str, width: int = 260, height: int = 110) -> Node:
    """Return curves of columns [T, C], each in its own range, over an axis from 0 to `last`; NaN leaves a gap."""
    left, right, top, bottom = 6, width - 6, 4, height - 30
    svg = _svg(width, height, f"{columns.shape[1]} columns over time ({unit})")
    for number, column in enumerate(columns.T.astype(np.float64)):
        position, values = _thinned(column)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
        # Halves first: the range of the largest numbers is none of theirs.
        level = (
            (values / 2 - low / 2) / (high / 2 - low / 2) if high > low else np.where(np.isfinite(values), 0.5, np.nan)
        )
        x = left + position * ((right - left) / max(1, len(column) - 1))
        svg.append(_way(x, bottom - level * (bottom - top), f"c{number % 6}"))
    _time_axis(svg, (left, right, bottom), (0.0, last), unit)
    return svg


def way_from_above(root: NDArray[Any], width: int = 110, height: int = 110) -> Node:
    """Return a root's path [T, 2] from above, metres, both axes to one scale, with a dot where it starts."""
    svg = _svg(width, height, "the root's path from above (m)")
    points = root[np.isfinite(root).all(axis=1)].astype(np.float64)
    if not len(points):
        return svg
    points = points[np.unique(np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(int))]
    low, high = points.min(axis=0), points.max(axis=0)
    size, drawn = max(float((high - low).max()), 1e-9), min(width, height - 20) - 12
    x = 6 + (points[:, 0] - low[0]) / size * drawn
    y = 6 + drawn - (points[:, 1] - low[1]) / size * drawn
    svg.append(_way(x, y, "c0"))
    svg.append(element("circle", cx=f"{x[0]:.1f}", cy=f"{y[0]:.1f}", r=3, class_="start"))
    svg.append(_text(6, height - 6, f"{size:.3g} m across", "start"))
    return svg


def heat(rows: Sequence[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]], what: str, width: int = 860) -> Node:
    """Return a row per clip, (name, begins [n], ends [n], values [n]), over seconds; darker is more, hollow is none."""
    left, right, pitch = 190, width - 16, 16
    bottom = 6 + pitch * len(rows)
    svg = _svg(width, bottom + 34, what)
    longest = max(float(ends.max()) for _, _, ends, _ in rows)
    greatest = max(float(values.max()) for *_, values in rows) or 1.0
    for number, (name, begins, ends, values) in enumerate(rows):
        y = 6 + pitch * number
        label = name if len(name) <= 28 else f"…{name[-27:]}"
        svg.append(element("text", label, element("title", name), x=left - 8, y=y + 12, text_anchor="end"))
        for begin, end, value in zip(begins.tolist(), ends.tolist(), values.tolist(), strict=True):
            x, x_end = (left + at / longest * (right - left) for at in (begin, end))
            cell = element("rect", element("title", f"{begin:.2f} to {end:.2f} s: {value:.3g}"))
            cell.attrib |= {
                "x": f"{x:.1f}",
                "y": f"{y + 1}",
                "width": f"{max(0.5, x_end - x - 0.5):.1f}",
                "height": "14",
            }
            cell.attrib |= {"class": "bar", "fill-opacity": f"{0.15 + 0.85 * value / greatest:.2f}"}
            if value <= 0:
                cell.attrib |= {"class": "never"}
            svg.append(cell)
    _time_axis(svg, (left, right, bottom), (0.0, longest), "s")
    return svg


def _svg(width: int, height: int, label: str) -> Node:
    shape = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height), "role": "img"}
    svg = element("svg", aria_label=label, font_size=_FONT)
    svg.attrib |= shape
    return svg


def _line(x: float, y: float, x_end: float, y_end: float, kind: str) -> Node:
    return element("line", x1=f"{x:.1f}", y1=f"{y:.1f}", x2=f"{x_end:.1f}", y2=f"{y_end:.1f}", class_=kind)


def _text(x: float, y: float, text: str, anchor: str) -> Node:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _way(x: NDArray[Any], y: NDArray[Any], kind: str) -> Node:
    steps, pen_is_down = [], False
    for here, there in zip(x.tolist(), y.tolist(), strict=True):
        if there == there:
            steps.append(f"{'L' if pen_is_down else 'M'}{here:.1f} {there:.1f}")
        pen_is_down = there == there
    return element("path", d="".join(steps), class_=kind)


def _thinned(column: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return positions and values of a curve that looks like the whole one."""
    if len(column) <= _MOST_POINTS:
        return np.arange(len(column)), column
    kept: list[int] = []
    for part in np.array_split(np.arange(len(column)), _MOST_POINTS // 2):
        finite = part[np.isfinite(column[part])]
        kept += (
            sorted({int(finite[column[finite].argmin()]), int(finite[column[finite].argmax()])})
            if len(finite)
            else part[:1].tolist()
        )
    return np.array(kept), column[kept]


def _time_axis(svg: Node, place: tuple[float, float, float], span: tuple[float, float], unit: str) -> None:
    left, right, bottom = place
    svg.append(_line(left, bottom, right, bottom, "axis"))
    low, high = span
    for tick in _ticks(low, high, 4 if right - left < 300 else 8, whole=unit != "s"):
        x = left + (tick - low) / ((high - low) or 1.0) * (right - left)
        svg.append(_line(x, bottom, x, bottom + 4, "axis"))
        svg.append(_text(x, bottom + 15, f"{tick:,g}", "start" if x - left < 8 else "middle"))
    svg.append(_text(right, bottom + 28, unit, "end"))


def _ticks(low: float, high: float, most: int, whole: bool) -> list[float]:
    """Return round numbers from `low` to `high`, at most about so many; whole ones where a fraction means nothing."""
    if not high > low:
        return [low]
    step = 10.0 ** np.floor(np.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    step = max(1.0, step) if whole else step
    first = int(np.ceil(low / step - 1e-9))
    return [round(float(number * step), 10) for number in range(first, int(np.floor(high / step + 1e-9)) + 1)]


def _whole_ticks(most: int) -> list[int]:
    return [int(tick) for tick in _ticks(0, float(most), 5, whole=True)]
