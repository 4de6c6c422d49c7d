"""The motion of a store at any time: numpy in, numpy out, one native call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets import _core
from iltools_datasets._base.integers import checked_integers
from iltools_datasets.errors import ArgumentError, MissingKeyError, OutOfRangeError
from iltools_datasets.motion.description import QuaternionOrder
from iltools_datasets.motion.kinds import Pieces
from iltools_datasets.motion.layout import KeyLayout, MotionLayout, Name
from iltools_datasets.store.keys import Key
from iltools_datasets.store.trajectory_store import TrajectoryStore

Frame = Literal["world", "robot", "heading", "anchor"]
Heading = Literal["relative", "difference"]

VALID = "valid"
"""Key under which a look-up says which times are within their clips."""


class MotionLookup:
    """Interpolates clips at any time and offsets from it, and sees them from where it is asked to.

    Frame i of a clip is at i / fps seconds. Between two frames plain numbers, positions and vectors lie on a straight
    line, rotations on the shorter arc at constant speed, angles on the shorter way round; integers, bools and whatever
    belongs to a transition keep the frame before. At a frame (to a millionth) its numbers are copied bit for bit.

    Args:
        store: with a row per state.
        keys: what is returned, see `MotionLayout`; None = every float key per state whose kinds are known.
        bodies, joints: by name, any subset in any order; by number where the store has no names. None = all.
        anchor: the body that other frames than the world are seen from; None = the root of a generalised position.
        frame: "world"; "robot": positions are moved from the reference's anchor to the robot's, horizontally, and all
            is turned about the vertical; "heading": from the anchor at offset 0 along its heading, heights stay;
            "anchor": from the anchor at the offset itself.
        heading: which turn "robot" makes: the heading of the robot's rotation against the reference's ("relative"), or
            the difference of both headings ("difference").
        quat_order: order of the quaternions that go in (`anchor_quat`) and come out. The store's own is known.
        boundary: outside a clip "hold" gives its first or last frame and says so in "valid"; "error" raises.
        fps, kinds: see `MotionLayout`.

    Raises:
        MissingKeyError, SchemaError, ArgumentError: see `MotionLayout`.

    Examples:
        >>> lookup = MotionLookup(TrajectoryStore.open("motion"), ["joint_pos"], joints=["knee", "hip"])
        >>> found = lookup.at(clip=[0, 1], time=[0.25, 1.99], offsets=[0.0, 0.02])
        >>> found["joint_pos"].shape
        (2, 2, 2)
        >>> found["valid"]
        array([[ True,  True],
               [False, False]])
    """

    def __init__(
        self,
        store: TrajectoryStore,
        keys: Sequence[Key] | None = None,
        *,
        bodies: Sequence[Name] | None = None,
        joints: Sequence[Name] | None = None,
        anchor: Name | None = None,
        frame: Frame = "world",
        heading: Heading = "relative",
        quat_order: QuaternionOrder = "wxyz",
        boundary: Literal["hold", "error"] = "hold",
        fps: float | Sequence[float] | NDArray[Any] | None = None,
        kinds: Mapping[Key, Any] | None = None,
    ) -> None:
        for name, value, allowed in (
            ("frame", frame, get_args(Frame)),
            ("heading", heading, get_args(Heading)),
            ("quat_order", quat_order, get_args(QuaternionOrder)),
            ("boundary", boundary, ("hold", "error")),
        ):
            if value not in allowed:
                raise ArgumentError(f"{name}: expected one of {list(allowed)}, found {value!r}")
        self.store, self.frame, self.heading, self.boundary = store, frame, heading, boundary
        self.quat_order = quat_order
        self.layout = MotionLayout(store, fps, kinds)
        named = self.layout.default_keys() if keys is None else [keys] if isinstance(keys, str) else list(keys)
        if len(set(named)) != len(named) or not named:
            raise ArgumentError(f"keys: expected names of keys, each once and at least one, found {named}")
        if VALID in named:
            raise ArgumentError(f"keys: {VALID!r} is the name of what a look-up says of its times; leave it out")
        self._places: dict[Key, KeyLayout] = {key: self.layout.key(key, bodies, joints) for key in named}
        self._numbers = {key: number for number, key in enumerate(self._places)}
        self.body_names, self.joint_names = self.layout.chosen_names(named, bodies, joints)
        pose = None if anchor is None and frame == "world" else self.layout.anchor(anchor)
        self._pose = pose
        self.core = _core.Motion(
            store.core,
            self.layout.fps,
            [(place.field, list(place.runs), list(place.pieces), place.shape) for place in self._places.values()],
            pose,
            self.layout.quaternion_order == "xyzw",
            quat_order == "xyzw",
        )

    @property
    def keys(self) -> list[Key]:
        """What is returned."""
        return list(self._places)

    @property
    def fps(self) -> NDArray[np.float64]:
        """States per second of each clip, [clips]."""
        return self.layout.fps

    def shape(self, key: Key) -> tuple[int, ...]:
        """Return the shape of one returned row of a key."""
        return self._places[key].shape

    def pieces(self, key: Key) -> Pieces:
        """Return what the numbers of one returned row of a key are, flattened."""
        return self._places[key].pieces

    def rows_at(
        self, key: Key, clip: NDArray[np.int64], time: NDArray[np.float64], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return a key in the world at some times, `[n, *row]`, wherever look-ups see it from; `out` as in `at`."""
        written = None if out is None else [out.reshape(len(clip), 1, *self.shape(key))]
        arrays, _ = self.core.lookup([self._numbers[key]], clip, time, np.zeros(1), out=written)
        return arrays[0].reshape(len(clip), *self.shape(key))

    def anchor_at(
        self, clip: NDArray[np.int64], time: NDArray[np.float64]
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
        """Return the anchor's positions `[n, 3]` and rotations wxyz `[n, 4]` in the world at some times."""
        if self._pose_core is None:
            raise ArgumentError("anchor: none was chosen")
        (positions, rotations), _ = self._pose_core.lookup([0, 1], clip, time, np.zeros(1))
        return positions.reshape(-1, 3), rotations.reshape(-1, 4)

    @cached_property
    def _pose_core(self) -> _core.Motion | None:
        """Looks up the anchor's pose, wxyz."""
        if self._pose is None:
            return None
        (place, first), (turn, begin) = self._pose
        parts = [(place, [(first, 3)], [("position", 3)], (3,)), (turn, [(begin, 4)], [("quaternion", 4)], (4,))]
        stored_xyzw = self.layout.quaternion_order == "xyzw"
        return _core.Motion(self.store.core, self.layout.fps, parts, None, stored_xyzw, False)

    def at(
        self,
        clip: ArrayLike,
        time: ArrayLike,
        offsets: ArrayLike = (0.0,),
        keys: Sequence[Key] | None = None,
        *,
        anchor_pos: ArrayLike | None = None,
        anchor_quat: ArrayLike | None = None,
        env_origins: ArrayLike | None = None,
        out: Mapping[Key, NDArray[Any]] | None = None,
    ) -> dict[Key, NDArray[Any]]:
        """Return the motion at some times and at offsets from each.

        Args:
            clip: int `[...]`, positions of trajectories in `store.segments`.
            time: float `[...]`, seconds from each clip's first frame; broadcasts with `clip`.
            offsets: float `[O]`, seconds, any order, negative = past.
            keys: some of `self.keys`; None = all.
            anchor_pos: `[..., 3]` metres, where the robot's anchor is; frame "robot" needs it.
            anchor_quat: `[..., 4]`, its rotation.
            env_origins: `[..., 3]`, added to positions in the world.
            out: `{key: C-contiguous array [..., O, *row]}` to fill instead of new arrays.

        Returns:
            `{key: [..., O, *row]}`, and under "valid" bool `[..., O]`, false where a time is outside its clip. float16
            and bfloat16 come as float32. New arrays begin at multiples of 64 bytes and belong to the caller.

        Raises:
            OutOfRangeError: no such clip, or with `boundary="error"` a time outside its clip.
            MissingKeyError: no such key.
            ArgumentError: times, offsets, poses or outputs that do not fit. Nothing was written, whatever was raised.
        """
        names = self.keys if keys is None else [keys] if isinstance(keys, str) else list(keys)
        for key in names:
            if key not in self._places:
                raise MissingKeyError(f"no key {key!r} among those looked up: {self.keys}")
        clips = checked_integers("clip", clip if np.ndim(clip) else np.asarray(clip), outside=OutOfRangeError)
        seconds = as_floats("time", time)
        try:
            clips, seconds = np.broadcast_arrays(clips, seconds)
        except ValueError:
            shapes = f"{list(clips.shape)} and {list(seconds.shape)}"
            raise ArgumentError(f"clip and time: shapes {shapes} do not fit together") from None
        shape = clips.shape
        ahead = as_floats("offsets", offsets)
        if ahead.ndim != 1 or not ahead.size or not np.isfinite(ahead).all():
            raise ArgumentError(f"offsets: expected finite numbers, at least one, found {offsets!r:.80}")
        if not np.isfinite(seconds).all():
            raise ArgumentError(f"time: expected finite numbers, found {float(seconds[~np.isfinite(seconds)].flat[0])}")
        if (self.frame == "robot") and (anchor_pos is None or anchor_quat is None):
            raise ArgumentError("frame='robot' needs anchor_pos and anchor_quat, where the robot's anchor is")
        poses = {
            "anchor_pos": _rows("anchor_pos", anchor_pos, shape, 3),
            "anchor_quat": _rows("anchor_quat", anchor_quat, shape, 4),
            "origins": _rows("env_origins", env_origins, shape, 3),
        }
        if self.frame != "world" and env_origins is not None:
            raise ArgumentError(f"env_origins: frame={self.frame!r} has its own place; they are for frame='world'")
        batch = (*shape, len(ahead))
        arrays, valid = self.core.lookup(
            [self._numbers[key] for key in names],
            np.ascontiguousarray(clips.reshape(-1)),
            np.ascontiguousarray(seconds.reshape(-1)),
            np.ascontiguousarray(ahead),
            self._native_frame(),
            **poses,
            refuses_outside=self.boundary == "error",
            out=None if out is None else [self._output(out, key, batch) for key in names],
            threads=self.store.num_threads,
        )
        found: dict[Key, NDArray[Any]] = {
            key: array.reshape(*batch, *self.shape(key)) if out is None else out[key]
            for key, array in zip(names, arrays, strict=True)
        }
        found[VALID] = valid.reshape(batch)
        return found

    def _native_frame(self) -> str:
        return "robot by difference" if self.frame == "robot" and self.heading == "difference" else self.frame

    def _output(self, out: Mapping[Key, NDArray[Any]], key: Key, batch: tuple[int, ...]) -> NDArray[Any]:
        if key not in out:
            raise MissingKeyError(f"out: no array for key {key!r}")
        array, row = out[key], self.shape(key)
        if not isinstance(array, np.ndarray) or array.shape != (*batch, *row) or not array.flags.c_contiguous:
            found = f"{type(array).__name__} {list(np.shape(array))}"
            raise ArgumentError(f"out: key {key!r}: expected a C-contiguous array {[*batch, *row]}, found {found}")
        return array.reshape(-1, batch[-1], *row)


def as_floats(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return numbers as float64; ArgumentError for anything else."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iuf":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: expected numbers, found {values!r:.80}") from None


def _rows(name: str, values: ArrayLike | None, shape: tuple[int, ...], width: int) -> NDArray[np.float32] | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (*shape, width) or array.dtype.kind not in "iuf":
        found = f"{array.dtype} {list(array.shape)}"
        raise ArgumentError(f"{name}: expected numbers {[*shape, width]}, found {found}")
    return np.ascontiguousarray(array.reshape(-1, width), dtype=np.float32)
