"""Motion tracking in JAX: pure functions of data, which does not change, and of a state, which they return anew.

`data = motion.to_jax()`, `state = new_state(data, num_envs, key)`, and then, inside of jit or not, `lookup`, `step`,
`reset` and `sync`. Values and scheme are those of the host's sampler; starts come from another random stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.integers import checked_integer
from iltools_datasets.errors import ArgumentError
from iltools_datasets.motion.lookup import VALID
from iltools_datasets.store.keys import Key
from iltools_datasets.tracking import array_motion as rules
from iltools_datasets.tracking import jax_fixed_point as fixed
from iltools_datasets.tracking import jax_starts as starts
from iltools_datasets.tracking.counts import KINDS, Statistics
from iltools_datasets.tracking.inputs import checked_offsets
from iltools_datasets.tracking.jax_data import MotionData
from iltools_datasets.tracking.jax_turns import LIBRARY, turn_of

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise missing_extra("jax", "motion in JAX") from error

__all__ = ["MotionData", "MotionState", "lookup", "new_state", "probabilities", "reset", "statistics", "step", "sync"]

Array = Any
_VISITS, _FAILURES, _STARTS, _COMPLETIONS = range(len(KINDS))
_FURTHEST = float(2**30)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class MotionState:
    """Where E envs stand, what was counted in B bins, and the table that starts are drawn from: a pytree."""

    clip: jax.Array
    """int32 [E]."""
    start: fixed.Place
    """Where each env started, [E]."""
    steps: jax.Array
    """Control steps since then, int32 [E]."""
    key: jax.Array
    """Of the draws to come; each rank has its own."""
    seed: jax.Array
    """Of the order in which bins take turns, uint32, the same on all ranks."""
    turn: tuple[jax.Array, jax.Array, jax.Array]
    """Round and position in it of the next turn, and how far it is until that, uint32 each."""
    world_size: jax.Array
    """uint32."""
    since: jax.Array
    """Visits, failures, starts and completions since the last sync, int32 [B, 4]."""
    totals: tuple[jax.Array, jax.Array]
    """Those of all ranks up to then, upper and lower halves, uint32 [B, 4] each."""
    passes: jax.Array
    """N, float32 [B]."""
    failures: jax.Array
    """F, float32 [B]."""
    adaptive: jax.Array
    """Share of each bin in those starts that do not go in turn, float32 [B]."""
    sums: tuple[jax.Array, jax.Array]
    """The same, to draw from."""


def new_state(
    data: MotionData,
    num_envs: int,
    key: Any,
    *,
    rank: Any = 0,
    world_size: int = 1,
    statistics: Statistics | None = None,
) -> MotionState:
    """Return a state in which each env has its first start.

    Args:
        data: of `MotionSampler.to_jax`.
        num_envs: E.
        key: a key of JAX, or a seed; the same on all ranks.
        rank: int or a traced int32, which of `world_size` this is.
        world_size: how many ranks call `sync` with an `axis_name`.
        statistics: of `MotionSampler.statistics` or of another state: what happened in each bin before.
    """
    envs = checked_integer("num_envs", num_envs, 1)
    world = checked_integer("world_size", world_size, 1)
    if not isinstance(rank, jax.Array):
        rank = checked_integer("rank", rank, 0, world - 1)
    if isinstance(key, int | np.integer):
        key = jax.random.key(int(key))
    if data.origins is not None and data.origins.shape != (envs, 3):
        raise ArgumentError(f"num_envs: the sampler's env_origins are {list(data.origins.shape)}, envs {envs}")
    bins = len(data.base)
    zeros = jnp.zeros((bins, len(KINDS)), dtype=jnp.uint32)
    first = jnp.asarray(rank).astype(jnp.uint32)
    turns = len(data.turn_bins)
    state = MotionState(
        clip=jnp.zeros(envs, dtype=jnp.int32),
        start=fixed.Place(jnp.zeros(envs, dtype=jnp.int32), jnp.zeros(envs, dtype=jnp.uint32)),
        steps=jnp.zeros(envs, dtype=jnp.int32),
        key=jax.random.fold_in(key, first),
        seed=jax.random.bits(jax.random.fold_in(key, 2**32 - 1), (), jnp.uint32),
        turn=(first // turns, first % turns, jnp.uint32(0)),
        world_size=jnp.uint32(world),
        since=zeros.astype(jnp.int32),
        totals=(zeros, zeros),
        passes=jnp.zeros(bins, dtype=jnp.float32),
        failures=jnp.zeros(bins, dtype=jnp.float32),
        adaptive=data.base,
        sums=(jnp.zeros(len(data.last), dtype=jnp.uint32), jnp.zeros(bins, dtype=jnp.uint32)),
    )
    if statistics is not None:
        state = _with_statistics(state, statistics)
    begun: MotionState = jax.jit(_begun)(data, state)
    return begun


def _begun(data: MotionData, state: MotionState) -> MotionState:
    return reset(data, _with_table(data, state), jnp.ones(state.clip.shape, dtype=bool))


def _place(data: MotionData, state: MotionState, offset: float = 0.0) -> fixed.Place:
    """Return where envs are, or are in so many control steps, [E]."""
    whole, rest = fixed.of_floats(np.float64(offset))  # type: ignore[arg-type]
    most = data.most_steps[state.clip]
    steps = jnp.clip(state.steps + jnp.int32(whole), -most, most)
    return state.start + fixed.travelled(steps, jnp.full_like(state.start.rest, rest), data.rate[state.clip])


def lookup(
    data: MotionData,
    state: MotionState,
    offsets: ArrayLike | None = None,
    anchor_pos: Any = None,
    anchor_quat: Any = None,
) -> dict[Key, Array]:
    """Return the motion where envs stand and at offsets from there, `{key: [E, O, *row]}` and "valid" bool [E, O].

    Args:
        data, state: of `MotionSampler.to_jax` and `new_state`.
        offsets: `[O]` control steps, known when the function is traced; None = those of the sampler.
        anchor_pos: `[E, 3]` metres, the robot's anchor now; frame "robot" needs it.
        anchor_quat: `[E, 4]`, in the sampler's quaternion order.

    Raises:
        ArgumentError: offsets that are traced, none or not finite; poses that are missing or of another shape.
    """
    if isinstance(offsets, jax.core.Tracer):
        raise ArgumentError("offsets: expected numbers that are known when the function is traced, found a tracer")
    steps = checked_offsets(data.offsets if offsets is None else offsets)
    if (np.abs(steps) >= _FURTHEST).any():
        raise ArgumentError(f"offsets: expected less than {_FURTHEST:,.0f} control steps, found {steps}")
    envs = state.clip.shape[0]
    poses = _checked_poses(data, envs, anchor_pos, anchor_quat)
    last = data.last[state.clip]
    every = [fixed.moments(_place(data, state, offset), last) for offset in steps.tolist()]
    frame, fraction, valid = (jnp.stack(part, 1) for part in zip(*every, strict=True))
    first = data.first_row[state.clip]
    row = first[:, None] + frame
    after = row + (fraction > 0)
    turn = None
    if data.frame != "world":
        now_frame, now, _ = fixed.moments(_place(data, state), last)
        turn = turn_of(data, (row, after, fraction), (first + now_frame, first + now_frame + (now > 0), now), *poses)
    found: dict[Key, Array] = {}
    for column, rows in zip(data.columns, data.rows, strict=True):
        values = rules.between(LIBRARY, column.pieces, rows[row], rows[after], fraction)
        if turn is not None:
            values = rules.turned(LIBRARY, column.pieces, values, turn, data.xyzw)
        elif data.origins is not None:
            values = rules.moved(column.pieces, values, data.origins[:, None], LIBRARY)
        found[column.key] = values.reshape(*row.shape, *column.shape)
    found[VALID] = valid
    return found


def _checked_poses(data: MotionData, envs: int, anchor_pos: Any, anchor_quat: Any) -> tuple[Array, Array]:
    if data.frame == "robot" and (anchor_pos is None or anchor_quat is None):
        raise ArgumentError("frame='robot' needs anchor_pos and anchor_quat, where the robot's anchor is")
    found: list[Array] = []
    for name, pose, width in (("anchor_pos", anchor_pos, 3), ("anchor_quat", anchor_quat, 4)):
        if pose is None:
            found.append(None)
            continue
        array = jnp.asarray(pose)
        real = array.dtype != bool and not jnp.issubdtype(array.dtype, jnp.complexfloating)
        if array.shape != (envs, width) or not real:
            raise ArgumentError(f"{name}: expected numbers {[envs, width]}, found {array.dtype} {list(array.shape)}")
        found.append(array.astype(jnp.float32))
    return found[0], found[1]


def _standing(data: MotionData, state: MotionState) -> tuple[Array, Array]:
    """Return the bin of each env, [E], as many as there are where a clip has none, and whether its clip is over."""
    place = _place(data, state)
    near = fixed.tolerant(place)
    first, count = data.first_bin[state.clip], data.bin_count[state.clip]
    begin = data.bin_begin
    bins = len(data.base)

    def is_beyond(at: Array) -> Array:
        following = jnp.minimum(at + 1, bins - 1)
        return ~near.reaches(fixed.Place(begin.frame[following], begin.rest[following]))

    at = fixed.first_where(first, count, data.most_bins, is_beyond)
    return jnp.where(count > 0, at, bins), fixed.is_over(place, data.last[state.clip])


def _counted(state: MotionState, what: int, bins: Array, where: Array) -> MotionState:
    """Return a state in which one more is counted in the bin of each env that is meant."""
    return replace(state, since=state.since.at[bins, what].add(where.astype(jnp.int32), mode="drop"))


def step(data: MotionData, state: MotionState) -> tuple[MotionState, Array]:
    """Count a visit where each env stands and move it by a control step.

    Returns:
        The state, and bool [E]: the clip is over. Until it is reset such an env stands on its last frame.
    """
    before, ended_before = _standing(data, state)
    moved = replace(state, steps=jnp.minimum(state.steps + 1, data.most_steps[state.clip]))
    after, over = _standing(data, moved)
    moved = _counted(moved, _VISITS, before, ~ended_before)
    moved = _counted(moved, _COMPLETIONS, before, ~ended_before & ((after != before) | over))
    return moved, over


def reset(data: MotionData, state: MotionState, mask: Any, terminated: Any = None) -> MotionState:
    """Book failures where envs stand, then draw new starts for those that a mask means.

    Args:
        data, state: of `MotionSampler.to_jax` and `new_state`.
        mask: bool [E].
        terminated: bool [E], which of them failed; None = none. Time-outs and ends of clips are no failures.

    Raises:
        ArgumentError: no bools, or of another shape.
    """
    envs = state.clip.shape[0]
    flags = []
    for name, given in (("mask", mask), ("terminated", terminated)):
        array = (
            jnp.zeros(envs, dtype=bool)
            if given is None and name == "terminated"
            else jnp.asarray(() if given is None else given)
        )
        if array.shape != (envs,) or array.dtype != bool:
            raise ArgumentError(f"{name}: expected bools {[envs]}, found {array.dtype} {list(array.shape)}")
        flags.append(array)
    where, failed = flags
    if terminated is not None:
        state = _counted(state, _FAILURES, _standing(data, state)[0], where & failed)
    key, drawing = jax.random.split(state.key)
    bits = jax.random.bits(drawing, (3, envs), jnp.uint32)
    bins = starts.drawn(state.sums, bits[:2], data.first_bin, data.bin_count, data.most_bins)
    turn = state.turn
    uniform = data.adaptive.uniform
    if uniform > 0:
        number = jnp.cumsum(where, dtype=jnp.uint32)
        before = starts.turns(uniform, turn[2], number - where)[0]
        taken, phase = starts.turns(uniform, turn[2], number)
        n = jnp.uint32(len(data.turn_bins))
        position = turn[1] + before * state.world_size
        turned = starts.in_turn(
            state.seed, position % n, turn[0] + position // n, data.turn_bins, data.turn_ends, data.flat
        )
        bins = jnp.where(taken > before, turned, bins)
        behind = turn[1] + taken[-1] * state.world_size
        turn = (turn[0] + behind // n, behind % n, phase[-1])
    start = _start_in(data, bins, bits[2])
    moved = replace(
        state,
        clip=jnp.where(where, data.bin_clip[bins], state.clip),
        start=fixed.Place(
            jnp.where(where, start.frame, state.start.frame), jnp.where(where, start.rest, state.start.rest)
        ),
        steps=jnp.where(where, 0, state.steps),
        key=key,
        turn=turn,
    )
    return _counted(moved, _STARTS, _standing(data, moved)[0], where)


def _start_in(data: MotionData, bins: Array, fraction: Array) -> fixed.Place:
    """Return a place in each bin: which one says a fraction, uint32 in units of 2^-32."""
    if not data.any_time:
        frame = data.start_frame[bins] + fixed.part(fraction, data.start_count[bins]).astype(jnp.int32)
        return fixed.Place(frame, jnp.zeros_like(fraction))
    begin, span = (fixed.Place(each.frame[bins], each.rest[bins]) for each in (data.bin_begin, data.start_span))
    return begin + fixed.times(fraction, span)


def sync(data: MotionData, state: MotionState, axis_name: Any = None) -> MotionState:
    """Turn what was counted since the last time into the table that starts are drawn from: once per iteration.

    Args:
        data, state: of `MotionSampler.to_jax` and `new_state`.
        axis_name: of the mapped axis (`jax.vmap`, `jax.shard_map`) whose ranks sum their counts; all then hold the
            same table, to the bit. (One rank that counted it all is another program: its last bits may differ.)
    """
    counts = state.since if axis_name is None else jax.lax.psum(state.since, axis_name)
    new = counts[:, _VISITS].astype(jnp.float32) / data.bin_steps
    kept = jnp.float32(1)
    if data.adaptive.half_life is not None:
        of_passes, of_syncs = data.adaptive.half_life
        share = starts.total(new) / jnp.float32(len(data.turn_bins) * of_passes)
        kept = jnp.exp2(-jnp.minimum(share, jnp.float32(1 / of_syncs)))
    upper, lower = state.totals
    after = lower + counts.astype(jnp.uint32)
    return _with_table(
        data,
        replace(
            state,
            since=jnp.zeros_like(state.since),
            totals=(upper + (after < lower), after),
            passes=kept * state.passes + new,
            failures=kept * state.failures + counts[:, _FAILURES].astype(jnp.float32),
        ),
    )


def _with_table(data: MotionData, state: MotionState) -> MotionState:
    scheme, bins = data.adaptive, (data.first_bin, data.bin_count, data.bin_clip, data.most_bins)
    if scheme.score is None:
        score = starts.scores(scheme, state.passes, state.failures, *bins)
    else:
        score = starts.own_scores(scheme, state.failures, state.passes, data.base)
    adaptive = starts.shares(data.base, score, scheme.cap)
    return replace(state, adaptive=adaptive, sums=starts.sums_to_draw_from(adaptive, *bins))


def probabilities(data: MotionData, state: MotionState) -> Array:
    """Return how likely the next start is in each bin, float32 [B]."""
    uniform = jnp.float32(data.adaptive.uniform)
    return (1 - uniform) * state.adaptive + uniform * data.base


def statistics(state: MotionState) -> Statistics:
    """Return what happened in each bin, for `MotionSampler.load_statistics` or another state; waits for the device."""
    upper, lower = (np.asarray(half).astype(np.int64) for half in state.totals)
    return Statistics(
        passes=np.asarray(state.passes, dtype=np.float64),
        failures=np.asarray(state.failures, dtype=np.float64),
        since=np.asarray(state.since, dtype=np.int64).reshape(-1),
        totals=((upper << 32) + lower).reshape(-1),
    )


def _with_statistics(state: MotionState, given: Statistics) -> MotionState:
    given.check(len(state.passes))
    if len(given.since) and given.since.max() > np.iinfo(np.int32).max:
        raise ArgumentError("statistics: counts since the last sync do not fit int32; sync first")
    shape = state.since.shape
    totals = given.totals.reshape(shape)
    return replace(
        state,
        passes=jnp.asarray(given.passes.astype(np.float32)),
        failures=jnp.asarray(given.failures.astype(np.float32)),
        since=jnp.asarray(given.since.reshape(shape).astype(np.int32)),
        totals=(jnp.asarray((totals >> 32).astype(np.uint32)), jnp.asarray((totals % fixed.ONE).astype(np.uint32))),
    )
