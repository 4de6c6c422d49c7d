"""What files leave unsaid and whoever exports them can say: a rate, an order of quaternions, names, keys to skip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.description import QuaternionOrder
from iltools_datasets.motion.orders import ORDERS, Evidence, other_order
from iltools_datasets.motion.rotations import as_wxyz
from iltools_datasets.sources.formats.npz import Npz
from iltools_datasets.sources.protocol import Source

Names = str | Sequence[str]

_NORM_TOLERANCE = 1e-2


class ToldSource(Source):
    """A source of files that may not say all there is to know.

    Args:
        path: a file or a directory of files.
        motion: one name for all files; by default each file is a motion of its own.
        fps: states per second. It counts before what a file says, and a note says so where the two differ.
        quaternion_order: the order in the files, "wxyz" or "xyzw", or "auto": of each file the one that the motion
            shows. Without it a format's usual order is taken, and a file whose motion speaks against it is refused.
        joint_names, body_names: a list, or names joined by commas.
        skip: arrays of the files to leave out, a list, or names joined by commas. They are not read, so what is wrong
            with them does not matter.

    Raises SourceError for a value that cannot be one.
    """

    usual_order: QuaternionOrder = "wxyz"

    def __init__(
        self,
        path: Path | str,
        *,
        motion: str | None = None,
        fps: float | None = None,
        quaternion_order: Literal["wxyz", "xyzw", "auto"] | None = None,
        joint_names: Names | None = None,
        body_names: Names | None = None,
        skip: Names = (),
    ) -> None:
        super().__init__(path, motion=motion)
        self.fps = None if fps is None else checked_rate("fps", fps)
        if quaternion_order not in (None, "auto", *ORDERS):
            raise SourceError(
                f"option quaternion_order: expected 'wxyz' (scalar first), 'xyzw' or 'auto', found {quaternion_order!r}"
            )
        self.quaternion_order = quaternion_order
        self.joint_names = None if joint_names is None else checked_names("joint_names", joint_names)
        self.body_names = None if body_names is None else checked_names("body_names", body_names)
        self.skip = frozenset(checked_names("skip", skip))

    def rate(self, path: Path, stated: float | None) -> float | None:
        """Return the rate that counts: what was told, else what the file states."""
        if self.fps is not None and stated is not None and abs(stated / self.fps - 1) > 1e-6:
            self.about(path, f"says {stated:g} states per second; {self.fps:g} was told and counts")
        return stated if self.fps is None else self.fps

    def rate_of(self, path: Path, stated: Callable[[], float | None]) -> float | None:
        """Return the rate that counts; what was told makes up for a statement that is no rate."""
        try:
            found = stated()
        except SourceError as error:
            if self.fps is None:
                raise SourceError(f"{error}; pass fps=30, or whatever it is") from error
            found = None
        return self.rate(path, found)

    def rate_in(self, npz: Npz) -> float | None:
        """Return the rate that counts for an `.npz`."""
        return self.rate_of(npz.path, npz.stated_rate)

    def needed_rate(self, path: Path, rate: float | None, why: str = "the file does not say its rate") -> float:
        """Return a rate that counts; SourceError with what to say if there is none."""
        if rate is None:
            raise SourceError(f"{path}: {why}; pass fps=30, or whatever it is")
        return rate

    def names(
        self, path: Path, what: Literal["joint_names", "body_names"], stated: list[str] | None
    ) -> list[str] | None:
        """Return the names that count: those that were told, else those that the file states."""
        told = getattr(self, what)
        if told is not None and stated is not None and list(told) != list(stated):
            self.about(path, f"has other {what}; those that were told count")
        return stated if told is None else list(told)

    def all_names(
        self, path: Path, joints: list[str] | None = None, bodies: list[str] | None = None
    ) -> dict[str, list[str]]:
        """Return the names that count, as far as there are any, as attributes."""
        found = {
            "joint_names": self.names(path, "joint_names", joints),
            "body_names": self.names(path, "body_names", bodies),
        }
        return {what: names for what, names in found.items() if names is not None}

    def order(self, path: Path, evidence: Evidence, stated: QuaternionOrder | None = None) -> QuaternionOrder:
        """Return the order of a file's quaternions, wherever they are in it.

        `stated` is what the file itself says. Raises SourceError where nobody says it and the motion speaks against
        the usual order.
        """
        if self.quaternion_order == "auto":
            found = evidence.best(stated or self.usual_order)
            if found != (stated or self.usual_order):
                self.about(path, f"quaternions taken for {found}: {evidence.against(other_order(found))}")
            return found
        if None not in (self.quaternion_order, stated) and self.quaternion_order != stated:
            self.about(path, f"says that quaternions are {stated}; {self.quaternion_order} was told and counts")
        told = self.quaternion_order or stated
        against = evidence.against(told or self.usual_order)
        if told is None and against is not None:
            other = other_order(self.usual_order)
            raise SourceError(
                f"{path}: the order of its quaternions is in doubt: {against}; pass quaternion_order={other}, or "
                f"quaternion_order={self.usual_order} if it is right as it is"
            )
        if against is not None:
            self.about(path, f"quaternions taken for {told} as was said, although {against}")
        return told or self.usual_order

    def leave_out(self, path: Path, keys: Iterable[str], why: str = "") -> None:
        """Say that arrays of a file were left out."""
        for key in keys:
            if key not in self.skip:
                self.about(path, f"left out {key!r}{why}")


def checked_rate(name: str, value: Any) -> float:
    """Return a number of states per second; SourceError unless it is positive and finite."""
    if isinstance(value, bool | str) or not isinstance(value, int | float | np.integer | np.floating):
        raise SourceError(f"option {name}: expected a positive number, found {value!r:.60}")
    if not (isfinite(value) and value > 0):
        raise SourceError(f"option {name}: expected a positive number, found {value}")
    return float(value)


def rate_in_file(where: str, name: str, value: Any) -> float:
    """Return a rate or period that a file states; SourceError, beginning with `where`, as `checked_rate`."""
    try:
        return checked_rate(name, value)
    except SourceError as error:
        raise SourceError(f"{where}{str(error).removeprefix('option ')}") from error


def checked_names(name: str, value: Any) -> list[str]:
    """Return a list of names, of which each is there once; a text is split at its commas."""
    entries = [entry.strip() for entry in value.split(",")] if isinstance(value, str) else value
    if isinstance(entries, Mapping | bytes) or not isinstance(entries, Iterable):
        raise SourceError(f"option {name}: expected names joined by commas, or a list of them, found {value!r:.60}")
    entries = list(entries)
    if not all(isinstance(entry, str) and entry for entry in entries) or len(set(entries)) < len(entries):
        raise SourceError(f"option {name}: expected names, each once, found {value!r:.80}")
    return entries


def turned(array: NDArray[Any], columns: Sequence[int], order: QuaternionOrder) -> NDArray[Any]:
    """Return an array with the quaternions at these columns of its last axis brought from an order to wxyz."""
    if order == "wxyz":
        return array
    result = array.copy()
    for column in columns:
        place = (..., slice(column, column + 4))
        result[place] = as_wxyz(array[place], order)
    return result


def refuse_no_rotations(path: Path, what: str, quaternions: NDArray[Any]) -> None:
    """Raise SourceError, naming the row, unless quaternions `[T, ..., 4]` have length 1."""
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(quaternions.astype(np.float64), axis=-1).reshape(len(quaternions), -1)
    off = np.abs(norms - 1)
    if off.size and not off.max() <= _NORM_TOLERANCE:
        row = int(np.unravel_index(int(np.nan_to_num(off, nan=np.inf).argmax()), off.shape)[0])
        worst = norms[row][np.nan_to_num(off[row], nan=np.inf).argmax()]
        raise SourceError(f"{path}: row {row}: {what} should be a unit quaternion, their norm is {worst:.4f}")
