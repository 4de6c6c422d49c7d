"""Motion that goes through a device in windows is the motion that is all there, whatever is read when."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.errors import ArgumentError, BudgetError, MissingKeyError
from iltools_datasets.tracking import MotionSampler

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("scipy", reason="makes the motion")

from iltools_datasets.tracking.windows import Measure, Slots  # noqa: E402
from motion_cases import build, motion_attributes  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning"),
]
CONTROL_DT, OFFSETS = 0.02, [0, 5, 1, -2.5, 12]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return build(tmp_path_factory.mktemp("bodies") / "store", (400, 7, 90, 2, 333))[0]


@pytest.fixture(scope="module")
def stores(store, tmp_path_factory):
    """Two, whose clips have other rates."""
    other = build(tmp_path_factory.mktemp("bodies") / "store", (150, 60), attributes=motion_attributes(47.0))[0]
    return {"one": store, "other": other}


def rolling(store, device, num_envs, **options):
    options = {"offsets": OFFSETS, "window_s": 0.7, **options}
    sampler = MotionSampler(store, num_envs, CONTROL_DT, as_="torch", device=device, **options)
    assert type(sampler).__name__ == "RollingSampler"
    return sampler


def resident(store, device, num_envs, **options):
    return MotionSampler(store, num_envs, CONTROL_DT, as_="torch", device=device, **{"offsets": OFFSETS, **options})


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for key, rows in wanted.items():
        assert found[key].dtype == rows.dtype
        assert found[key].device == rows.device
        # Bits: NaN is NaN, and -0 is not 0.
        np.testing.assert_array_equal(found[key].cpu().numpy().view(np.uint8), rows.cpu().numpy().view(np.uint8))


def each_in_its_place(sampler):
    """Every env follows the window that it is in, and no slot has two."""
    motion = sampler.motion
    slots = motion.slots
    assert len(set(slots.holds.values())) == len(slots.holds) <= motion.count
    window_of = {slot: window for window, slot in slots.holds.items()}
    users = np.bincount(sampler._slot[sampler._slot >= 0], minlength=motion.count)
    np.testing.assert_array_equal(users, slots._users)
    for env in np.flatnonzero(sampler._slot >= 0):
        assert window_of[sampler._slot[env]] == (int(sampler.clip[env]), sampler._begin[env])


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_windows_are_the_motion_that_is_all_there(store, stores, data):
    """Any loop: falls, ends, envs that outlive their windows, resets of some or all, placed envs, few slots."""
    num_envs = data.draw(st.integers(1, 9))
    store = data.draw(st.sampled_from([store, stores]))
    options = data.draw(
        st.sampled_from(
            [
                {},
                {"frame": "heading", "anchor": "torso"},
                {"frame": "anchor", "anchor": "torso", "start": "time"},
                {"bodies": ["foot"], "env_origins": np.arange(3.0 * num_envs).reshape(-1, 3), "adaptive": None},
            ]
        )
    )
    window_s = data.draw(st.sampled_from([0.02, 0.1, 0.35, 2.0, 100.0]))
    whole = resident(store, "cpu", num_envs, **options)
    each = rolling(store, "cpu", num_envs, window_s=window_s, **options).motion
    slots = data.draw(st.integers(num_envs, num_envs + 20))
    rolls = rolling(store, "cpu", num_envs, window_s=window_s, budget=slots * each.states * each.row_bytes, **options)
    assert rolls.motion.count == min(slots, num_envs + 16)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for sampler in (whole, rolls):
        sampler.reset()
    for step in range(data.draw(st.integers(1, 40))):
        what = data.draw(st.sampled_from(["look", "look", "look", "some", "all", "place", "sync", "resume", "pause"]))
        some = rng.permutation(num_envs)[: rng.integers(1, num_envs + 1)]
        if what == "look":
            same(rolls.lookup(), whole.lookup())
            same(rolls.lookup([1, -1], env_ids=some, keys=["yaw"]), whole.lookup([1, -1], env_ids=some, keys=["yaw"]))
        elif what == "place":
            clip, time = rng.integers(0, 5, len(some)), np.zeros(len(some))
            for sampler in (whole, rolls):
                sampler.reset(some, clip=clip, time=time)
        elif what == "resume":
            state = rolls.state_dict()
            rolls = rolling(store, "cpu", num_envs, window_s=window_s, **options)
            rolls.load_state_dict(state)
        for sampler in (whole, rolls):
            if what in ("some", "all"):
                sampler.reset(some if what == "some" else None)
            elif what == "sync":
                sampler.sync()
            elif what == "pause":
                with sampler.paused():
                    sampler.reset(some[:1])
        ended = whole.step()
        assert (rolls.step() == ended).all()
        fell = torch.from_numpy(rng.random(num_envs) < 0.1)
        for sampler in (whole, rolls):
            if step % 2:
                sampler.reset(ended | fell, fell)
        each_in_its_place(rolls)
        assert (rolls.clip == whole.clip).all()
        assert (rolls.time == whole.time).all()
    same(rolls.lookup(), whole.lookup())
    np.testing.assert_array_equal(rolls.coverage().starts, whole.coverage().starts)
    for name, value in whole.state_dict().items():
        np.testing.assert_array_equal(rolls.state_dict()[name], value)


def test_a_loop_on_a_device(store, device):
    """Windows of later starts are copied while the device looks up, into slots that were just left."""
    whole, rolls = resident(store, device, 30), rolling(store, device, 30)
    rng = np.random.default_rng(0)
    for sampler in (whole, rolls):
        sampler.reset()
    for step in range(150):
        same(rolls.lookup(), whole.lookup())
        fell = torch.from_numpy(rng.random(30) < 0.05).to(device)
        ended = whole.step()
        assert (rolls.step() == ended).all()
        for sampler in (whole, rolls):
            sampler.reset(ended | fell, fell)
            if step % 24 == 23:
                sampler.sync()
    assert rolls.repeated == 0
    poses = {"anchor_pos": np.zeros((30, 3)), "anchor_quat": np.tile([1.0, 0, 0, 0], (30, 1))}
    robots = {"frame": "robot", "anchor": "torso"}
    same_state = whole.state_dict()
    whole, rolls = resident(store, device, 30, **robots), rolling(store, device, 30, **robots)
    for sampler in (whole, rolls):
        sampler.load_state_dict(same_state)
    same(rolls.lookup(**poses), whole.lookup(**poses))


def test_what_comes_is_read_ahead(store):
    """In the order of draws, while nobody waits."""
    rolls = rolling(store, "cpu", 4)
    rolls.reset()
    assert rolls.motion.waited == 4
    rng = np.random.default_rng(0)
    for _ in range(40):
        rolls.lookup()
        wanted = rolls._going_on() + rolls._upcoming(16)
        while rolls.motion._pending:  # give the thread its time
            rolls.motion._store(*rolls.motion._prefetcher.take(timeout=60))
        there = [window in rolls.motion.slots.holds for window in wanted]
        assert there == sorted(there, reverse=True)
        assert sum(there) >= 10
        rolls.reset(rolls.step().numpy() | (rng.random(4) < 0.2))
    assert rolls.coverage().starts.sum() > 20
    assert rolls.motion.waited == 4


def test_who_does_not_wait_repeats_what_is_there(store):
    rolls = rolling(store, "cpu", 12, wait=False)
    rolls.motion.want = lambda windows: None  # nothing is ever read ahead
    rolls.reset()
    starts = {(int(clip), time) for clip, time in zip(rolls.clip, rolls.time.tolist(), strict=True)}
    coming = rolls._upcoming(3)
    for _ in range(5):
        rolls.lookup()
        rolls.step()
        rolls.reset([3, 1, 7], [True, False, False])
        each_in_its_place(rolls)
    assert rolls.repeated == 15 - sum(window in starts for window in coming[:1])
    assert all((int(rolls.clip[env]), float(rolls.time[env])) in starts for env in (3, 1, 7))
    coverage = rolls.coverage()
    assert (coverage.starts.sum(), coverage.failures.sum(), rolls.motion.waited) == (12 + 15, 5, 12)
    # Starts whose windows were not there are still to come.
    del rolls.motion.want
    rolls.wait = True
    rolls.reset([3, 1, 7])
    assert [(int(rolls.clip[env]), float(rolls.time[env])) for env in (3, 1, 7)] == coming


def test_the_thread_goes_with_its_sampler(store):
    rolls = rolling(store, "cpu", 4)
    rolls.reset()
    thread = rolls.motion._prefetcher._thread
    assert thread.is_alive()
    del rolls
    gc.collect()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_budget_that_is_too_small_says_by_how_much(store):
    one = rolling(store, "cpu", 3, keys=["yaw"]).motion
    each = one.states * one.row_bytes
    assert rolling(store, "cpu", 3, keys=["yaw"], budget=3 * each).motion.count == 3
    with pytest.raises(BudgetError, match=rf"take {3 * each:,} bytes of {3 * each - 1:,} on cpu: 1 too many"):
        rolling(store, "cpu", 3, keys=["yaw"], budget=3 * each - 1)


def test_wrong_calls(store):
    rolls = rolling(store, "cpu", 4)
    for options, match in (
        ({"window_s": 0.0}, "window_s: expected a positive"),
        ({"window_s": float("nan")}, "window_s: expected a positive"),
        ({"boundary": "error"}, "boundary='error'"),
    ):
        with pytest.raises(ArgumentError, match=match):
            rolling(store, "cpu", 4, **options)
    with pytest.raises(ArgumentError, match="window_s: is for motion on a device"):
        MotionSampler(store, 4, CONTROL_DT, window_s=1.0)
    with pytest.raises(ArgumentError, match="env 0 stands nowhere yet"):
        rolls.lookup()
    rolls.reset()
    before = rolls.state_dict()
    for error, match, call in (
        (ArgumentError, r"offsets: windows hold those from -2.5 to 12", lambda: rolls.lookup([13])),
        (ArgumentError, "offsets: windows hold", lambda: rolls.lookup([-3])),
        (ArgumentError, "out: look-ups on a device", lambda: rolls.lookup(out={})),
        (MissingKeyError, "no key 'no'", lambda: rolls.lookup(keys=["no"])),
        (ArgumentError, "twice", lambda: rolls.reset([2, 2])),
    ):
        for wait in (True, False):
            rolls.wait = wait
            with pytest.raises(error, match=match):
                call()
    for name, value in rolls.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@settings(max_examples=200, deadline=None)
@given(
    fps=st.floats(0.1, 500), last=st.integers(0, 3000), seconds=st.floats(1e-3, 50), at=st.floats(0, 1),
    into=st.floats(0, 1), behind=st.floats(-3, 0), ahead=st.floats(0, 3),
)  # fmt: skip
def test_a_window_has_all_frames_that_an_env_in_it_looks_at(fps, last, seconds, at, into, behind, ahead):
    measure = Measure(np.array([fps]), np.array([last]), seconds, behind, ahead)
    begin = at * last / fps
    first, count, to_the_end = measure.frames((0, begin))
    assert 1 <= count <= measure.states
    assert first >= 0
    assert first + count <= last + 1
    assert to_the_end == (first + count == last + 1)
    for offset in (behind, 0.0, ahead):
        place = np.clip((begin + into * seconds + offset) * fps, 0, last)
        frame = min(np.floor(place + 1e-6), last)
        assert first <= frame
        assert frame + (place > frame) < first + count


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 6), moves=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=60))
def test_slots_keep_what_is_followed_and_what_is_wanted(count, moves):
    slots = Slots(count)
    followed: list[int] = []
    wanted: list[tuple[int, float]] = []
    for what, number in moves:
        window = (number, 0.0)
        kept = set(slots.holds)
        if what == 0 and window not in slots.holds:
            found = slots.claim(window)
            evicted = kept - slots.holds.keys()
            assert len(evicted) <= 1
            assert not evicted & set(wanted)
            if found is None:
                needed = {slots.holds[each] for each in wanted if each in slots.holds} | set(followed)
                assert len(needed) == count
                assert slots.room == 0
        elif what == 1 and window not in slots.holds and len(set(followed)) < count:
            # Somebody waits: there is room as long as not every slot is followed.
            assert slots.claim(window, now=True) is not None
        elif what == 2 and window in slots.holds:
            followed.append(slots.enter(window))
        elif what == 3 and followed:
            slots.leave(followed.pop(number % len(followed)))
        elif what == 4:
            wanted = [(each % 10, 0.0) for each in range(number, number + number % 4)]
            assert slots.want(wanted) == [each for each in dict.fromkeys(wanted) if each not in slots.holds]
        assert len(set(slots.holds.values())) == len(slots.holds) <= count
        assert set(followed) <= set(slots.holds.values())
