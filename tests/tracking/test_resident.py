"""A sampler on a device gives what one on the host gives: the same starts, counts and tables, and the same motion."""

from __future__ import annotations

import numpy as np
import pytest
from iltools_datasets.errors import ArgumentError, BudgetError, MissingKeyError, OutOfRangeError, StateError
from iltools_datasets.tracking import Adaptive, MotionSampler

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("scipy", reason="makes the motion")

from motion_cases import build, turn_between  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning"),
]
CONTROL_DT = 0.02
QUATERNIONS, ANGLES = {"body_quat_w"}, {"yaw"}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return build(tmp_path_factory.mktemp("bodies") / "store", (60, 7, 90))[0]


def both(store, device, num_envs=40, **options):
    options = {"offsets": [0, 1, 5, -2.5, 200], **options}
    host = MotionSampler(store, num_envs, CONTROL_DT, as_="torch", **options)
    there = MotionSampler(store, num_envs, CONTROL_DT, as_="torch", device=device, **options)
    assert type(there).__name__ == "ResidentSampler"
    return host, there


def same(found, wanted, turned=False):
    """In the world one ulp of the larger of both frames in plain kinds, and 3e-7 in rotations.

    A heading is less exact where the anchor looks up or down, as these do: its last bits count for more there.
    """
    for key, rows in wanted.items():
        mine, theirs = found[key].cpu().numpy(), rows.numpy()
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        if key in QUATERNIONS:
            assert np.abs(mine - theirs).max() < (5e-6 if turned else 3e-7)
            assert turn_between(mine, theirs) < (1e-5 if turned else 1e-6)
        elif theirs.dtype.kind == "f":
            off = np.abs(mine.astype(np.float64) - theirs)
            off = np.minimum(off, np.abs(2 * np.pi - off)) if key in ANGLES else off
            # Frames differ by less than twice the largest number, so one ulp of it is one of the larger of both.
            assert off.max() <= (20 if turned else 1) * np.spacing(np.float32(2 * np.abs(theirs).max()))
        else:
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"frame": "heading", "anchor": "torso"},
        {"frame": "anchor", "anchor": "torso", "quat_order": "xyzw"},
        {"frame": "robot", "anchor": "torso"},
        {"frame": "robot", "anchor": "torso", "heading": "difference", "quat_order": "xyzw"},
        {"bodies": ["foot", "torso"], "joints": ["knee"], "env_origins": np.arange(120.0).reshape(40, 3)},
        {"keys": ["phase", "contact", "action", "yaw", "body_quat_w"]},
    ],
)
def test_the_same_motion(store, device, options):
    host, there = both(store, device, **options)
    rng = np.random.default_rng(0)
    poses = {}
    if options.get("frame") == "robot":
        poses = {"anchor_pos": rng.normal(size=(40, 3)), "anchor_quat": rng.normal(size=(40, 4))}
        poses = {name: torch.tensor(pose, dtype=torch.float32) for name, pose in poses.items()}
    for sampler in (host, there):
        sampler.reset()
    turned = "frame" in options
    for _ in range(4):
        same(there.lookup(**{name: pose.to(device) for name, pose in poses.items()}), host.lookup(**poses), turned)
        assert (there.step().cpu() == host.step()).all()
    some = {name: pose[[7, 3]] for name, pose in poses.items()}
    same(there.lookup(env_ids=[7, 3], **some), host.lookup(env_ids=[7, 3], **some), turned)
    at_frames = there.lookup_at([0, 2], [0.0, 1.0], offsets=[0], keys=there.keys[:1]) if not poses else {}
    for key in at_frames:
        assert (at_frames[key].cpu() == host.lookup_at([0, 2], [0.0, 1.0], offsets=[0], keys=host.keys[:1])[key]).all()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("adaptive", [Adaptive(), None, Adaptive(score=lambda failures, passes, base: base + failures)])
def test_the_same_loop(store, device, masks, adaptive):
    host, there = both(store, device, adaptive=adaptive, keys=["yaw"])
    rng = np.random.default_rng(0)
    for sampler in (host, there):
        sampler.reset()
    for step in range(120):
        fell = torch.from_numpy(rng.random(40) < 0.05)
        ended = host.step()
        assert (there.step().cpu() == ended).all()
        over = fell | ended
        ids = rng.permutation(np.flatnonzero(over.numpy()))
        host.reset(over if masks else ids, fell if masks else fell[ids])
        if masks:
            there.reset(over.to(device), fell.to(device))
        else:
            there.reset(ids, fell[ids])
        if step % 24 == 23:
            for sampler in (host, there):
                sampler.sync()
            np.testing.assert_array_equal(there.probabilities(), host.probabilities())
        if step % 50 == 49:
            for sampler in (host, there):
                with sampler.paused():
                    sampler.reset([3, 1])
                    sampler.step()
                sampler.report_failures([0])
                sampler.reset([5, 2], clip=[0, 2], time=[0.5, 1.0])
        assert (there.clip.cpu() == host.clip).all()
        assert (there.time.cpu() == host.time).all()
    for name in ("visits", "failures", "starts", "completions"):
        np.testing.assert_array_equal(getattr(there.coverage(), name), getattr(host.coverage(), name))
    # A state goes from one to the other, and each goes on as the other does.
    state = there.state_dict()
    for name, value in host.state_dict().items():
        np.testing.assert_array_equal(state[name], value)
    again, fresh = both(store, device, adaptive=adaptive, keys=["yaw"])
    again.load_state_dict(state)
    fresh.load_state_dict(host.state_dict())
    for sampler in (again, fresh, there):
        sampler.step()
        sampler.reset([4, 0])
        sampler.sync()
        sampler.reset()
    for sampler in (again, fresh):
        assert (sampler.time.cpu() == there.time.cpu()).all()


def test_starts_that_run_out_are_drawn_on(store, device):
    host, there = both(store, device, num_envs=5, keys=["yaw"])
    for _ in range(60):
        for sampler in (host, there):
            sampler.reset()
        there_mask = torch.tensor([True, False, False, True, False], device=device)
        there.reset(there_mask)
        host.reset([0, 3])
        assert (there.time.cpu() == host.time).all()


def test_it_compiles(store):
    _, there = both(store, "cpu", frame="heading", anchor="torso")
    there.reset()
    steps = torch.tensor([0.0, 0.1], dtype=torch.float64)
    compiled = torch.compile(there.motion.at, fullgraph=True, backend="aot_eager")
    found, wanted = (look(there.clip, there.time, steps) for look in (compiled, there.motion.at))
    for key, rows in wanted.items():
        torch.testing.assert_close(found[key], rows, equal_nan=True)


def test_tensordict_and_budget(store, device):
    pytest.importorskip("tensordict", reason="needs the torch extra")
    sampler = MotionSampler(store, 4, CONTROL_DT, as_="tensordict", device=device, keys=["yaw"])
    sampler.reset()
    assert sampler.lookup().batch_size == (4, 1)
    assert sampler.lookup().device.type == device
    # 157 states of two numbers of four bytes.
    with pytest.raises(BudgetError, match=r"1,256 bytes does not fit 1,000 on .*: 256 too many"):
        MotionSampler(store, 4, CONTROL_DT, as_="torch", device=device, keys=["yaw"], budget=1000)
    assert MotionSampler(store, 4, CONTROL_DT, as_="torch", device=device, keys=["yaw"], budget=1256).num_envs == 4


def test_wrong_calls_change_nothing(store):
    _, there = both(store, "cpu", frame="robot", anchor="torso")
    with pytest.raises(ArgumentError, match="env 0 stands nowhere yet"):
        there.step()
    there.reset()
    there.step()
    before = there.state_dict()
    ones = torch.ones(3, dtype=torch.bool)
    places = {"anchor_pos": np.zeros((40, 3)), "anchor_quat": np.zeros((40, 4))}
    for error, match, call in (
        (OutOfRangeError, "env 40", lambda: there.reset([40])),
        (ArgumentError, "env 2 is there twice", lambda: there.reset([2, 2])),
        (ArgumentError, r"expected a mask \[40\]", lambda: there.reset(ones)),
        (ArgumentError, "terminated", lambda: there.reset([0, 1], ones)),
        (ArgumentError, "terminated", lambda: there.reset(torch.ones(40, dtype=torch.bool), torch.ones(40))),
        (OutOfRangeError, "clip 3", lambda: there.reset([0], [True], clip=3)),
        (OutOfRangeError, "outside clip 0", lambda: there.reset([0], [True], clip=0, time=100.0)),
        (ArgumentError, "time: is a time of clip=", lambda: there.reset(time=1.0)),
        (ArgumentError, "frame='robot' needs", there.lookup),
        (
            ArgumentError,
            r"anchor_pos: expected numbers \[40, 3\]",
            lambda: there.lookup(anchor_pos=ones, anchor_quat=ones),
        ),
        (MissingKeyError, "no key 'no'", lambda: there.lookup(keys=["no"], **places)),
        (ArgumentError, "offsets", lambda: there.lookup(offsets=[], **places)),
        (ArgumentError, "out: look-ups on a device", lambda: there.lookup(out={}, **places)),
        (StateError, "expected a mapping", lambda: there.load_state_dict(None)),
    ):
        with pytest.raises(error, match=match):
            call()
        for name, value in there.state_dict().items():
            np.testing.assert_array_equal(value, before[name])
    with pytest.raises(ArgumentError, match="boundary='error'"):
        MotionSampler(store, 4, CONTROL_DT, as_="torch", device="cpu", boundary="error")
    with pytest.raises(ArgumentError, match="pin_memory and device are for"):
        MotionSampler(store, 4, CONTROL_DT, device="cpu")


def test_a_state_is_of_the_moment_it_was_asked_for(store, device):
    _, motion = both(store, device)
    motion.reset([1, 2])
    state = motion.state_dict()
    motion.reset([1], clip=[0], time=[0.5])
    motion.load_state_dict(state)
    assert motion.state_dict().keys() == state.keys()
