"""Values of a LeRobot set's features at given frames: numbers, windows and pictures, in as few gathers as can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.aligned import aligned_empty
from iltools_datasets.lerobot.camera import Camera
from iltools_datasets.lerobot.reader import LeRobotReader
from iltools_datasets.store.keys import Key

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A feature's value at a frame, or at the one that follows it in its episode."""

    key: str
    follows: bool = False


DONE = Wanted("")
"""Whether a frame is the last one of its episode, bool [B, 1]; no feature is named so."""


@dataclass(frozen=True, slots=True)
class Look:
    """How pictures are handed out.

    Attributes:
        dtype: of their values; `"float32"` divides by 255.
        transform: called with the picture or pictures of an item as torchvision wants them; None = none.
    """

    dtype: Literal["uint8", "float32"] = "uint8"
    transform: Callable[[Any], Any] | None = None


class Frames:
    """Reads features at frames of a set; safe to use from several threads.

    Args:
        reader: the set.
        offsets: `{key: int64 [H]}`: features that are read as windows, at these offsets in frames.
        cameras: `{key: camera}`.
        look: how pictures are handed out.
    """

    def __init__(
        self,
        reader: LeRobotReader,
        offsets: Mapping[str, Index],
        cameras: Mapping[str, Camera],
        look: Look,
    ) -> None:
        self._reader = reader
        self._offsets = offsets
        self._cameras = cameras
        self._look = look
        self._plans: dict[tuple[Wanted, ...], _Plan] = {}

    def read(self, rows: Index, wanted: Sequence[Wanted], pads: Sequence[str] = ()) -> tuple[list[Any], list[Any]]:
        """Return what is wanted at frames [B] of the set, and which steps of which windows lie outside their episodes.

        Returns:
            (for each wanted a new array, numbers `[B, *shape]`, pictures `[B, H, W, C]`, windows with their axis behind
            B; for each of `pads`, which are keys with offsets, bool `[B, H]`).
        """
        plan = self._plan(tuple(wanted))
        values: list[Any] = [None] * len(wanted)
        if plan.plain:
            for at, array in zip(plan.plain, self._gather(plan.fields, rows), strict=True):
                values[at] = array
        following = self._reader.following(rows) if plan.needs_following else rows
        outside: dict[str, NDArray[np.bool_]] = {}
        for window in plan.windows:
            arrays, is_pad = self._window(following if window.follows else rows, window)
            for at, array in zip(window.at, arrays, strict=True):
                values[at] = array
            if not window.follows:
                outside.update(dict.fromkeys((wanted[at].key for at in window.at), is_pad))
        for key, places in plan.pictures.items():
            for at, pictures in zip(
                places, self._pictures(key, rows, following, [wanted[at] for at in places]), strict=True
            ):
                values[at] = pictures
        return values, [self._outside(rows, key) if key not in outside else outside[key] for key in pads]

    def _plan(self, wanted: tuple[Wanted, ...]) -> _Plan:
        plan = self._plans.get(wanted)
        if plan is None:
            plan = self._plans[wanted] = _Plan.of(wanted, self._reader, self._offsets, self._cameras)
        return plan

    def _gather(self, fields: list[int], rows: Index) -> list[NDArray[Any]]:
        store = self._reader.store
        return store.core.gather(fields, rows, None, store.num_threads)

    def _window(self, rows: Index, window: _Window) -> tuple[list[NDArray[Any]], NDArray[np.bool_]]:
        store, offsets = self._reader.store, window.offsets
        if window.is_contiguous:
            segment, step = store.segments.locate(rows)
            arrays, inside = store.core.windows(
                window.fields, segment, step + offsets[0], len(offsets), "mask", store.num_threads
            )
            assert inside is not None
            return arrays, ~inside.reshape(len(rows), len(offsets))
        frames, is_pad = self._reader.window_rows(rows, offsets)
        flat = self._gather(window.fields, frames.reshape(-1))
        return [array.reshape(*frames.shape, *array.shape[1:]) for array in flat], is_pad

    def _outside(self, rows: Index, key: str) -> NDArray[np.bool_]:
        return self._reader.window_rows(rows, self._offsets[key])[1]

    def _pictures(self, key: str, rows: Index, following: Index, wanted: list[Wanted]) -> list[NDArray[Any]]:
        """Return the pictures of all that is wanted of a camera, each decoded once."""
        camera, offsets = self._cameras[key], self._offsets.get(key)
        frames = [following if one.follows else rows for one in wanted]
        if offsets is not None:
            frames = [self._reader.window_rows(index, offsets)[0] for index in frames]
        together = np.stack(frames)
        decoded = camera.read(together.reshape(-1), aligned_empty((together.size, *camera.shape), np.uint8))
        shaped = decoded.reshape(*together.shape, *camera.shape)
        return [self._shown(pictures) for pictures in shaped]

    def _shown(self, pictures: NDArray[np.uint8]) -> NDArray[Any]:
        if self._look.transform is not None:
            from iltools_datasets.data.image_transforms import transformed

            return transformed(self._look.transform, pictures)
        if self._look.dtype == "uint8":
            return pictures
        shown = aligned_empty(pictures.shape, np.float32)
        np.divide(pictures, np.float32(255), out=shown)
        return shown


@dataclass(frozen=True, slots=True)
class _Window:
    """Features that are read at the same offsets of the same frames, and their places among what is wanted."""

    offsets: Index
    follows: bool
    fields: list[int]
    at: list[int]

    @property
    def is_contiguous(self) -> bool:
        return bool((np.diff(self.offsets) == 1).all())


@dataclass(frozen=True, slots=True)
class _Plan:
    """How what is wanted is read."""

    fields: list[int]
    plain: list[int]
    windows: list[_Window]
    pictures: dict[str, list[int]]
    needs_following: bool

    @classmethod
    def of(
        cls,
        wanted: tuple[Wanted, ...],
        reader: LeRobotReader,
        offsets: Mapping[str, Index],
        cameras: Mapping[str, Camera],
    ) -> _Plan:
        fields: list[int] = []
        plain: list[int] = []
        windows: dict[tuple[bytes, bool], _Window] = {}
        pictures: dict[str, list[int]] = {}
        for at, one in enumerate(wanted):
            steps = offsets.get(one.key)
            if one.key in cameras:
                pictures.setdefault(one.key, []).append(at)
            elif steps is None:
                # The store has the following frame's value as `next`, at the end the last frame's own.
                if one is DONE:
                    column: Key = ("next", "done")
                else:
                    column = reader.column(("next", one.key) if one.follows else one.key)
                fields += reader.store.field_ids([column])
                plain.append(at)
            else:
                window = windows.setdefault((steps.tobytes(), one.follows), _Window(steps, one.follows, [], []))
                window.fields.extend(reader.store.field_ids([reader.column(one.key)]))
                window.at.append(at)
        follows = any(wanted[at].follows for places in pictures.values() for at in places)
        return cls(fields, plain, [*windows.values()], pictures, follows or any(w.follows for w in windows.values()))
