"""`for batch in buffer` ends where TorchRL's loop ends, and says which epoch it is."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
peer = pytest.importorskip("torchrl.data", reason="needs the torch extra")

from iltools_datasets import torchrl as ours  # noqa: E402
from iltools_datasets.replay_manager import EnvAssignment, ExpertReplayManager  # noqa: E402
from iltools_datasets.store.trajectory_store import TrajectoryStore  # noqa: E402
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter  # noqa: E402
from torchrl_cases import data_fixture, storage_fixture, store_fixture  # noqa: E402, F401

pytestmark = pytest.mark.torch

COUNT = 45
"""Transitions in the store."""

Sampler = Callable[[TrajectoryStore], Any]
EPOCHS: dict[str, Sampler] = {
    "own seed": lambda store: ours.SamplerWithoutReplacement(seed=1),
    "following": lambda store: ours.SamplerWithoutReplacement(),
    "drop_last": lambda store: ours.SamplerWithoutReplacement(drop_last=True),
    "in order": lambda store: ours.SamplerWithoutReplacement(shuffle=False),
    "exact": lambda store: ours.EpochUniformSampler(store.segments, seed=1),
    "assigned": lambda store: ours.AssignedUniformSampler(
        store.segments, [EnvAssignment(segment.task_id, segment.traj_id) for segment in store.segments[1:]], seed=1
    ),
    "slices": lambda store: ours.SliceSamplerWithoutReplacement(num_slices=3, strict_length=False),
    "windows": lambda store: ours.EveryWindowSampler(3, seed=1),
    "windows, following": lambda store: ours.EveryWindowSampler(3),
}


def made(storage: Any, sampler: Any, batch_size: int = 9, **options: Any) -> Any:
    options.setdefault("writer", ImmutableDatasetWriter())
    return ours.TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=batch_size, **options)


def epochs_of(rb: Any, loops: int) -> list[list[int]]:
    """What `rb.epoch` says in each pass over the buffer, batch by batch."""
    return [[rb.epoch for _ in rb] for _ in range(loops)]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 9, 40, 45])
@pytest.mark.parametrize("prefetch", [None, 3])
def test_a_loop_is_as_long_as_torchrls(
    storage: Any, oracle_data: Any, batch_size: int, drop_last: bool, prefetch: int | None
) -> None:
    theirs = peer.TensorDictReplayBuffer(
        storage=peer.TensorStorage(oracle_data),
        sampler=peer.SamplerWithoutReplacement(drop_last=drop_last),
        batch_size=batch_size,
    )
    rb = made(storage, ours.SamplerWithoutReplacement(drop_last=drop_last), batch_size, prefetch=prefetch)
    for left_after in (None, 2, None, None):
        # A loop that is left, and then gone on with.
        found = [len(batch) for batch in islice(rb, left_after)]
        assert found == [len(batch) for batch in islice(theirs, left_after)]
        assert rb.sampler.ran_out == theirs.sampler.ran_out


@pytest.mark.parametrize("divides", [True, False])
def test_a_managers_buffer_ends_with_the_epoch_too(store: TrajectoryStore, divides: bool) -> None:
    mgr = ExpertReplayManager.load(store.path)
    batch_size = 9 if divides else 8
    mgr.set_uniform_sampler(batch_size, seed=3)
    drawn: list[int] = []
    for loop in range(4):
        for batch in mgr.buffer:
            assert mgr.buffer.epoch == loop
            assert len(batch) == batch_size
            drawn += batch["index"].tolist()
        # As far as the epoch that has just ended: what comes after is the beginning of the next.
        assert (loop + 1) * COUNT <= len(drawn) < (loop + 1) * COUNT + batch_size
    for loop in range(4):
        assert sorted(drawn[loop * COUNT : (loop + 1) * COUNT]) == list(range(COUNT))


@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize("name", EPOCHS)
def test_every_batch_of_a_pass_is_of_one_epoch(
    store: TrajectoryStore, storage: Any, name: str, prefetch: int | None
) -> None:
    rb = made(storage, EPOCHS[name](store), prefetch=prefetch)
    assert rb.epoch == 0
    for loop, said in enumerate(epochs_of(rb, 4)):
        assert said
        assert set(said) == {loop}
    # A pass that was left goes on with the rest of its epoch.
    for _ in rb:
        break
    assert rb.epoch == 4
    if not rb.sampler.ran_out:
        assert set(epochs_of(rb, 1)[0]) == {4}
    assert set(epochs_of(rb, 1)[0]) == {5}


@pytest.mark.parametrize("name", EPOCHS)
@pytest.mark.parametrize("drawn", [0, 1, 3, 8])
def test_a_resumed_buffer_says_the_same(
    store: TrajectoryStore, storage: Any, name: str, drawn: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(5)
    one = made(storage, EPOCHS[name](store), 18, generator=generator)
    for _ in range(drawn):
        one.sample()
    one.dumps(tmp_path / "rb")
    state = json.loads(json.dumps(one.sampler.state_dict()))
    pickled = pickle.dumps(one)

    loaded = made(storage, EPOCHS[name](store), 18, generator=torch.Generator())
    loaded.loads(tmp_path / "rb")
    by_state = made(storage, EPOCHS[name](store), 18)
    by_state.sampler.load_state_dict(state)
    said = one.epoch
    after = epochs_of(one, 3)
    for resumed in (loaded, by_state, pickle.loads(pickled)):
        assert resumed.epoch == said
        assert epochs_of(resumed, 3) == after


@pytest.mark.parametrize("name", EPOCHS)
def test_states_of_before_say_what_can_be_known(store: TrajectoryStore, storage: Any, name: str) -> None:
    one = made(storage, EPOCHS[name](store), 9)
    for _ in range(2):
        one.sample()
    state = one.sampler.state_dict()
    del state["batch_epoch"]
    other = made(storage, EPOCHS[name](store), 9)
    other.sampler.load_state_dict(state)
    assert other.epoch == one.epoch


def test_a_large_batch_is_of_the_epoch_it_begins_in(store: TrajectoryStore, storage: Any) -> None:
    rb = made(storage, ours.EpochUniformSampler(store.segments, seed=1), 2 * COUNT + 5)
    said = epochs_of(rb, 4)
    assert said == [[0], [2], [4], [6]]


def test_another_stream_is_counted_anew(store: TrajectoryStore, storage: Any) -> None:
    for name, kind in EPOCHS.items():
        rb = made(storage, kind(store))
        epochs_of(rb, 2)
        rb.sampler.reseed(8)
        assert rb.epoch == 0, name
        assert [set(said) for said in epochs_of(rb, 2)] == [{0}, {1}], name


def test_an_extended_storage_begins_another(oracle_data: Any) -> None:
    storage = ours.LazyTensorStorage(100)
    rb = made(storage, ours.SamplerWithoutReplacement(), writer=None)
    rb.extend(oracle_data)
    assert [set(said) for said in epochs_of(rb, 2)] == [{0}, {1}]
    rb.sample()
    rb.extend(oracle_data[:10])
    found = [(len(batch), rb.epoch) for batch in rb]
    assert found == [(9, 3)] * 6 + [(1, 3)]


def test_what_torchrl_saved_is_gone_on_with(oracle_data: Any, tmp_path: Path) -> None:
    theirs = peer.TensorDictReplayBuffer(
        storage=peer.TensorStorage(oracle_data),
        sampler=peer.SamplerWithoutReplacement(shuffle=False),
        batch_size=9,
    )
    theirs.sample()
    rb = made(peer.TensorStorage(oracle_data), ours.SamplerWithoutReplacement(shuffle=False))
    rb.sampler.load_state_dict(theirs.sampler.state_dict())
    assert [set(said) for said in epochs_of(rb, 2)] == [{0}, {1}]


def test_where_there_are_no_epochs(store: TrajectoryStore, storage: Any, oracle_data: Any) -> None:
    endless = [
        ours.RandomSampler(seed=1),
        ours.SliceSampler(num_slices=3, strict_length=False),
        ours.EpochUniformSampler(store.segments, without_replacement=False),
        ours.SequentialPerEnvSampler(store.segments, [EnvAssignment(0, 0)] * 9),
    ]
    for sampler in endless:
        rb = made(storage, sampler)
        assert sum(1 for _ in islice(rb, 30)) == 30
        assert rb.epoch is None
    assert made(peer.TensorStorage(oracle_data), peer.RandomSampler()).epoch is None


@pytest.fixture(name="oracle_data")
def oracle_data_fixture(data: Any) -> Any:
    return data.clone()
