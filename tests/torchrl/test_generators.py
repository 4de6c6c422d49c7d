"""Samplers without a seed follow torch's generator as TorchRL's do: the same state of it, the same batch again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as peer  # noqa: E402
from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from iltools_datasets.errors import ArgumentError  # noqa: E402
from iltools_datasets.torchrl import TrajectoryStorage  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter  # noqa: E402
from torchrl_cases import storage_fixture, store_fixture  # noqa: E402, F401

pytestmark = pytest.mark.torch

Make = Callable[[Any], Any]

# As both packages name them.
WITH_REPLACEMENT: dict[str, Make] = {
    "RandomSampler": lambda of: of.RandomSampler(),
    "SliceSampler": lambda of: of.SliceSampler(slice_len=2, end_key=("next", "done")),
    "ragged SliceSampler": lambda of: of.SliceSampler(num_slices=4, end_key=("next", "done"), strict_length=False),
}
WITHOUT_REPLACEMENT: dict[str, Make] = {
    "SamplerWithoutReplacement": lambda of: of.SamplerWithoutReplacement(),
    "drop_last": lambda of: of.SamplerWithoutReplacement(drop_last=True),
    "SliceSamplerWithoutReplacement": lambda of: of.SliceSamplerWithoutReplacement(
        slice_len=2, end_key=("next", "done"), strict_length=False
    ),
}
EVERY_WINDOW: dict[str, Make] = {"EveryWindowSampler": lambda of: of.EveryWindowSampler(2)}
FOLLOWERS = WITH_REPLACEMENT | WITHOUT_REPLACEMENT | EVERY_WINDOW

SIZE = 8


def data_of(count: int = 90) -> TensorDict:
    done = torch.zeros(count, 1, dtype=torch.bool)
    done[8::9] = True
    return TensorDict({"t": torch.arange(count), ("next", "done"): done}, [count])


def buffer_of(of: Any, make: Make, generator: torch.Generator | None = None) -> Any:
    rb = of.TensorDictReplayBuffer(
        storage=of.LazyTensorStorage(90), sampler=make(of), batch_size=SIZE, generator=generator
    )
    rb.extend(data_of())
    return rb


def over_store(storage: TrajectoryStorage, sampler: Any, prefetch: int | None, **options: Any) -> Any:
    return ours.TensorDictReplayBuffer(
        storage=storage,
        sampler=sampler,
        writer=ImmutableDatasetWriter(),
        batch_size=SIZE,
        prefetch=prefetch,
        **options,
    )


def rows(batch: TensorDict) -> list[int]:
    return batch["index"].reshape(-1).tolist()


def is_same(one: TensorDict, other: TensorDict) -> bool:
    return rows(one) == rows(other)


@pytest.mark.parametrize("of", [peer, ours], ids=["TorchRL's", "ours"])
@pytest.mark.parametrize("name", WITH_REPLACEMENT)
@pytest.mark.parametrize("how", ["generator", "manual_seed", "fork_rng"])
def test_the_same_state_gives_the_same_batch(of: Any, name: str, how: str) -> None:
    generator = torch.Generator() if how == "generator" else None
    rb = buffer_of(of, WITH_REPLACEMENT[name], generator)
    rb.sample()
    (generator or torch.random).manual_seed(3)
    if how == "fork_rng":
        with torch.random.fork_rng():
            first = rb.sample()
    else:
        first = rb.sample()
        (generator or torch.random).manual_seed(3)
    again = rb.sample()
    assert is_same(first, again)
    assert not is_same(again, rb.sample())


@pytest.mark.parametrize("name", WITH_REPLACEMENT)
@pytest.mark.parametrize("prefetch", [None, 1, 3])
@pytest.mark.parametrize("generated", [True, False])
def test_the_same_state_gives_the_same_batch_however_many_are_made_ahead(
    storage: TrajectoryStorage, name: str, prefetch: int | None, generated: bool
) -> None:
    generator = torch.Generator() if generated else None
    rb = over_store(storage, WITH_REPLACEMENT[name](ours), prefetch, generator=generator)
    plain = over_store(storage, WITH_REPLACEMENT[name](ours), None, generator=generator)
    seeds = [0, 0, 1, 0, 2, 2]
    drawn = []
    for each in (rb, plain):
        batches = []
        for seed in seeds:
            (generator or torch.random).manual_seed(seed)
            batches.append([rows(each.sample()) for _ in range(4)])
        drawn.append(batches)
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == drawn[0][1] == drawn[0][3] != drawn[0][2]


@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize("name", WITHOUT_REPLACEMENT | EVERY_WINDOW)
def test_the_same_state_gives_the_same_epoch(storage: TrajectoryStorage, name: str, prefetch: int | None) -> None:
    """What counts is where the generator stands when an order is drawn: at first, then with each epoch's last batch."""
    make = FOLLOWERS[name]
    generator = torch.Generator()
    rb = over_store(storage, make(ours), prefetch, generator=generator)

    def epoch() -> list[list[int]]:
        return [rows(batch) for batch in rb]

    generator.manual_seed(5)
    first = epoch()
    second = epoch()
    assert first != second
    fresh = over_store(storage, make(ours), prefetch, generator=generator)
    generator.manual_seed(5)
    assert [rows(batch) for batch in fresh] == first
    # In the middle of an epoch it does not matter.
    head = rows(rb.sample())
    generator.manual_seed(5)
    third = [head]
    while not rb.sampler.ran_out:
        third.append(rows(rb.sample()))
    assert [rows(batch) for batch in rb] == first
    assert sorted(map(len, third)) == sorted(map(len, first))


def numbers_taken(before: torch.Tensor, after: torch.Tensor) -> int:
    generator = torch.Generator()
    generator.set_state(before)
    for count in range(100):
        if torch.equal(generator.get_state(), after):
            return count
        torch.empty((), dtype=torch.int64).random_(generator=generator)
    raise AssertionError("more than a hundred")


@pytest.mark.parametrize("name", FOLLOWERS)
def test_one_number_per_batch_or_per_epoch(storage: TrajectoryStorage, name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    sampler = FOLLOWERS[name](ours)
    rb = over_store(storage, sampler, None, generator=generator)
    before = generator.get_state()
    if name in WITH_REPLACEMENT:
        for _ in range(7):
            rb.sample()
        assert numbers_taken(before, generator.get_state()) == 7
        return
    # The first epoch's, and at the end of each the next one's.
    for _ in range(3):
        for _ in rb:
            pass
    assert numbers_taken(before, generator.get_state()) == 4


def test_the_order_of_a_storage_takes_no_number(storage: TrajectoryStorage) -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    for sampler in (ours.SamplerWithoutReplacement(shuffle=False), ours.EveryWindowSampler(2, shuffle=False)):
        rb = over_store(storage, sampler, None, generator=generator)
        assert [rows(batch) for batch in rb] == [rows(batch) for batch in rb]
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("name", FOLLOWERS)
@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("prefetch", [None, 2])
def test_a_buffer_saves_its_generator(
    storage: TrajectoryStorage, name: str, on_disk: bool, prefetch: int | None, tmp_path: Any
) -> None:
    def build(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return over_store(storage, FOLLOWERS[name](ours), prefetch, generator=generator)

    rb, again = build(1), build(2)
    for _ in range(5):
        rb.sample()
    again.sample()
    if on_disk:
        rb.dumps(tmp_path / "rb")
        again.loads(tmp_path / "rb")
    else:
        again.load_state_dict(rb.state_dict())
    assert [rows(again.sample()) for _ in range(20)] == [rows(rb.sample()) for _ in range(20)]


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_seed_of_ones_own_leaves_torchs_generator_alone(storage: TrajectoryStorage, name: str) -> None:
    sampler = FOLLOWERS[name](ours)
    sampler.reseed(7)
    before = torch.get_rng_state()
    rb = over_store(storage, sampler, None)
    first = [rows(rb.sample()) for _ in range(12)]
    assert torch.equal(torch.get_rng_state(), before)
    rb.set_rng(torch.Generator().manual_seed(1))
    sampler.reseed(8)
    assert [rows(rb.sample()) for _ in range(12)] != first
    sampler.reseed(7)
    assert [rows(rb.sample()) for _ in range(12)] == first


SEEDED: dict[str, Callable[[TrajectoryStore, int], Any]] = {
    "RandomSampler": lambda store, seed: ours.RandomSampler(seed=seed),
    "SamplerWithoutReplacement": lambda store, seed: ours.SamplerWithoutReplacement(seed=seed),
    "SliceSampler": lambda store, seed: ours.SliceSampler(slice_len=2, seed=seed),
    "SliceSamplerWithoutReplacement": lambda store, seed: ours.SliceSamplerWithoutReplacement(
        slice_len=2, strict_length=False, seed=seed
    ),
    "EveryWindowSampler": lambda store, seed: ours.EveryWindowSampler(2, seed=seed),
    "EpochUniformSampler": lambda store, seed: ours.EpochUniformSampler(store.segments, seed=seed),
    "AssignedUniformSampler": lambda store, seed: ours.AssignedUniformSampler(store.segments, [(0, 0)], seed=seed),
}


@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize("name", SEEDED)
def test_reseeding_is_a_new_sampler(
    store: TrajectoryStore, storage: TrajectoryStorage, name: str, prefetch: int | None
) -> None:
    make = SEEDED[name]
    rb = over_store(storage, make(store, 1), prefetch)
    before = [rows(rb.sample()) for _ in range(9)]
    rb.sampler.reseed(np.uint64(2))
    plain = over_store(storage, make(store, 2), None)
    assert [rows(rb.sample()) for _ in range(30)] == [rows(plain.sample()) for _ in range(30)] != before
    state = rb.sampler.state_dict()
    again = over_store(storage, make(store, 1), None)
    again.sampler.load_state_dict(state)
    assert [rows(rb.sample()) for _ in range(9)] == [rows(again.sample()) for _ in range(9)]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, "1", None])
def test_an_impossible_seed_changes_nothing(storage: TrajectoryStorage, seed: Any) -> None:
    one, other = ours.RandomSampler(seed=1), ours.RandomSampler(seed=1)
    with pytest.raises(ArgumentError, match="seed"):
        one.reseed(seed)
    assert torch.equal(one.sample(storage, 9)[0], other.sample(storage, 9)[0])


def test_a_state_with_a_seed_goes_on_without_the_generator(storage: TrajectoryStorage) -> None:
    """As states were before samplers followed generators, and as those of samplers with a seed are."""
    seeded = ours.RandomSampler(seed=5)
    seeded.sample(storage, 9)
    state = seeded.state_dict()
    del state["follows_generator"]
    sampler = ours.RandomSampler()
    sampler.load_state_dict(state)
    before = torch.get_rng_state()
    for _ in range(3):
        assert torch.equal(sampler.sample(storage, 9)[0], seeded.sample(storage, 9)[0])
    assert torch.equal(torch.get_rng_state(), before)
    sampler._rng = torch.Generator().manual_seed(3)
    assert sampler.follows_generator


def test_the_managers_samplers_have_a_seed_of_their_own(store: TrajectoryStore, storage: TrajectoryStorage) -> None:
    sampler = ours.EpochUniformSampler(store.segments)
    torch.manual_seed(1)
    first = sampler.sample(storage, 9)[0]
    torch.manual_seed(1)
    assert not torch.equal(sampler.sample(storage, 9)[0], first)
