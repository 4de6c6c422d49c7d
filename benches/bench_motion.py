"""Look-ups of motion and starts for 4,096 envs, against torch as trackers use it and numpy, and the floor of a gather.

Frames are of 1,792 bytes: 29 joints' positions and velocities, 30 bodies' positions, rotations and velocities. Each
call looks at other frames than the calls before it, which evict them: at five offsets it reads and writes 37 to 110 MB.
Look-ups and their peers run on one thread, unless a row says otherwise.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from iltools_datasets import StoreBuilder, TrajectoryStore, _core
from iltools_datasets.tracking import MotionSampler
from race import SITUATIONS, Call, figure, race, timed

NUM_ENVS, FPS, CONTROL_DT = 4096, 30.0, 0.02
JOINTS, BODIES = 29, 30
SHAPES = {"joint_pos": (JOINTS,), "joint_vel": (JOINTS,), "body_pos_w": (BODIES, 3), "body_quat_w": (BODIES, 4)}
SHAPES |= {"body_lin_vel_w": (BODIES, 3), "body_ang_vel_w": (BODIES, 3)}
NAMES = [f"body{number}" for number in range(BODIES)]
FEW, MANY = [0, 1, 2, 5, 10], [0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20]


@pytest.fixture(scope="module")
def motion_store(data_dir: Path, num_clips: int) -> TrajectoryStore:
    path = data_dir / "motion"
    if not (path / "manifest.json").exists():
        rng = np.random.default_rng(0)
        told = {"fps": FPS, "body_names": NAMES, "joint_names": [f"joint{number}" for number in range(JOINTS)]}
        with StoreBuilder(path, concat={"frame": list(SHAPES)}, attributes={"motion": told}) as builder:
            for clip in range(num_clips):
                rows = {key: rng.standard_normal((1000, *shape), dtype=np.float32) for key, shape in SHAPES.items()}
                rows["body_quat_w"] /= np.linalg.norm(rows["body_quat_w"], axis=-1, keepdims=True)
                builder.add(0, clip, rows, {"action": np.zeros((999, 1), dtype=np.float32)})
    return TrajectoryStore.open(path, num_threads=1)


@pytest.fixture(scope="module")
def tensors(motion_store: TrajectoryStore) -> dict[str, torch.Tensor]:
    """All states, a tensor per key, as trackers hold them."""
    clips = [motion_store.trajectory(clip, list(SHAPES)) for clip in range(motion_store.num_trajectories)]
    return {key: torch.from_numpy(np.concatenate([clip[key] for clip in clips])) for key in SHAPES}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TorchMotion:
    """What public trackers do: a tensor per key, indexed per key; two gathers, lerp and slerp between frames."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def stored(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        return {key: tensor[row] for key, tensor in self.tensors.items()}

    def between(self, row: torch.Tensor, part: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        for key, tensor in self.tensors.items():
            first, second = tensor[row], tensor[row + 1]
            part_of = part.reshape(*part.shape, *[1] * (first.ndim - part.ndim))
            found[key] = slerp(first, second, part_of) if key == "body_quat_w" else torch.lerp(first, second, part_of)
        return found

    def aligned(self, row: torch.Tensor, part: torch.Tensor, pos: torch.Tensor, quat: torch.Tensor) -> Any:
        found = self.between(row, part)
        place, turn = found["body_pos_w"][:, :1, :1], found["body_quat_w"][:, :1, :1]
        inverse = turn * torch.tensor([1.0, -1, -1, -1])
        between = multiply(quat[:, None, None], inverse)
        yaw = torch.atan2(
            2 * (between[..., 0] * between[..., 3] + between[..., 1] * between[..., 2]),
            1 - 2 * (between[..., 2] ** 2 + between[..., 3] ** 2),
        )
        zero = torch.zeros_like(yaw)
        heading = torch.stack([torch.cos(yaw / 2), zero, zero, torch.sin(yaw / 2)], -1)
        target = torch.cat([pos[:, None, None, :2], place[..., 2:]], -1)
        found["body_pos_w"] = apply(heading, found["body_pos_w"] - place) + target
        found["body_quat_w"] = multiply(heading.expand_as(found["body_quat_w"]), found["body_quat_w"])
        for key in ("body_lin_vel_w", "body_ang_vel_w"):
            found[key] = apply(heading, found[key])
        return found


def slerp(first: torch.Tensor, second: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    cosine = (first * second).sum(-1, keepdim=True)
    second = torch.where(cosine < 0, -second, second)
    angle = torch.acos(cosine.abs().clamp(max=1.0))
    sine = torch.sqrt(1 - cosine * cosine)
    mixed = (torch.sin((1 - part) * angle) * first + torch.sin(part * angle) * second) / sine
    return torch.where(sine.abs() < 1e-3, 0.5 * first + 0.5 * second, mixed)


def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    (w, x, y, z), (i, j, k, m) = a.unbind(-1), b.unbind(-1)
    return torch.stack(
        [
            w * i - x * j - y * k - z * m,
            w * j + x * i + y * m - z * k,
            w * k - x * m + y * i + z * j,
            w * m + x * k - y * j + z * i,
        ],
        -1,
    )


def apply(quat: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    axis = quat[..., 1:].expand(*vectors.shape)
    cross = 2 * torch.cross(axis, vectors, dim=-1)
    return vectors + quat[..., :1] * cross + torch.cross(axis, cross, dim=-1)


class Looked:
    """Envs at other places for each call: ours and the peers' look at the same ones in turn."""

    def __init__(self, store: TrajectoryStore, offsets: list[int], at_frames: bool, **options: Any) -> None:
        rng = np.random.default_rng(0)
        self.offsets = np.array(offsets) * (1 / FPS if at_frames else CONTROL_DT)
        step = 1 / FPS if at_frames else CONTROL_DT
        self.sampler = MotionSampler(store, NUM_ENVS, step, offsets=offsets, **options)
        self.places = []
        for _ in range(8):
            clip = rng.integers(0, store.num_trajectories, NUM_ENVS)
            at = rng.integers(0, 900, NUM_ENVS) / FPS
            seconds = at if at_frames else at + rng.uniform(0.1, 0.9, NUM_ENVS) / FPS
            place = (seconds[:, None] + self.offsets) * FPS
            frame = np.floor(place + 1e-6).astype(np.int64)
            row = torch.from_numpy(frame + 1000 * clip[:, None])
            part = torch.from_numpy((place - frame).clip(0, 1).astype(np.float32))
            self.places.append((clip, seconds, row, part))
        self.pos = rng.standard_normal((NUM_ENVS, 3), dtype=np.float32)
        self.quat = rng.standard_normal((NUM_ENVS, 4), dtype=np.float32)
        self.quat /= np.linalg.norm(self.quat, axis=1, keepdims=True)
        self.poses: dict[str, Any] = {}
        if options.get("frame") == "robot":
            self.poses = {"anchor_pos": self.pos, "anchor_quat": self.quat}

    def ours(self, count: int = NUM_ENVS) -> Call:
        shape = (count, len(self.offsets))
        out = {key: np.empty((*shape, *self.sampler._mixture.row(key)[0]), np.float32) for key in self.sampler.keys}
        places = itertools.cycle(self.places)

        def call() -> Any:
            clip, seconds, *_ = next(places)
            return self.sampler.lookup_at(clip[:count], seconds[:count], out=out, **self.poses)

        return call

    def peer(self, of: Callable[..., Any], *more: Any, parts: bool = True) -> Call:
        places = itertools.cycle(self.places)

        def call() -> Any:
            _, _, row, part = next(places)
            return of(row, part, *more) if parts else of(row)

        return call


def check(ours: Call, peer: Call, tolerance: float) -> None:
    """Both, asked for the same, give the same."""
    found, wanted = ours(), peer()
    for key, rows in wanted.items():
        if key != "body_quat_w":
            np.testing.assert_allclose(found[key], rows.numpy(), atol=tolerance, rtol=0)


def test_windows_of_views(record: Any, motion_store: TrajectoryStore, tensors: dict[str, torch.Tensor]) -> None:
    """Eleven frames of every env, of each of the keys that one wide column is read as, on all threads."""
    store, frames = TrajectoryStore.open(motion_store.path), 11
    rng = np.random.default_rng(2)
    windows = []
    for _ in range(4):
        clip, step = rng.integers(0, store.num_trajectories, NUM_ENVS), rng.integers(0, 999 - frames, NUM_ENVS)
        # A trajectory has one state more than transitions.
        index, row = ((clip * length + step)[:, None] + np.arange(frames) for length in (999, 1000))
        windows.append((index.reshape(-1), row.reshape(-1)))
    asked, taken = (itertools.cycle(side) for side in zip(*windows, strict=True))
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    kept = {key: np.empty((NUM_ENVS * frames, *shape), np.float32) for key, shape in SHAPES.items()}

    def ours() -> dict[Any, np.ndarray]:
        return store.gather(next(asked), list(SHAPES))

    def take() -> None:
        row = next(taken)
        for key, array in arrays.items():
            np.take(array, row, axis=0, out=kept[key], mode="clip")

    found = ours()
    take()
    assert all(np.array_equal(found[key], kept[key]) for key in SHAPES)
    record(lambda: race("six keys of a wide column, 11 frames, against np.take", "tight loop", ours, take, 1.5))


@pytest.mark.parametrize(("offsets", "target"), [(FEW, 4), (MANY, 6)], ids=["5 offsets", "11 offsets"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_stored_frames(
    record: Any, motion_store: Any, tensors: Any, offsets: Any, target: float, situation: str
) -> None:
    looked = Looked(motion_store, offsets, at_frames=True, keys=list(SHAPES))
    ours, peer = looked.ours(), looked.peer(TorchMotion(tensors).stored, parts=False)
    check(looked.ours(), looked.peer(TorchMotion(tensors).stored, parts=False), 0)
    name = f"stored frames, {len(offsets)} offsets"
    record(lambda: race(f"{name}, against torch", situation, ours, peer, target), gated=False)
    kept = {key: np.empty((NUM_ENVS, len(offsets), *shape), np.float32) for key, shape in SHAPES.items()}

    def take(row: torch.Tensor) -> None:
        for key, tensor in tensors.items():
            np.take(tensor.numpy(), row.numpy(), axis=0, out=kept[key], mode="clip")

    record(lambda: race(f"{name}, against np.take", situation, ours, looked.peer(take, parts=False), 1.5), gated=False)
    if situation == "tight loop":
        # Each row read once and written once: a row of a state is a row of a transition here, shifted by its clip.
        field, out = motion_store.field_ids(["frame"]), [np.empty((NUM_ENVS * len(offsets), 448), np.float32)]
        rows = itertools.cycle([row.numpy().ravel() - row.numpy().ravel() // 1000 for _, _, row, _ in looked.places])
        copy = lambda: motion_store.core.gather(field, next(rows), out, 1)  # noqa: E731
        record(lambda: race(f"{name}, share of the floor", situation, ours, copy, 0.6), gated=False)


@pytest.mark.parametrize(("offsets", "target"), [(FEW, 12), (MANY, 16)], ids=["5 offsets", "11 offsets"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_interpolated(
    record: Any, motion_store: Any, tensors: Any, offsets: Any, target: float, situation: str
) -> None:
    looked = Looked(motion_store, offsets, at_frames=False, keys=list(SHAPES))
    check(looked.ours(), looked.peer(TorchMotion(tensors).between), 1e-5)
    name = f"interpolated, {len(offsets)} offsets, against torch"
    peer = looked.peer(TorchMotion(tensors).between)
    record(lambda: race(name, situation, looked.ours(), peer, target, rounds=5), gated=False)


@pytest.mark.parametrize(("offsets", "target"), [(FEW, 15), (MANY, 20)], ids=["5 offsets", "11 offsets"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_aligned(record: Any, motion_store: Any, tensors: Any, offsets: Any, target: float, situation: str) -> None:
    options = {"keys": list(SHAPES), "anchor": NAMES[0]}
    looked = Looked(motion_store, offsets, at_frames=False, frame="robot", **options)
    poses = torch.from_numpy(looked.pos), torch.from_numpy(looked.quat)
    check(looked.ours(), looked.peer(TorchMotion(tensors).aligned, *poses), 1e-3)
    peer = looked.peer(TorchMotion(tensors).aligned, *poses)
    name = f"aligned with the robot, {len(offsets)} offsets"
    # Torch's side of it differs by half from one machine to another.
    record(lambda: race(f"{name}, against torch", situation, looked.ours(), peer, target, rounds=5), gated=False)
    plain = Looked(motion_store, offsets, at_frames=False, **options).ours()
    with_turn = looked.ours()
    ratios = [timed(with_turn, 5) / timed(plain, 5) for _ in range(7)]
    record(lambda: figure(f"{name} ÷ without", situation, ratios, 1.4, "x"))


def test_parts_of_a_lookup(record: Any, motion_store: Any) -> None:
    keys = list(SHAPES)
    whole = Looked(motion_store, FEW, at_frames=False, keys=keys)
    some = Looked(motion_store, FEW, at_frames=False, keys=keys, bodies=NAMES[:14])
    pairs = [(timed(some.ours(), 5), timed(whole.ours(), 5)) for _ in range(7)]
    record(lambda: figure("14 of 30 bodies ÷ all", "tight loop", [a / b for a, b in pairs], 0.65, "x"))
    pairs = [(timed(whole.ours(80), 40), timed(whole.ours(), 5)) for _ in range(7)]
    record(lambda: figure("80 of 4,096 envs ÷ all", "tight loop", [a / b for a, b in pairs], 1 / 20, "x"))
    two = TrajectoryStore.open(motion_store.path, num_threads=2)
    both = Looked(two, FEW, at_frames=False, keys=keys)
    record(
        lambda: race("two threads, against one, 5 offsets", "tight loop", both.ours(), whole.ours(), 1.4), gated=False
    )


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_step(record: Any, motion_store: Any, situation: str) -> None:
    sampler = MotionSampler(motion_store, NUM_ENVS, CONTROL_DT)
    sampler.reset()
    values = [1e6 * timed(sampler.step, 50) for _ in range(9)]
    record(lambda: figure("a step with visits, 4,096 envs", situation, values, 40, "µs"))


def tracker(bins: int) -> _core.Tracker:
    """Clips of some 50 seconds, and envs that have followed them and fallen."""
    last = np.full(bins // 50, 1500, dtype=np.int64)
    cut = _core.MotionBins(last, np.full(len(last), FPS), CONTROL_DT, 1.0)
    scheme = (0.1, 10.0, 2.0, (100.0, 20.0), (4, 0.8), False, False)
    made = _core.Tracker(cut, np.ones(len(last)), NUM_ENVS, *scheme, 0, 0, 1)
    rng = np.random.default_rng(0)
    for _ in range(4):
        made.reset(np.arange(NUM_ENVS), None, True)
        for _ in range(24):
            made.step(True)
            made.report(np.arange(NUM_ENVS), rng.random(NUM_ENVS) < 0.02, True)
        made.sync(None, None)
    return made


def test_starts(record: Any) -> None:
    rng = np.random.default_rng(0)
    spent = {}
    for bins in (6500, 1_000_000):
        made = tracker(bins)
        ids = [np.sort(rng.choice(NUM_ENVS, 80, replace=False)) for _ in range(200)]
        fell = rng.random(80) < 0.5
        each = itertools.cycle(ids)
        call = lambda made=made, each=each, fell=fell: made.reset(next(each), fell, True)  # noqa: E731
        spent[bins] = [1e6 * timed(call, 40) for _ in range(9)]
        if bins > 6500:
            values = [1e3 * timed(lambda made=made: made.sync(None, None), 3) for _ in range(5)]
            record(lambda values=values: figure("a sync, 10⁶ bins", "tight loop", values, 10, "ms"), gated=False)
    million, few = spent[1_000_000], spent[6500]
    record(lambda: figure("reset of 80 envs, 10⁶ bins", "tight loop", million, 60, "µs"))
    ratios = [a / b for a, b in zip(million, few, strict=True)]
    record(lambda: figure("reset, 10⁶ bins ÷ 6,500", "tight loop", ratios, 1.5, "x"), gated=False)


def test_a_state(record: Any, tmp_path: Path) -> None:
    seconds, clips = 5000, 200
    told = {"fps": 2.0, "kinds": {"at": "joint"}}
    with StoreBuilder(tmp_path / "store", attributes={"motion": told}) as builder:
        at = np.zeros((2 * seconds + 1, 1), dtype=np.float16)
        for clip in range(clips):
            builder.add(0, clip, {"at": at}, {"action": at[:-1]})
    sampler = MotionSampler(TrajectoryStore.open(tmp_path / "store"), NUM_ENVS, 0.1)
    sampler.reset()
    for _ in range(24):
        sampler.step()
    sampler._tracker.sync(None, None)
    state = sampler.state_dict()
    of_envs = sum(state[name].nbytes for name in ("clip", "start", "steps"))
    whole = sum(array.nbytes for array in state.values() if isinstance(array, np.ndarray))
    record(lambda: figure("state per env", "tight loop", [of_envs / NUM_ENVS], 48, "bytes"))
    record(lambda: figure("state per bin, 10⁶ bins", "tight loop", [(whole - of_envs) / 1e6], 48, "bytes"))
    values = []
    for _ in range(5):
        start = time.perf_counter()
        sampler.load_state_dict(state)
        values.append(1e3 * (time.perf_counter() - start))
    record(lambda: figure("load and check of a state, 10⁶ bins", "tight loop", values, 100, "ms"), gated=False)
