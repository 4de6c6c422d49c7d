"""Saves checkpoints, and what is drawn after them: run once, by the code of commit 0bae7d9, into `saved/`.

Everything here is spelled as that code spelled it, by addresses that stay (all but one), so
`test_earlier_checkpoints.py` makes the same objects with today's code. (`python tests/earlier/record.py DIRECTORY`
records anew; what today's code records proves nothing about the past.)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchrl.data as peer
from iltools_datasets import EnvAssignment, StoreBuilder, TrajectoryStore
from iltools_datasets import torchrl as ours
from iltools_datasets.replay_manager import ExpertReplayManager
from iltools_datasets.storage import VectorizedTrajectoryDataset
from tensordict import TensorDict
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

try:
    from iltools_datasets.windows.source import WindowSource
except ModuleNotFoundError:
    from iltools_datasets.window_source import WindowSource  # where the earlier code had it

LENGTHS = [12, 7, 20, 3, 2, 9]  # states
BEFORE = (12, 24, 12, 36, 12)
AFTER = (12, 12, 36, 24, 12, 12, 24, 12)
ENVS = [EnvAssignment(k % 2, k % 3, k) for k in range(12)]

Rows = list[list[int]]


def build_store(path: Path) -> None:
    """Six clips whose numbers say where they are from: q = clip, step and their product."""
    with StoreBuilder(path, concat={"observation": ["q", "v"]}, alias={"terminated": ("next", "done")}) as builder:
        for clip, states in enumerate(LENGTHS):
            step = np.arange(states, dtype=np.float32)
            q = np.stack([np.full_like(step, clip), step, clip * step], axis=1)
            done = np.zeros((states - 1, 1), dtype=bool)
            done[-1] = True
            builder.add(
                clip // 3,
                clip % 3,
                states={"q": q, "v": -q[:, :2]},
                transitions={"action": q[1:, :1] / 8, ("next", "done"): done},
                name=f"clip{clip}",
                task_name=f"made/up{clip // 3}",
            )


SAMPLERS: dict[str, Callable[[TrajectoryStore], Any]] = {
    "without": lambda store: ours.SamplerWithoutReplacement(seed=1),
    "without, drop_last": lambda store: ours.SamplerWithoutReplacement(seed=1, drop_last=True),
    "in order": lambda store: ours.SamplerWithoutReplacement(seed=1, shuffle=False),
    "with": lambda store: ours.RandomSampler(seed=1),
    "epochs": lambda store: ours.EpochUniformSampler(store.segments, seed=1),
    "epochs, with replacement": lambda store: ours.EpochUniformSampler(store.segments, False, seed=1),
    "assigned": lambda store: ours.AssignedUniformSampler(store.segments, ENVS[:2], seed=1),
    "assigned, with replacement": lambda store: ours.AssignedUniformSampler(store.segments, ENVS[:2], False, seed=1),
    "slices": lambda store: ours.SliceSampler(slice_len=2, seed=1, strict_length=False),
    "ragged slices": lambda store: ours.SliceSampler(slice_len=6, seed=1, strict_length=False),
    "slices with a span": lambda store: ours.SliceSampler(slice_len=3, seed=1, strict_length=False, span=(True, True)),
    "slices without": lambda store: ours.SliceSamplerWithoutReplacement(num_slices=2, seed=1, strict_length=False),
    "every window": lambda store: ours.EveryWindowSampler(4, seed=1),
    "every window, strided": lambda store: ours.EveryWindowSampler(3, 2, seed=1, drop_last=True),
    "sequential": lambda store: ours.SequentialPerEnvSampler(store.segments, ENVS),
    "without, a rank": lambda store: ours.SamplerWithoutReplacement(seed=1, rank=1, world_size=3),
    "with, a rank": lambda store: ours.RandomSampler(seed=1, rank=1, world_size=3),
    "epochs, a rank": lambda store: ours.EpochUniformSampler(store.segments, seed=1, rank=2, world_size=3),
    "every window, a rank": lambda store: ours.EveryWindowSampler(4, seed=1, rank=0, world_size=3),
}


def rows(index: Any) -> list[int]:
    """The rows of an index of any shape."""
    return (index[0] if isinstance(index, tuple) else index).reshape(-1).tolist()


def sampled(sampler: Any, storage: Any, sizes: tuple[int, ...]) -> list[Any]:
    """What a sampler draws, batch by batch: rows, and whether an epoch ended."""
    return [[rows(sampler.sample(storage, size)[0]), bool(sampler.ran_out)] for size in sizes]


def steps(storage: Any) -> Any:
    """A buffer's own numbers: 40 steps of two clips, in memory."""
    clip = torch.arange(40) // 25
    data = TensorDict({"q": torch.arange(40.0)[:, None], "episode": clip}, [40])
    storage.set(range(40), data)
    return storage


def _buffer(sampler: Any, storage: Any, **options: Any) -> Any:
    options.setdefault("generator", torch.Generator().manual_seed(7))
    return ours.TensorDictReplayBuffer(
        storage=storage, sampler=sampler, writer=ImmutableDatasetWriter(), batch_size=12, **options
    )


BUFFERS: dict[str, Callable[[TrajectoryStore], Any]] = {
    "without": lambda store: _buffer(ours.SamplerWithoutReplacement(), ours.TrajectoryStorage(store)),
    "with, ahead": lambda store: _buffer(ours.RandomSampler(), ours.TrajectoryStorage(store), prefetch=3),
    "slices, ahead": lambda store: _buffer(
        ours.SliceSampler(slice_len=3, strict_length=False), ours.TrajectoryStorage(store), prefetch=2
    ),
    "every window": lambda store: _buffer(ours.EveryWindowSampler(4, seed=3), ours.TrajectoryStorage(store)),
    "sequential": lambda store: _buffer(
        ours.SequentialPerEnvSampler(store.segments, ENVS), ours.TrajectoryStorage(store)
    ),
    "own numbers": lambda store: _buffer(ours.SamplerWithoutReplacement(), steps(ours.LazyTensorStorage(40))),
    "own numbers, slices": lambda store: _buffer(
        ours.SliceSampler(slice_len=4, traj_key="episode"), steps(ours.LazyTensorStorage(40))
    ),
    # TorchRL's storage goes TorchRL's way, in which whole batches are made ahead, and saved.
    "TorchRL's storage, ahead": lambda store: _buffer(
        ours.SamplerWithoutReplacement(), steps(peer.LazyTensorStorage(40)), prefetch=2
    ),
}


def _manager(store: TrajectoryStore, choose: Callable[[Any], object]) -> Any:
    manager = ExpertReplayManager.from_store(store, sample_batch_size=16, seed=11)
    manager.set_assignment(ENVS[:5])
    choose(manager)
    return manager


MANAGERS: dict[str, Callable[[TrajectoryStore], Any]] = {
    "uniform": lambda store: ExpertReplayManager.from_store(store, sample_batch_size=16, seed=11),
    "sequential": lambda store: _manager(store, lambda m: None),
    "assigned": lambda store: _manager(store, lambda m: m.set_uniform_sampler(8, respect_assignment=True)),
    "with replacement": lambda store: _manager(store, lambda m: m.set_uniform_sampler(8, without_replacement=False)),
    "custom": lambda store: _manager(store, lambda m: m.set_custom_sampler(ours.EveryWindowSampler(3, seed=5), 9)),
}

_TRAJECTORIES = [0, 2, 5, 4]
WINDOWS: dict[str, Callable[[TrajectoryStore], Any]] = {
    "store, wrap": lambda store: WindowSource(store, ["q", "action"], 3, _TRAJECTORIES),
    "store, mask": lambda store: WindowSource(store, ["q"], 4, _TRAJECTORIES, [1, 2, 3, 0], boundary="mask", advance=2),
    "store, offsets": lambda store: WindowSource(store, None, None, _TRAJECTORIES, offsets=[-1, 0, 2]),
    "data set, wrap": lambda store: WindowSource(
        VectorizedTrajectoryDataset(store, 4, {"allow_wrap": True}), ["q"], 3, _TRAJECTORIES
    ),
    "data set, clamp": lambda store: WindowSource(
        VectorizedTrajectoryDataset(store, 4, {"allow_wrap": True}),
        ["observation"],
        3,
        _TRAJECTORIES,
        [1, 2, 3, 0],
        boundary="clamp",
    ),
}


def directory_of(name: str) -> str:
    """A buffer's directory."""
    return re.sub(r"\W+", "-", name)


def plain(value: Any) -> Any:
    """Nested values as JSON can hold them."""
    if isinstance(value, Mapping):
        return {"/".join(key) if isinstance(key, tuple) else key: plain(entry) for key, entry in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def record(directory: Path) -> None:
    """Build the store and write every checkpoint beside it."""
    build_store(directory / "store")
    store = TrajectoryStore.open(directory / "store")
    storage = ours.TrajectoryStorage(store)
    found: dict[str, dict[str, Any]] = {"samplers": {}, "buffers": {}, "managers": {}, "windows": {}}
    for name, make_sampler in SAMPLERS.items():
        sampler = make_sampler(store)
        sampled(sampler, storage, BEFORE)
        state = sampler.state_dict()
        found["samplers"][name] = {"state": state, "after": sampled(sampler, storage, AFTER)}
    for name, make_buffer in BUFFERS.items():
        buffer = make_buffer(store)
        for _ in range(5):
            buffer.sample()
        buffer.dumps(directory / "buffers" / directory_of(name))
        found["buffers"][name] = {"after": [rows(buffer.sample()["index"]) for _ in range(8)]}
    for name, make_manager in MANAGERS.items():
        manager = make_manager(store)
        for _ in range(5):
            manager.buffer.sample()
        state = manager.state_dict()
        found["managers"][name] = {"state": state, "after": [rows(manager.buffer.sample()["index"]) for _ in range(8)]}
    for name, make_source in WINDOWS.items():
        source = make_source(store)
        for _ in range(3):
            source()
        state = plain(source.state_dict())
        found["windows"][name] = {"state": state, "after": [plain(source()) for _ in range(3)]}
    for lock in directory.rglob("*.lock"):
        lock.unlink()
    (directory / "states.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
