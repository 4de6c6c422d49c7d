"""Where a picture goes, checked before it is drawn; needs the extra `view`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase

from iltools_datasets._base.local_path import local_path
from iltools_datasets.errors import ArgumentError

_DEFAULT = ".png"


def checked_picture(path: Path) -> Path:
    """Return the file that will be written: without an ending it is a png.

    Raises ArgumentError for a URL, and for an ending that is no picture's, with those there are.
    """
    path = local_path(path)
    ending = path.suffix.lower().removeprefix(".")
    if not ending:
        return path.with_name(path.name.rstrip(".") + _DEFAULT)
    if ending not in FigureCanvasBase.filetypes:
        raise ArgumentError(f"{path}: no picture ends in .{ending}; there are {', '.join(FigureCanvasBase.filetypes)}")
    return path
