"""Stopped anywhere, samplers go on bit for bit: alone, in TorchRL's buffer, in ours, in a manager, made ahead."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as peer  # noqa: E402
from iltools_datasets import EnvAssignment, TrajectoryStore  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from iltools_datasets.errors import StateError, StoreChangedError  # noqa: E402
from iltools_datasets.replay_manager import ExpertReplayManager  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter  # noqa: E402

STOPS = 1000
TAIL = 4
LENGTHS = [40, 7, 90, 33, 2, 61]

Sampler = Any
Make = Callable[[TrajectoryStore], Sampler]

ENVS = [EnvAssignment(0, k % 3, 5 * k) for k in range(12)]
SAMPLERS: dict[str, Make] = {
    "without": lambda store: ours.SamplerWithoutReplacement(seed=1),
    "without, drop_last": lambda store: ours.SamplerWithoutReplacement(seed=1, drop_last=True),
    "in order": lambda store: ours.SamplerWithoutReplacement(seed=1, shuffle=False),
    "with": lambda store: ours.RandomSampler(seed=1),
    "epochs": lambda store: ours.EpochUniformSampler(store.segments, seed=1),
    "epochs, with replacement": lambda store: ours.EpochUniformSampler(store.segments, False, seed=1),
    "assigned": lambda store: ours.AssignedUniformSampler(store.segments, ENVS[:2], seed=1),
    "slices": lambda store: ours.SliceSampler(slice_len=2, seed=1),
    "ragged slices": lambda store: ours.SliceSampler(slice_len=6, seed=1, strict_length=False),
    "slices without": lambda store: ours.SliceSamplerWithoutReplacement(num_slices=2, seed=1, strict_length=False),
    "every window": lambda store: ours.EveryWindowSampler(4, seed=1),
    "sequential": lambda store: ours.SequentialPerEnvSampler(store.segments, ENVS),
    "without, a rank": lambda store: ours.SamplerWithoutReplacement(seed=1, rank=1, world_size=3),
    "with, a rank": lambda store: ours.RandomSampler(seed=1, rank=1, world_size=3),
    "epochs, a rank": lambda store: ours.EpochUniformSampler(store.segments, seed=1, rank=2, world_size=3),
    "every window, a rank": lambda store: ours.EveryWindowSampler(4, seed=1, rank=0, world_size=3),
}
NAMES = pytest.mark.parametrize("name", SAMPLERS)


@pytest.fixture(scope="module", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return TrajectoryStore.open(build_store(tmp_path_factory.mktemp("resume") / "store", make_clips(LENGTHS)))


def rows(index: Any) -> list[int]:
    return (index[0] if isinstance(index, tuple) else index).reshape(-1).tolist()


@NAMES
def test_a_sampler_goes_on_from_a_thousand_places(store: TrajectoryStore, name: str) -> None:
    """Batches of many sizes, so that all positions of an epoch come up; thousands of epochs would not fit a list."""
    rng = random.Random(name)
    sizes = [12 * rng.randint(1, 3) for _ in range(3 * STOPS)]
    storage = ours.TrajectoryStorage(store)
    sampler = SAMPLERS[name](store)
    saved, drawn, ran_out = [], [], []
    for size in sizes:
        saved.append(json.dumps(sampler.state_dict()))
        drawn.append(rows(sampler.sample(storage, size)[0]))
        ran_out.append(sampler.ran_out)
    assert max(map(len, saved)) < 1024
    for stop in rng.sample(range(len(sizes) - TAIL), STOPS):
        again = SAMPLERS[name](store)
        if stop % 2:
            again.sample(storage, 12)  # one that has been used already
        if stop % 5 == 0:
            again.load_state_dict(json.loads(saved[stop]))
            again = pickle.loads(pickle.dumps(again))
        else:
            again.load_state_dict(json.loads(saved[stop]))
        assert json.dumps(again.state_dict()) == saved[stop]
        for step in range(stop, stop + TAIL):
            assert rows(again.sample(storage, sizes[step])[0]) == drawn[step], (stop, step)
            assert again.ran_out == ran_out[step]


@pytest.mark.parametrize(
    ("kind", "prefetch"),
    [(peer.TensorDictReplayBuffer, None), (ours.TensorDictReplayBuffer, None), (ours.TensorDictReplayBuffer, 3)],
)
@NAMES
def test_a_buffer_goes_on_in_memory_and_from_disk(
    store: TrajectoryStore, name: str, kind: Any, prefetch: int | None, tmp_path: Path
) -> None:
    def build() -> Any:
        return kind(
            storage=ours.TrajectoryStorage(store),
            sampler=SAMPLERS[name](store),
            writer=ImmutableDatasetWriter(),
            batch_size=12,
            prefetch=prefetch,
        )

    rng = random.Random(name)
    stops = sorted(rng.sample(range(150), 25))
    rb, again = build(), build()
    drawn: list[list[int]] = []
    states: dict[int, Any] = {}
    for step in range(150 + TAIL):
        if step in stops:
            states[step] = rb.state_dict()
            if kind is not peer.TensorDictReplayBuffer:
                rb.dumps(tmp_path / "checkpoint")
                again.loads(tmp_path / "checkpoint")
                states[step] = (states[step], again.state_dict())
        drawn.append(rows(rb.sample()["index"]))
    for stop, state in states.items():
        for one in state if isinstance(state, tuple) else (state,):
            again.load_state_dict(one)
            assert [rows(again.sample()["index"]) for _ in range(TAIL)] == drawn[stop : stop + TAIL]


MANAGERS: dict[str, Callable[[ExpertReplayManager], None]] = {
    "uniform": lambda mgr: mgr.set_uniform_sampler(8, seed=3),
    "uniform, with replacement": lambda mgr: mgr.set_uniform_sampler(8, without_replacement=False, seed=3),
    "marching": lambda mgr: mgr.set_assignment(ENVS),
    "assigned": lambda mgr: (mgr.set_assignment(ENVS[:2]), mgr.set_uniform_sampler(8, respect_assignment=True, seed=3))[
        0
    ],
    "custom": lambda mgr: mgr.set_custom_sampler(ours.EveryWindowSampler(4, seed=3), 8),
}


@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize("name", MANAGERS)
def test_a_manager_goes_on_from_a_thousand_places(store: TrajectoryStore, name: str, prefetch: int | None) -> None:
    rng = random.Random(name)
    mgr = ExpertReplayManager.from_store(store, prefetch=prefetch)
    MANAGERS[name](mgr)
    saved, drawn = [], []
    for step in range(STOPS + TAIL):
        if mgr.assignment is not None and step % 37 == 36:
            mgr.update_env_assignment(step % 2, 1, rng.randint(0, 2), step)
        saved.append(json.dumps(mgr.state_dict()))
        drawn.append(rows(mgr.buffer.sample()["index"]))
    assert max(map(len, saved)) < 4096
    again = ExpertReplayManager.from_store(store, prefetch=prefetch)
    if name == "custom":
        MANAGERS[name](again)
    for stop in rng.sample(range(STOPS), STOPS):
        again.load_state_dict(json.loads(saved[stop]))
        # Until the assignment changed again.
        changed = mgr.assignment is not None and 36 - stop % 37
        tail = min(TAIL, changed) if changed else TAIL if changed is False else 1
        assert [rows(again.buffer.sample()["index"]) for _ in range(tail)] == drawn[stop : stop + tail]


def test_a_state_of_another_store_is_refused_by_all(store: TrajectoryStore, tmp_path: Path) -> None:
    there = TrajectoryStore.open(build_store(tmp_path / "there", make_clips(LENGTHS)))
    for make in SAMPLERS.values():
        rb, other = (
            ours.TensorDictReplayBuffer(storage=ours.TrajectoryStorage(one), sampler=make(one), batch_size=12)
            for one in (store, there)
        )
        rb.sample(), other.sample()
        rb.dumps(tmp_path / "rb")
        before = json.dumps(other.sampler.state_dict())
        with pytest.raises(StoreChangedError):
            other.loads(tmp_path / "rb")
        with pytest.raises(StoreChangedError):
            other.load_state_dict(rb.state_dict())
        with pytest.raises(StateError):
            other.sampler.load_state_dict(rb.sampler.state_dict())
        assert json.dumps(other.sampler.state_dict()) == before
    mgr, other = ExpertReplayManager.from_store(store), ExpertReplayManager.from_store(there)
    with pytest.raises(StoreChangedError):
        other.load_state_dict(mgr.state_dict())
