"""What callers say of envs, times and places, checked before anything is booked or moved."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets._base.integers import checked_env_ids, checked_integers, first_outside
from iltools_datasets.errors import ArgumentError, OutOfRangeError
from iltools_datasets.motion.lookup import as_floats
from iltools_datasets.tracking.array_motion import TOLERANCE
from iltools_datasets.tracking.outputs import as_numpy

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


def which_envs(env_ids: Any, terminated: Any, num_envs: int) -> tuple[Ids, Mask | None]:
    """Return ids [n], of ids or a mask, None being all; and which of them failed, [n], or None.

    Raises:
        OutOfRangeError, NotAnIntegerError, ArgumentError: no such env, a mask of another length, or flags that are no
            bools or do not fit. Ids that are there twice are refused by what they go to.
    """
    values = as_numpy(env_ids)
    ids = np.arange(num_envs, dtype=np.int64) if values is None else checked_env_ids(values, num_envs)
    if terminated is None:
        return ids, None
    flags = np.asarray(as_numpy(terminated))
    if flags.dtype != np.bool_:
        raise ArgumentError(f"terminated: expected bools, found {flags.dtype}")
    is_mask = values is not None and np.asarray(values).dtype == np.bool_
    if flags.shape == (num_envs,) and is_mask:
        flags = flags[ids]
    if flags.shape != ids.shape:
        raise ArgumentError(f"terminated: expected one for each of {len(ids)} envs, found shape {list(flags.shape)}")
    return ids, np.ascontiguousarray(flags)


def refuse_unplaced(clip: Ids, ids: Ids | None) -> None:
    """Raise ArgumentError where one of these envs, None being all, was never reset and so has no clip."""
    if len(clip) and clip.min() < 0:
        at = int(np.argmin(clip))
        raise ArgumentError(f"env {at if ids is None else ids[at]} stands nowhere yet: reset it first")


def checked_seconds(name: str, value: Any) -> float:
    """Return a positive number of seconds."""
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number or not isfinite(value) or value <= 0:
        raise ArgumentError(f"{name}: expected a positive number of seconds, found {value!r:.80}")
    return float(value)


def checked_offsets(offsets: ArrayLike) -> NDArray[np.float64]:
    """Return offsets in control steps, float64 [O], at least one and all finite."""
    found = as_floats("offsets", as_numpy(offsets))
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ArgumentError(f"offsets: expected finite numbers [O], at least one, found {offsets!r:.80}")
    return found


def checked_rows(name: str, values: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return finite numbers of a shape as float32."""
    found = as_floats(name, as_numpy(values))
    if found.shape != shape or not np.isfinite(found).all():
        raise ArgumentError(f"{name}: expected finite numbers {list(shape)}, found {list(found.shape)}")
    return np.ascontiguousarray(found, dtype=np.float32)


def checked_places(
    ids: Ids, clip: Any, time: Any, last: NDArray[np.int64], fps: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return clip and time for each of some envs, [n].

    Args:
        ids: the envs.
        clip: one for all, or [n].
        time: seconds, one for all or [n]; None = 0.
        last: number of each clip's last state.
        fps: states per second of each clip.

    Raises:
        OutOfRangeError, NotAnIntegerError, ArgumentError: no such clip, a time outside it, or other shapes.
    """
    if clip is None:
        raise ArgumentError("time: is a time of clip=, which is missing")
    clips = checked_integers("clip", np.asarray(as_numpy(clip)), outside=OutOfRangeError)
    seconds = as_floats("time", 0.0 if time is None else as_numpy(time))
    if clips.shape not in ((), ids.shape) or seconds.shape not in ((), ids.shape):
        shapes = f"{list(clips.shape)} and {list(seconds.shape)}"
        raise ArgumentError(f"clip and time: expected one or {len(ids)} each, found shapes {shapes}")
    clips = np.array(np.broadcast_to(clips, ids.shape))
    seconds = np.array(np.broadcast_to(seconds, ids.shape))
    if (bad := first_outside(clips, len(last))) is not None:
        raise OutOfRangeError(f"clip {clips[bad]} is outside [0, {len(last)})")
    frames = seconds * fps[clips]
    within = np.isfinite(seconds) & (seconds >= 0) & (frames <= last[clips] + TOLERANCE)
    if not within.all():
        bad = int(np.argmin(within))
        duration = last[clips[bad]] / fps[clips[bad]]
        raise OutOfRangeError(f"time: {seconds[bad]} s is outside clip {clips[bad]} of {duration:.6f} s")
    return clips, seconds
