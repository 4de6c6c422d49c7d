"""`iltools view --3d`: bodies of clips in space, as a page or as a recording of rerun."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from rich.text import Text

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.files import replaced_file
from iltools_datasets.cli.bodies import Bodies, bodies_of
from iltools_datasets.cli.html_page import checked_file
from iltools_datasets.cli.looked_at import Opened
from iltools_datasets.cli.motion_page import motion_page
from iltools_datasets.cli.output import err, heading, human_bytes, out, print_json


def checked_place(place: Path) -> Path:
    """Return the file that will be written; ArgumentError for what is neither a page nor a recording."""
    return checked_file(place, (".html", ".htm", ".rrd"))


def show_in_space(opened: Opened, positions: Sequence[int], place: Path, model: Path | None, as_json: bool) -> None:
    """Write bodies of clips, and what hangs together, to a file, whole or not at all, and say what was written."""
    shown = [bodies_of(opened, position, model) for position in positions]
    title = PurePath(str(opened.path)).name or str(opened.path)
    content = _recording(shown, title) if place.suffix.lower() == ".rrd" else motion_page(shown, title)
    with replaced_file(place) as file:
        file.write(content)
    if as_json:
        print_json({"path": str(opened.path), "clips": [_document(bodies) for bodies in shown], "picture": str(place)})
        return
    for note in dict.fromkeys(note for bodies in shown for note in bodies.notes):
        err().print(Text(note, style="warn"), soft_wrap=True)
    named = ", ".join(bodies.clip.path for bodies in shown)
    out().print(heading(place, f"{named}, {len(shown[0].names)} bodies, {human_bytes(len(content))}"), soft_wrap=True)


def _recording(shown: Sequence[Bodies], title: str) -> bytes:
    try:
        from iltools_datasets.cli.motion_rrd import recording_of
    except ModuleNotFoundError as error:
        raise missing_extra("viz", "a recording of rerun (.rrd)") from error
    return recording_of(shown, title)


def _document(bodies: Bodies) -> dict[str, Any]:
    return {
        "clip": bodies.clip.path,
        "num_states": len(bodies.positions),
        "bodies": bodies.names,
        "links": [[bodies.names[body] for body in link] for link in bodies.links],
        "notes": bodies.notes,
    }
