"""Bodies as a page that plays them: one file, drawn by a script of its own, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.cli.bodies import Bodies
from iltools_datasets.cli.html_page import element, html_page

_SCRIPT = Path(__file__).with_name("motion_page.js")
_MOST_FRAMES = 6000
_LEVELS, _MISSING = 65534, 65535
_COLOURS = ("#1f77b4", "#e07b00", "#2a9d4a", "#d1495b", "#8a63d2", "#8c6d4f")
_SPEEDS = ("0.1", "0.25", "0.5", "1", "2", "4")


def motion_page(shown: Sequence[Bodies], title: str) -> bytes:
    """Return the page as HTML in UTF-8.

    Positions are kept in 65,534 steps of the largest side of a clip's box (0.2 mm where that is 10 m), two bytes each;
    of more than 6,000 frames every second, third, ... is kept, and the page says so.
    """
    clips, notes = [], []
    for number, bodies in enumerate(shown):
        clip, kept = _packed(bodies), _step(len(bodies.positions))
        clips.append({**clip, "colour": _COLOURS[number % len(_COLOURS)]})
        notes += [f"{bodies.clip.path}: {note}" for note in bodies.notes]
        notes += [f"{bodies.clip.path}: one of {kept} frames is shown"] if kept > 1 else []
    told = json.dumps({"clips": clips}, allow_nan=False).replace("<", "\\u003c")
    speeds = element("select", *(element("option", speed, value=speed) for speed in _SPEEDS), id="speed")
    speeds[_SPEEDS.index("1")].set("selected", "")
    legend = element("p", class_="legend")
    for clip in clips:
        legend.append(element("span", "● ", element("span", clip["name"]), style=f"color: {clip['colour']}"))
    return html_page(
        title,
        element("h1", title),
        legend,
        element("canvas", id="view", aria_label="bodies of the clips, over time"),
        element(
            "p",
            element("button", "Pause", id="play"),
            element("input", id="time", type="range", min="0", step="any", value="0"),
            element("output", "", id="shown"),
            element("label", "speed ", speeds),
            element("label", element("input", id="follow", type="checkbox", checked=""), " follow"),
            element("label", element("input", id="names", type="checkbox"), " names"),
            class_="controls",
        ),
        element("p", "", id="hint", class_="dim"),
        element(
            "p", "Drag to turn, with shift to move, wheel to come closer; a square of the ground is 1 m.", class_="dim"
        ),
        element("ul", *(element("li", note, class_="dim") for note in notes)),
        element("script", told, id="motion", type="application/json"),
        element("script", _SCRIPT.read_text(encoding="utf-8")),
        with_script=True,
    )


def _step(frames: int) -> int:
    return -(-frames // _MOST_FRAMES)


def _packed(bodies: Bodies) -> dict[str, Any]:
    """Return a clip as the page's script reads it."""
    step = _step(len(bodies.positions))
    positions = bodies.positions[::step].astype(np.float64)
    known = np.isfinite(positions).all(axis=2)
    inside = positions[known]
    low = inside.min(axis=0) if len(inside) else np.zeros(3)
    scale = (float((inside.max(axis=0) - low).max()) if len(inside) else 0.0) / _LEVELS or 1.0
    levels: NDArray[Any] = np.full(positions.shape, _MISSING, dtype="<u2")
    levels[known] = np.rint((inside - low) / scale)
    return {
        "name": bodies.clip.path,
        "fps": bodies.clip.fps,
        "names": bodies.names,
        "links": bodies.links,
        "frames": len(positions),
        "step": step,
        "low": low.tolist(),
        "scale": scale,
        "data": base64.b64encode(levels.tobytes()).decode(),
    }
