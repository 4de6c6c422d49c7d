"""How failures become starts, in JAX: the scheme of `Adaptive`, and starts drawn by it.

Draws go by whole numbers: weights of clips, and of bins in their clip, in units of 2^-30, summed in uint32. Sums of
float32 over a million bins would lose the last ones, and their order would be the device's.
"""

from __future__ import annotations

from typing import Any

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import ArgumentError
from iltools_datasets.tracking.adaptive import Adaptive
from iltools_datasets.tracking.jax_fixed_point import ONE, first_where, part, product

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise missing_extra("jax", "motion in JAX") from error

Array = Any
_UNIT = 1 << 30
_LANES = 1024
_ROUNDS = 6
_GOLDEN = 0x9E37_79B9
"""2^32 times the golden section."""


def total(values: Array) -> Array:
    """Return a sum of float32 [n] in an order that is fixed, in two levels for its error."""
    padded = jnp.pad(values, (0, -len(values) % _LANES)).reshape(-1, _LANES)
    return padded.sum(1).sum()


def clip_sums(values: Array, first: Array, count: Array, most: int) -> Array:
    """Return the sum of each clip's bins, [clips], of float32 [bins]; 0 for a clip without bins, none has above `most`.

    In an order that is fixed, so that ranks do not differ: each bin has the sum of the 1, 2, 4, ... that begin with it.
    """
    at = jnp.arange(len(values), dtype=jnp.int32)
    begins = jnp.where(count > 0, first, len(values))
    number = jnp.cumsum(jnp.zeros(len(values), dtype=jnp.int32).at[begins].add(1, mode="drop"))

    def doubled(k: Array, sums: Array) -> Array:
        other = jnp.minimum(at + (1 << k), len(values) - 1)
        inside = (at + (1 << k) < len(values)) & (number[other] == number)
        return sums + jnp.where(inside, sums[other], jnp.float32(0))

    sums = jax.lax.fori_loop(0, most.bit_length(), doubled, values)
    return jnp.where(count > 0, sums[jnp.minimum(first, len(values) - 1)], jnp.float32(0))


def scores(
    scheme: Adaptive, passes: Array, failures: Array, first: Array, count: Array, clip: Array, most: int
) -> Array:
    """Return how likely each bin, or what it leads to, is believed to fail: see `Adaptive`; float32 [bins]."""
    prior = jnp.float32(scheme.prior)
    clip_passes, clip_failures = (clip_sums(values, first, count, most) for values in (passes, failures))
    of_all = prior * _rate(total(clip_failures), total(clip_passes))
    believed = (prior * _rate(clip_failures + of_all, clip_passes + prior))[clip]
    rates = failures + believed if scheme.statistic == "count" else _rate(failures + believed, passes + prior)
    ahead, factor = scheme.look_back
    at = jnp.arange(len(rates), dtype=jnp.int32)
    end = (first + count)[clip]

    def further(k: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        score, less = found
        less = less * jnp.float32(factor)
        rate = jnp.where(at + k < end, rates[jnp.minimum(at + k, len(rates) - 1)], jnp.float32(0))
        return score + less * rate, less

    score: Array = jax.lax.fori_loop(1, int(ahead), further, (rates, jnp.float32(1)))[0]
    return score


def _rate(failures: Array, passes: Array) -> Array:
    return jnp.where(passes > 0, failures / jnp.where(passes > 0, passes, 1), jnp.float32(0))


def own_scores(scheme: Adaptive, failures: Array, passes: Array, base: Array) -> Array:
    """Return what a caller's `score` says, float32 [bins]; what is no finite number above 0 counts as 0."""
    assert scheme.score is not None
    found = jnp.asarray(scheme.score(failures, passes, base))
    if found.shape != base.shape or found.dtype == bool or jnp.issubdtype(found.dtype, jnp.complexfloating):
        raise ArgumentError(f"score: expected numbers {list(base.shape)}, found {found.dtype} {list(found.shape)}")
    found = found.astype(jnp.float32)
    return jnp.where(jnp.isfinite(found) & (found > 0), found, jnp.float32(0))


def shares(base: Array, score: Array, cap: float | None) -> Array:
    """Return shares in proportion to base times score, none above `cap` times its base; float32 [bins].

    Those that would be above get just that, and the others what is left in proportion, until none is above.
    """
    most = jnp.where(base > 0, score, 0).max()
    score = score / jnp.where(most > 0, most, 1)
    limit = jnp.float32(jnp.inf if cap is None else cap)

    def factor_for(held: Array) -> tuple[Array, Array]:
        """Return the factor of scores below `held`, and that of weights where these are all 0."""
        capped = score >= held
        taken = total(jnp.where(capped, base, 0))
        left = jnp.where(taken > 0, jnp.maximum(1 - jnp.where(taken > 0, limit, 0) * taken, 0), 1)
        free, weight = total(jnp.where(capped, 0, base * score)), total(jnp.where(capped, 0, base))
        return _rate(left, free), jnp.where(free > 0, 0, _rate(left, weight))

    def exceeds(held: Array) -> tuple[Array, Array]:
        factor, _ = factor_for(held)
        lower = limit / jnp.where(factor > 0, factor, 1)
        return lower, ((score >= lower) & (score < held) & (base > 0) & (factor > 0)).any()

    def further(carried: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        return (carried[1], *exceeds(carried[1]))

    start = jnp.float32(jnp.inf)
    held = jax.lax.while_loop(lambda carried: carried[2], further, (start, *exceeds(start)))[0]
    factor, by_weight = factor_for(held)
    found = base * jnp.minimum(jnp.where(score >= held, limit, factor * score + by_weight), limit)
    return jnp.where(most > 0, found, base)


def sums_to_draw_from(adaptive: Array, first: Array, count: Array, clip: Array, most: int) -> tuple[Array, Array]:
    """Return running sums, uint32, of the clips' weights and of the bins'; those of bins go on modulo 2^32."""
    of_clips = clip_sums(adaptive, first, count, most)
    whole = jnp.round(_rate(of_clips, total(of_clips)) * _UNIT).astype(jnp.uint32)
    bins = jnp.round(_rate(adaptive, of_clips[clip]) * _UNIT).astype(jnp.uint32)
    return jnp.cumsum(whole, dtype=jnp.uint32), jnp.cumsum(bins, dtype=jnp.uint32)


def drawn(sums: tuple[Array, Array], bits: Array, first: Array, count: Array, most: int) -> Array:
    """Return bins drawn by the running sums, int32 [E], for random bits uint32 [2, E]."""
    of_clips, of_bins = sums
    point = part(bits[0], of_clips[-1])
    clip = jnp.searchsorted(of_clips, point, side="right").astype(jnp.int32)
    begin, many = first[clip], count[clip]
    before = jnp.where(begin > 0, of_bins[jnp.maximum(begin - 1, 0)], jnp.uint32(0))
    within = part(bits[1], of_bins[begin + many - 1] - before)
    return first_where(begin, many, most, lambda at: of_bins[at] - before > within)


def in_turn(seed: Array, position: Array, round_: Array, bins: Array, ends: Array, flat: bool) -> Array:
    """Return the bins whose turn it is, int32 [E].

    Args:
        seed: uint32, the same on all ranks.
        position: in the round, uint32 [E], below the number of bins.
        round_: uint32 [E].
        bins: those that can be started in, int32 [n].
        ends: running sums of their base measure, uint32 [n] in units of 2^-32.
        flat: they all weigh the same. Otherwise a round has a point in each of n strata of the measure, at a height
            that moves by the golden section from round to round.
    """
    n = len(bins)
    image = _permuted(seed, position, round_, n)
    if flat:
        return bins[image.astype(jnp.int32)]
    stratum, rest = divmod(ONE, n) if n > 1 else (ONE - 1, 0)
    height = _mixed(seed) + round_ * jnp.uint32(_GOLDEN)
    point = image * jnp.uint32(stratum) + part(image, jnp.uint32(rest * ONE // n))
    point = point + part(height, jnp.uint32(stratum))
    return bins[jnp.minimum(jnp.searchsorted(ends, point, side="right"), n - 1)]


def turns(uniform: float, phase: Array, starts: Array) -> tuple[Array, Array]:
    """Return how many of so many further starts, uint32, go in turn, and where in the next turn that leaves off."""
    if uniform >= 1:
        return starts, jnp.zeros_like(starts)
    # Rounded up, so that a turn comes no later than its share says.
    whole, rest = product(starts, jnp.uint32(min(-int(-uniform * ONE // 1), ONE - 1)))
    after = rest + phase
    return whole + (after < rest).astype(jnp.uint32), after


def _mixed(value: Array) -> Array:
    """Return uint32 that look random (the finalizer of MurmurHash3)."""
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EB_CA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2_AE35)
    return value ^ (value >> 16)


def _permuted(seed: Array, value: Array, round_: Array, n: int) -> Array:
    """Return images of numbers below n under a permutation of each round: a Feistel network, walked until below n."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = jnp.uint32((1 << half) - 1)
    keys = [_mixed(seed + _mixed(round_ * jnp.uint32(_ROUNDS) + jnp.uint32(k + 1))) for k in range(_ROUNDS)]

    def walked(value: Array) -> Array:
        left, right = value >> half, value & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << half) | right

    return jax.lax.while_loop(
        lambda value: (value >= n).any(), lambda value: jnp.where(value >= n, walked(value), value), walked(value)
    )
