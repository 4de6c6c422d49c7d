"""Motion tracking in JAX gives the host's values, counts and tables; its starts are drawn by the same scheme."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.errors import ArgumentError, MissingKeyError
from iltools_datasets.tracking import Adaptive, MotionSampler
from iltools_datasets.tracking.counts import Statistics

jax = pytest.importorskip("jax", reason="needs the jax extra")
pytest.importorskip("scipy", reason="makes the motion")

from iltools_datasets.tracking import jax_fixed_point as fixed  # noqa: E402
from iltools_datasets.tracking import jax_motion as jm  # noqa: E402
from motion_cases import build  # noqa: E402
from tracking_cases import time_store  # noqa: E402

pytestmark = [
    pytest.mark.jax,
    pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning"),
]
CONTROL_DT, ENVS = 0.02, 40
lookup, step, reset = jax.jit(jm.lookup, static_argnums=2), jax.jit(jm.step), jax.jit(jm.reset)
sync = jax.jit(jm.sync)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return build(tmp_path_factory.mktemp("bodies") / "store", (60, 7, 90))[0]


@pytest.fixture(scope="module")
def even_store(tmp_path_factory):
    """All bins weigh the same."""
    return time_store(tmp_path_factory.mktemp("even") / "store", [float(2 + k % 7) for k in range(23)])


def place_host(host, state):
    """Put a host's envs where those of a state stand after no step."""
    clip = np.asarray(state.clip)
    frames = np.asarray(state.start.frame) + np.asarray(state.start.rest) / 2**32
    host.reset(clip=clip, time=frames / host._mixture.fps[clip])


def placed(host, data, state):
    """Return a state whose envs start where a host's do."""
    clip = np.asarray(host.clip)
    start = fixed.Place(*map(jax.numpy.asarray, fixed.of_floats(np.round(host.time * host._mixture.fps[clip]))))
    return replace(state, clip=jax.numpy.asarray(clip, dtype=np.int32), start=start, steps=0 * state.steps)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"frame": "anchor", "anchor": "torso", "quat_order": "xyzw"},
        {"start": "time", "frame": "robot", "anchor": "torso"},
        {"frame": "robot", "anchor": "torso", "heading": "difference", "quat_order": "xyzw"},
        {"bodies": ["foot", "torso"], "joints": ["knee"], "env_origins": np.arange(120.0).reshape(ENVS, 3)},
        {"keys": ["phase", "contact", "action", "yaw", "body_quat_w"]},
    ],
)
def test_the_same_motion(store, options):
    host = MotionSampler(store, ENVS, CONTROL_DT, [0, 1, 5, -2.5, 200], **options)
    rng = np.random.default_rng(0)
    poses = ()
    if options.get("frame") == "robot":
        poses = tuple(rng.normal(size=(ENVS, width)).astype(np.float32) for width in (3, 4))
    data = host.to_jax()
    state = jm.new_state(data, ENVS, 0)
    place_host(host, state)
    turned = "frame" in options
    for _ in range(4):
        found = lookup(data, state, None, *poses)
        wanted = host.lookup(None, None, *poses)
        assert found.keys() == wanted.keys()
        for key, theirs in wanted.items():
            mine = np.asarray(found[key])
            assert mine.shape == theirs.shape
            if key == "body_quat_w":
                assert np.abs(mine - theirs).max() < (2e-5 if turned else 3e-7)
            elif theirs.dtype.kind == "f":
                off = np.abs(mine.astype(np.float64) - theirs)
                off = np.minimum(off, np.abs(2 * np.pi - off)) if key == "yaw" else off
                # An ulp of twice the largest is one of the larger of both frames; a heading in float32 costs more.
                most = (100 if turned else 1) * np.spacing(2 * np.abs(theirs).max())
                assert off.max() <= most, key
            else:
                np.testing.assert_array_equal(mine, theirs)
        state, ended = step(data, state)
        np.testing.assert_array_equal(ended, host.step())


def test_frames_are_copied_bit_for_bit(store):
    host = MotionSampler(store, ENVS, 1 / 30, [0, 1, -1, 3], keys=["joint_pos", "body_quat_w", "yaw"])
    data = host.to_jax()
    state = jm.new_state(data, ENVS, 5)
    place_host(host, state)
    for _ in range(5):
        for key, wanted in host.lookup().items():
            np.testing.assert_array_equal(np.asarray(lookup(data, state, None)[key]), wanted)
        state, _ = step(data, state)
        host.step()


@settings(deadline=None, max_examples=200)
@given(
    st.floats(1e-3, 0.5),
    st.floats(1.0, 1000.0),
    st.integers(-(10**6), 10**6),
    st.integers(0, 2**32 - 1),
)
def test_places_are_exact(control_dt, fps, steps, rest):
    rate = fixed.of_rates(control_dt, np.array([fps]))
    found = fixed.travelled(np.array([steps], np.int32), np.array([rest], np.uint32), jax.numpy.asarray(rate))
    wanted = (steps + Fraction(rest, 2**32)) * Fraction(control_dt) * Fraction(fps)
    mine = int(found.frame[0]) + Fraction(int(found.rest[0]), 2**32)
    assert abs(mine - wanted) <= Fraction(4, 2**32)


@pytest.mark.parametrize("options", [{"start": "time", "adaptive": Adaptive(bin_s=0.31)}])
def test_the_same_counts(store, options):
    host = MotionSampler(store, ENVS, CONTROL_DT, keys=["yaw"], **options)
    data = host.to_jax()
    state = jm.new_state(data, ENVS, 3)
    rng = np.random.default_rng(0)
    place_host(host, state)
    for number in range(150):
        state, ended = step(data, state)
        np.testing.assert_array_equal(ended, host.step())
        fell = rng.random(ENVS) < 0.03
        over = fell | np.asarray(ended)
        state = reset(data, state, over, fell)
        ids = np.flatnonzero(over)
        clip = np.asarray(state.clip)[ids]
        frames = (np.asarray(state.start.frame) + np.asarray(state.start.rest) / 2**32)[ids]
        host.reset(ids, fell[ids], clip=clip, time=frames / host._mixture.fps[clip])
        if number % 50 == 49:
            np.testing.assert_array_equal(jm.statistics(state).since, host.statistics().since)
            host.sync()
            state = sync(data, state)
            np.testing.assert_allclose(jm.probabilities(data, state), host.probabilities(), rtol=2e-5)
    np.testing.assert_array_equal(jm.statistics(state).totals, host.statistics().totals)
    assert jm.statistics(state).totals.reshape(-1, 4).min(axis=0).max() > 0


@pytest.mark.parametrize(
    "adaptive",
    [
        Adaptive(),
        Adaptive(statistic="count", cap=None, look_back=(9, 0.5)),
        Adaptive(score=lambda failures, passes, base: failures * failures / (1 + passes)),
    ],
)
def test_floor_and_cap_hold_for_any_statistics(even_store, adaptive):
    host = MotionSampler(even_store, 8, 0.2, adaptive=adaptive)
    data = host.to_jax()
    bins = len(host.probabilities())
    rng = np.random.default_rng(0)
    zeros = np.zeros(4 * bins, dtype=np.int64)
    for case in range(12):
        hard = rng.random(bins) < [0.02, 0.2, 1.0][case % 3]
        failures = np.float32(rng.exponential(10.0, bins) * hard).astype(np.float64)
        passes = np.float32(rng.exponential(20.0, bins) * (rng.random(bins) < 0.7)).astype(np.float64)
        given = Statistics(passes, failures, zeros, zeros)
        state = jm.new_state(data, 8, 0, statistics=given)
        base, share = np.asarray(data.base), np.asarray(state.adaptive)
        found = np.asarray(jm.probabilities(data, state))
        assert (found >= np.float32(adaptive.uniform) * base).all()
        assert adaptive.cap is None or (share <= np.float32(adaptive.cap) * base).all()
        assert found.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
        host.load_statistics(given)
        np.testing.assert_allclose(found, host.probabilities(), rtol=1e-4, atol=1e-9)


def test_starts_follow_the_table_and_lie_in_their_bins(even_store):
    host = MotionSampler(even_store, 4096, 0.2, adaptive=Adaptive(uniform=0))
    bins = len(host.probabilities())
    rng = np.random.default_rng(0)
    zeros = np.zeros(4 * bins, dtype=np.int64)
    failures = rng.exponential(5.0, bins) * (rng.random(bins) < 0.3)
    host.load_statistics(Statistics(np.full(bins, 9.0), failures, zeros, zeros))
    data = host.to_jax()
    state = jm.new_state(data, 4096, 1, statistics=host.statistics())
    everyone = np.ones(4096, dtype=bool)
    for _ in range(49):
        state = reset(data, state, everyone)
    started = jm.statistics(state).since.reshape(-1, 4)[:, 2]
    expected = host.probabilities() * started.sum()
    assert started.sum() == 50 * 4096
    many = expected > 5
    squares = ((started - expected)[many] ** 2 / expected[many]).sum()
    assert squares < many.sum() + 5 * np.sqrt(2 * many.sum())
    place_host(host, state)
    coverage = host.coverage()
    assert coverage.starts.sum() == 4096


@pytest.mark.parametrize(("uniform", "envs"), [(0.1, 7), (0.1, 300), (1.0, 5)])
def test_every_bin_has_its_turn(even_store, uniform, envs):
    host = MotionSampler(even_store, envs, 0.2, adaptive=Adaptive(uniform=uniform, cap=None))
    bins = len(host.probabilities())
    zeros = np.zeros(4 * bins, dtype=np.int64)
    # Whatever is drawn is the first bin, so all others are those that have their turn.
    data = host.to_jax()
    assert data.flat
    only_first = Adaptive(uniform=uniform, cap=None, score=lambda failures, passes, base: failures)
    data = replace(data, adaptive=only_first)
    failures = np.zeros(bins)
    failures[0] = 1.0
    state = jm.new_state(data, envs, 2, statistics=Statistics(np.zeros(bins), failures, zeros, zeros))
    wanted = round(bins / uniform)
    everyone = np.ones(envs, dtype=bool)
    starts = envs
    while starts < wanted:
        some = everyone & (np.arange(envs) < wanted - starts)
        state = reset(data, state, some)
        starts += int(some.sum())
    started = jm.statistics(state).since.reshape(-1, 4)[:, 2]
    assert started.sum() == max(wanted, envs)
    assert started.min() >= 1
    if starts == wanted:
        assert (started[1:] == 1).all()


def test_uneven_bins_have_their_turns_by_weight(small_store):
    host = MotionSampler(small_store, 64, 0.2, adaptive=None, clip_weights=[1.0, 3.0, 1.0, 0.0])
    data = host.to_jax()
    assert not data.flat
    state = jm.new_state(data, 64, 2)
    for _ in range(49):
        state = reset(data, state, np.ones(64, dtype=bool))
    started = jm.statistics(state).since.reshape(-1, 4)[:, 2]
    rounds = 50 * 64 / len(data.turn_bins)
    # In each round the whole number below or above its part of one, whose mean is that part.
    np.testing.assert_allclose(started, host.probabilities() * started.sum(), atol=0.02 * rounds + 2)
    assert (started[host.probabilities() == 0] == 0).all()


def test_ranks_hold_the_table_of_one(even_store):
    host = MotionSampler(even_store, 60, 0.2)
    data = host.to_jax()
    ranks = 3

    def of_rank(rank, fell):
        state = jm.new_state(data, 20, 4, rank=rank, world_size=ranks)
        first = state
        for falls in fell:
            state, ended = jm.step(data, state)
            state = jm.reset(data, state, ended | falls, falls)
        return first, state, jm.sync(data, state, "ranks")

    fell = np.random.default_rng(0).random((ranks, 6, 20)) < 0.2
    first, before, after = jax.jit(jax.vmap(of_rank, axis_name="ranks"))(np.arange(ranks), fell)
    adaptive = np.asarray(after.adaptive)
    assert (adaptive == adaptive[0]).all()
    assert not np.array_equal(first.clip[0], first.clip[1])
    alone = jm.new_state(data, 20, 4)
    alone = sync(data, replace(alone, since=before.since.sum(0, dtype=np.int32)))
    # Another program, which rounds in other places.
    np.testing.assert_allclose(adaptive[0], alone.adaptive, rtol=2e-6)
    np.testing.assert_array_equal(after.totals[1][2], alone.totals[1])
    # Turns of all ranks together are one round: with nothing but turns, no bin twice before each was there once.
    turns = MotionSampler(even_store, 60, 0.2, adaptive=None).to_jax()
    bins = len(turns.base)
    each = bins // ranks
    together = jax.vmap(lambda rank: jm.new_state(turns, each, 4, rank=rank, world_size=ranks))(np.arange(ranks))
    assert np.asarray(together.since)[:, :, 2].sum(0).max() == 1


def test_statistics_go_both_ways(even_store):
    host = MotionSampler(even_store, 60, 0.2)
    host.reset()
    rng = np.random.default_rng(0)
    for _ in range(50):
        fell = rng.random(60) < 0.1
        host.report_failures(fell)
        host.reset(host.step() | fell)
    host.sync()
    host.step()
    data = host.to_jax()
    told = host.statistics()
    state = jm.new_state(data, 60, 0, statistics=told)
    np.testing.assert_allclose(jm.probabilities(data, state), host.probabilities(), rtol=1e-4)
    back = jm.statistics(state)
    np.testing.assert_array_equal(back.totals, told.totals)
    # The first starts of the new envs are counted, and nothing else.
    assert (back.since - told.since).sum() == 60
    np.testing.assert_allclose(back.passes, told.passes, rtol=1e-7)
    other = MotionSampler(even_store, 5, 0.2)
    other.reset()
    before = other.time.copy()
    other.load_statistics(back)
    np.testing.assert_array_equal(other.time, before)
    np.testing.assert_allclose(other.probabilities(), host.probabilities(), rtol=1e-6)
    np.testing.assert_array_equal(other.statistics().failures, back.failures)
    again = MotionSampler(even_store, 5, 0.2)
    again.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(again.probabilities(), other.probabilities())
    # More than 2^32 of anything is still a whole number.
    many = replace(told, totals=told.totals + (5 << 32))
    np.testing.assert_array_equal(jm.statistics(jm.new_state(data, 60, 0, statistics=many)).totals, many.totals)


def test_nothing_is_traced_twice(store):
    host = MotionSampler(store, ENVS, CONTROL_DT, keys=["yaw"])
    data = host.to_jax()
    traced = []

    @jax.jit
    def loop(data, state):
        traced.append(1)
        state, ended = jm.step(data, state)
        return jm.sync(data, jm.reset(data, state, ended, ended)), jm.lookup(data, state)

    state = jm.new_state(data, ENVS, 0)
    for _ in range(3):
        state, _ = loop(data, state)
    assert len(traced) == 1


def test_wrong_calls(store):
    host = MotionSampler(store, ENVS, CONTROL_DT, frame="robot", anchor="torso", keys=["yaw"])
    data = host.to_jax()
    state = jm.new_state(data, ENVS, 0)
    ones, poses = np.ones(ENVS, dtype=bool), (np.zeros((ENVS, 3)), np.zeros((ENVS, 4)))
    bins = len(host.probabilities())
    zeros, counts = np.zeros(bins), np.zeros(4 * bins, dtype=np.int64)
    rogue = replace(data, adaptive=Adaptive(score=lambda failures, passes, base: base[:2]))
    negative = Statistics(zeros - 1, zeros, counts, counts)
    for error, match, call in (
        (ArgumentError, r"mask: expected bools \[40\], found bool \[3\]", lambda: reset(data, state, ones[:3])),
        (ArgumentError, r"mask: expected bools", lambda: jm.reset(data, state, None)),
        (
            ArgumentError,
            r"terminated: expected bools \[40\], found float32",
            lambda: reset(data, state, ones, 1.0 * ones),
        ),
        (ArgumentError, "frame='robot' needs", lambda: lookup(data, state, None)),
        (
            ArgumentError,
            r"anchor_quat: expected numbers \[40, 4\]",
            lambda: lookup(data, state, None, poses[0], poses[0]),
        ),
        (ArgumentError, "offsets", lambda: jm.lookup(data, state, [], *poses)),
        (ArgumentError, "offsets", lambda: jm.lookup(data, state, [np.nan], *poses)),
        (ArgumentError, "offsets: expected less than", lambda: jm.lookup(data, state, [2.0**30], *poses)),
        (ArgumentError, "found a tracer", lambda: jax.jit(jm.lookup)(data, state, np.zeros(1), *poses)),
        (ArgumentError, "num_envs", lambda: jm.new_state(data, 0, 0)),
        (ArgumentError, "rank", lambda: jm.new_state(data, 4, 0, rank=2, world_size=2)),
        (ArgumentError, "score: expected numbers", lambda: jm.sync(rogue, state)),
        (ArgumentError, "statistics: passes", lambda: jm.new_state(data, 4, 0, statistics=negative)),
        (ArgumentError, "statistics: passes", lambda: host.load_statistics(negative)),
        (
            ArgumentError,
            "statistics: since",
            lambda: host.load_statistics(Statistics(zeros, zeros, counts[1:], counts)),
        ),
        (MissingKeyError, "no key 'no'", lambda: host.to_jax(["no"])),
        (ArgumentError, "keys", lambda: host.to_jax(["yaw", "yaw"])),
        (ArgumentError, "keys", lambda: host.to_jax([])),
        (ArgumentError, "boundary", lambda: MotionSampler(store, 4, CONTROL_DT, boundary="error").to_jax()),
    ):
        with pytest.raises(error, match=match):
            call()
    origins = MotionSampler(store, ENVS, CONTROL_DT, env_origins=np.zeros((ENVS, 3)), keys=["yaw"]).to_jax()
    with pytest.raises(ArgumentError, match="num_envs: the sampler's env_origins"):
        jm.new_state(origins, 4, 0)
    # A pose that is not finite is the business of its env alone.
    moving = MotionSampler(store, ENVS, CONTROL_DT, frame="robot", anchor="torso", keys=["body_pos_w"]).to_jax()
    state = jm.new_state(moving, ENVS, 0)
    position, rotation = np.zeros((ENVS, 3)), np.tile([1.0, 0, 0, 0], (ENVS, 1))
    position[3, 2] = np.nan
    found = np.asarray(lookup(moving, state, None, position, rotation)["body_pos_w"])
    assert np.isnan(found[3, ..., :2]).all()
    assert np.isfinite(np.delete(found, 3, 0)).all()
