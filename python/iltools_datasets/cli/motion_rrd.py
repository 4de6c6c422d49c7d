"""Bodies as a recording of rerun; needs the extra `viz`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from iltools_datasets.cli.bodies import Bodies

_RADIUS_M = 0.02
_COLOURS = ((31, 119, 180), (224, 123, 0), (42, 157, 74), (209, 73, 91), (138, 99, 210), (140, 109, 79))


def recording_of(shown: Sequence[Bodies], title: str) -> bytes:
    """Return what is written to an `.rrd`: the bodies of each clip as points, links as lines, over time in seconds.

    A clip is an entity of its name; clips without a rate are over their states, the timeline `state`.
    """
    recording = rr.RecordingStream("iltools")
    recording.send_recording_name(title)
    stream = recording.binary_stream()
    recording.send_blueprint(rrb.Blueprint(rrb.Spatial3DView(origin="/", name=title), collapse_panels=True))
    recording.log("/", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    for number, bodies in enumerate(shown):
        states, count = bodies.positions.shape[:2]
        place = rr.new_entity_path(["clips", bodies.clip.path])
        colour = _COLOURS[number % len(_COLOURS)]
        fps = bodies.clip.fps
        steps = np.arange(states)
        index = rr.TimeColumn("time", duration=steps / fps) if fps else rr.TimeColumn("state", sequence=steps)
        look = {"colors": colour, "radii": _RADIUS_M}
        recording.log(place, rr.Points3D.from_fields(labels=bodies.names, show_labels=False, **look), static=True)
        points = rr.Points3D.columns(positions=bodies.positions.reshape(-1, 3)).partition([count] * states)
        recording.send_columns(place, indexes=[index], columns=points)
        if bodies.links:
            ends = bodies.positions[:, np.array(bodies.links)]
            strips = rr.LineStrips3D.columns(strips=ends.reshape(-1, 2, 3)).partition([len(bodies.links)] * states)
            lines = f"{place}/links"
            recording.log(lines, rr.LineStrips3D.from_fields(colors=colour, radii=_RADIUS_M / 3), static=True)
            recording.send_columns(lines, indexes=[index], columns=strips)
        for note in bodies.notes:
            recording.log(f"{place}/notes", rr.TextLog(note), static=True)
    content = stream.read()
    assert content is not None
    return bytes(content)
