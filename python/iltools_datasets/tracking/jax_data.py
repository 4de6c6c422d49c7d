"""What a sampler has to say to JAX: its motion, its bins and what they weigh, as one pytree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import ArgumentError
from iltools_datasets.motion.kinds import Pieces
from iltools_datasets.store.keys import Key
from iltools_datasets.tracking import jax_fixed_point as fixed
from iltools_datasets.tracking.adaptive import Adaptive
from iltools_datasets.tracking.array_motion import TOLERANCE
from iltools_datasets.tracking.mixture import Mixture, pose_of, rows_of

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise missing_extra("jax", "motion in JAX") from error

_MOST_STATES = 2**31
_LONGEST = 2**29
"""States of a clip: places before, in and behind it are counted in int32."""
_SAME = 1e-9
"""Weights that differ by less than this part are one weight."""


class Column(NamedTuple):
    """What the rows of a key are, and the shape that each is given."""

    key: Key
    pieces: Pieces
    shape: tuple[int, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class MotionData:
    """Motion, bins and base measure on a device: a pytree. Pass it to jitted functions as an argument.

    (A function that closes over it has the data compiled into it.) K clips, B bins, S states.
    """

    rows: tuple[jax.Array, ...]
    """`[S, W]` of each column, in the order of `columns`."""
    anchor: tuple[jax.Array, ...]
    """Position [S, 3] and rotation wxyz [S, 4] of the anchor; empty in the world."""
    origins: jax.Array | None
    """`env_origins`, float32 [E, 3] metres."""
    first_row: jax.Array
    """int32 [K]."""
    last: jax.Array
    """Number of each clip's last state, int32 [K]."""
    rate: jax.Array
    """Frames per control step, uint32 [K, 3]; see `jax_fixed_point.of_rates`."""
    most_steps: jax.Array
    """int32 [K]: envs are not counted further than that."""
    first_bin: jax.Array
    """int32 [K]."""
    bin_count: jax.Array
    """int32 [K]; 0 = too short to start in."""
    bin_clip: jax.Array
    """int32 [B]."""
    bin_begin: fixed.Place
    """Where each bin begins, [B]."""
    start_span: fixed.Place
    """From there to the latest start in it, [B]."""
    start_frame: jax.Array
    """The first frame of each bin, int32 [B]."""
    start_count: jax.Array
    """How many frames of it can be started from, uint32 [B]."""
    bin_steps: jax.Array
    """Control steps that it takes, float32 [B]."""
    base: jax.Array
    """Base measure, float32 [B], all of them 1."""
    turn_bins: jax.Array
    """Bins that weigh anything, int32 [n]."""
    turn_ends: jax.Array
    """Running sums of what they weigh, uint32 [n] in units of 2^-32."""
    columns: tuple[Column, ...] = field(metadata={"static": True})
    offsets: tuple[float, ...] = field(metadata={"static": True})
    frame: str = field(metadata={"static": True})
    heading: str = field(metadata={"static": True})
    xyzw: bool = field(metadata={"static": True})
    any_time: bool = field(metadata={"static": True})
    flat: bool = field(metadata={"static": True})
    most_bins: int = field(metadata={"static": True})
    """No clip has more."""
    adaptive: Adaptive = field(metadata={"static": True})


def motion_data(
    mixture: Mixture,
    bins: _core.MotionBins,
    base: NDArray[np.float64],
    keys: Sequence[Key] | None,
    *,
    offsets: NDArray[np.float64],
    control_dt: float,
    any_time: bool,
    adaptive: Adaptive,
    origins: NDArray[np.float32] | None,
) -> MotionData:
    """Return the motion of a mixture on JAX's default device; see `MotionSampler.to_jax`."""
    names = mixture.keys if keys is None else [keys] if isinstance(keys, str) else list(keys)
    shapes = [mixture.row(key)[0] for key in names]
    lookup = mixture.lookups[0]
    columns = tuple(Column(key, lookup.pieces(key), shape) for key, shape in zip(names, shapes, strict=True))
    if not names or len(set(names)) < len(names):
        raise ArgumentError(f"keys: expected at least one and none twice, found {names}")
    if lookup.boundary == "error":
        raise ArgumentError("boundary='error' asks each time what the device found; in JAX it is 'hold'")
    last, fps = mixture.last, mixture.fps
    states = last + 1
    if states.sum() > _MOST_STATES or states.max() > _LONGEST:
        found = f"{states.sum():,} states, {states.max():,} of them in one clip"
        raise ArgumentError(
            f"JAX counts in int32: expected {_MOST_STATES:,} states, {_LONGEST:,} per clip, found {found}"
        )
    rate = fixed.of_rates(control_dt, fps)
    clip = bins.clip
    count = np.bincount(clip, minlength=len(last))
    positive = np.flatnonzero(base > 0)
    ends = np.minimum(np.floor(np.cumsum(base[positive]) * fixed.ONE), fixed.ONE - 1)
    ends[-1] = fixed.ONE - 1
    latest = np.minimum((last / fps)[clip] - control_dt, bins.end)
    first, number = _start_frames(bins, last, fps, control_dt)
    return MotionData(
        rows=tuple(_upload(mixture, partial(rows_of, key), key) for key in names),
        anchor=tuple(_upload(mixture, partial(pose_of, at), "anchor") for at in range(2))
        if lookup.frame != "world"
        else (),
        origins=None if origins is None else jnp.asarray(origins),
        first_row=_int32(np.cumsum(states) - states),
        last=_int32(last),
        rate=jnp.asarray(rate),
        most_steps=_int32(np.minimum(2.0**30 / (control_dt * fps), 2.0**30)),
        first_bin=_int32(np.cumsum(count) - count),
        bin_count=_int32(count),
        bin_clip=_int32(clip),
        bin_begin=_places(bins.begin * fps[clip]),
        start_span=_places(np.maximum(latest - bins.begin, 0) * fps[clip]),
        start_frame=_int32(first),
        start_count=jnp.asarray(number.astype(np.uint32)),
        bin_steps=jnp.asarray(((bins.end - bins.begin) / control_dt).astype(np.float32)),
        base=jnp.asarray(base.astype(np.float32)),
        turn_bins=_int32(positive),
        turn_ends=jnp.asarray(ends.astype(np.uint32)),
        columns=columns,
        offsets=tuple(offsets.tolist()),
        frame=lookup.frame,
        heading=lookup.heading,
        xyzw=lookup.quat_order == "xyzw",
        any_time=any_time,
        flat=bool(base[positive].max() <= base[positive].min() * (1 + _SAME)),
        most_bins=int(count.max()),
        # Hashable, whatever pairs were given.
        adaptive=replace(
            adaptive,
            half_life=None if adaptive.half_life is None else (adaptive.half_life[0], adaptive.half_life[1]),
            look_back=(adaptive.look_back[0], adaptive.look_back[1]),
        ),
    )


def _int32(array: NDArray[Any]) -> jax.Array:
    return jnp.asarray(array.astype(np.int32))


def _places(frames: NDArray[np.float64]) -> fixed.Place:
    return fixed.Place(*map(jnp.asarray, fixed.of_floats(frames)))


def _start_frames(
    bins: _core.MotionBins, last: NDArray[np.int64], fps: NDArray[np.float64], control_dt: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first frame of each bin, and how many of its frames are a control step before the end, [bins]."""
    clip = bins.clip
    near = np.ceil(bins.begin * fps[clip]).astype(np.int64)
    first = near + 1
    # Rounding may be off by one: what counts is which bin the core says that a frame is in.
    for frame in (near, np.maximum(near - 1, 0)):
        within = bins.at(clip, frame / fps[clip]) >= np.arange(len(clip))
        first = np.where(within, frame, first)
    end = np.floor(last - control_dt * fps + TOLERANCE).astype(np.int64)[clip] + 1
    end[:-1] = np.where(clip[1:] == clip[:-1], np.minimum(end[:-1], first[1:]), end[:-1])
    return first, end - first


def _upload(mixture: Mixture, rows_at: Any, name: Key) -> jax.Array:
    """Return the rows of all states: what a look-up at each frame copies bit for bit."""
    parts = []
    for lookup, clip, time in mixture.every_state():
        rows = rows_at(lookup, clip, time)
        rows = rows.reshape(len(rows), -1)
        dtype = np.dtype(jax.dtypes.canonicalize_dtype(rows.dtype))
        narrowed = rows.astype(dtype)
        if rows.dtype.kind in "iu" and (narrowed != rows).any():
            raise ArgumentError(f"{name!r}: numbers do not fit {dtype}, and JAX has no {rows.dtype} unless told to")
        parts.append(narrowed)
    return jnp.asarray(np.concatenate(parts))
