"""Places in clips without float64: frames in int32, and what is left of one in units of 2^-32.

JAX has no float64 unless it is told to, and a float32 cannot say where in a long clip an env is. Whole numbers can, and
no compiler reorders them: the same bits on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.tracking.array_motion import TOLERANCE

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise missing_extra("jax", "motion in JAX") from error

Array = Any
ONE = 1 << 32
_TOLERANCE = round(TOLERANCE * ONE)


class Place(NamedTuple):
    """Frames, int32, rounded down, and the rest, uint32 in units of 2^-32 frames."""

    frame: Array
    rest: Array

    def __add__(self, other: Any) -> Place:
        rest = self.rest + other.rest
        return Place(self.frame + other.frame + (rest < self.rest).astype(jnp.int32), rest)

    def __neg__(self) -> Place:
        rest = jnp.uint32(0) - self.rest
        return Place(-self.frame - (rest != 0).astype(jnp.int32), rest)

    def reaches(self, other: Place) -> Array:
        """Return whether this is at another place or behind it."""
        return (self.frame > other.frame) | ((self.frame == other.frame) & (self.rest >= other.rest))


def product(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the upper and the lower half of products of uint32."""
    low, high = a & 0xFFFF, a >> 16
    other_low, other_high = b & 0xFFFF, b >> 16
    one, two = low * other_high, high * other_low
    middle = ((low * other_low) >> 16) + (one & 0xFFFF) + (two & 0xFFFF)
    return high * other_high + (one >> 16) + (two >> 16) + (middle >> 16), a * b


def part(fraction: Array, of: Array) -> Array:
    """Return numbers below `of`, uint32: which one says a fraction, uint32 in units of 2^-32."""
    return product(fraction, of)[0]


def of_floats(frames: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Return places as frames and rests, on the host."""
    whole = np.floor(frames)
    rest = np.minimum(np.floor((frames - whole) * ONE), ONE - 1)
    return whole.astype(np.int32), rest.astype(np.uint32)


def of_rates(control_dt: float, fps: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Return frames per control step, [clips, 3]: whole ones, and rests in units of 2^-32 and 2^-64."""
    limbs = {}
    for rate in np.unique(fps).tolist():
        exact = floor(Fraction(control_dt) * Fraction(rate) * ONE * ONE)
        limbs[rate] = (exact >> 64, (exact >> 32) % ONE, exact % ONE)
    return np.array([limbs[rate] for rate in fps.tolist()], dtype=np.uint32)


def travelled(steps: Array, rest: Array, rate: Array) -> Place:
    """Return how far control steps go, int32 and a rest of one, uint32 in units of 2^-32; rates are `[..., 3]`."""
    whole, upper, lower = (rate[..., at] for at in range(3))
    many = jnp.abs(steps).astype(jnp.uint32)
    frames, parts = product(many, upper)
    far = Place((many * whole + frames).astype(jnp.int32), parts)
    far = far + Place(jnp.zeros_like(far.frame), part(many, lower))
    back = -far
    far = Place(jnp.where(steps < 0, back.frame, far.frame), jnp.where(steps < 0, back.rest, far.rest))
    frames, parts = product(rest, whole)
    return far + Place(frames.astype(jnp.int32), parts) + Place(jnp.zeros_like(far.frame), part(rest, upper))


def times(fraction: Array, length: Place) -> Place:
    """Return a fraction, uint32 in units of 2^-32, of a length."""
    frames, rest = product(fraction, length.frame.astype(jnp.uint32))
    return Place(frames.astype(jnp.int32), rest) + Place(jnp.zeros_like(length.frame), part(fraction, length.rest))


def tolerant(place: Place) -> Place:
    """Return a place a tolerance further, where what is just below a frame is that frame."""
    return place + Place(jnp.int32(0), jnp.uint32(_TOLERANCE))


def moments(place: Place, last: Array) -> tuple[Array, Array, Array]:
    """Return the frame before each place, how far it is to the next, float32, and whether it is within its clip."""
    near = tolerant(place).frame
    valid = (near >= 0) & ~is_over(place, last)
    frame = jnp.clip(near, 0, last)
    share = place.rest.astype(jnp.float32) * jnp.float32(1 / ONE)
    between = (near == place.frame) & (place.frame == frame) & (frame < last) & (place.rest >= _TOLERANCE)
    return frame, jnp.where(between, share, jnp.float32(0)), valid


def is_over(place: Place, last: Array) -> Array:
    """Return whether places are behind the last frame."""
    return (place.frame > last) | ((place.frame == last) & (place.rest > _TOLERANCE))


def first_where(low: Array, count: Array, most: int, holds: Callable[[Array], Array]) -> Array:
    """Return the first of the numbers from `low` on for which something holds, as it does for all that follow.

    Args:
        low: int32 [E].
        count: how many there are, int32 [E]; the last one is the answer where it holds for none.
        most: no count is greater.
        holds: numbers [E] -> bool [E].
    """

    def halved(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        first, last = ends
        middle = first + (last - first) // 2
        found = holds(middle)
        return jnp.where(found, first, jnp.minimum(middle + 1, last)), jnp.where(found, middle, last)

    ends = (low, low + jnp.maximum(count, 1) - 1)
    first: Array = jax.lax.fori_loop(0, max(1, int(most)).bit_length(), halved, ends)[0]
    return first
