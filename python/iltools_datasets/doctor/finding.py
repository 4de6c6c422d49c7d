"""One thing that is wrong with one clip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at.

    Attributes:
        check: which check found it: "value", "length", "quaternion", "orientation", "velocity", "rate", "repeat",
            "jump", "names", "width"; of a LeRobot set also "rows", "time", "task", "picture", "statistics".
        clip: path of the trajectory in the archive, or name of the episode; of what concerns a whole set, its path.
        key: the array, or None where it is about the clip as a whole.
        frame: the state at which it is seen best, from 0, or None where there is no such frame.
        message: what was found, and what was expected.
    """

    check: str
    clip: str
    key: str | None
    frame: int | None
    message: str
