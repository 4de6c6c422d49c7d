"""Ranks side by side in one process: disjoint, equal in number, together one epoch; and on with another number."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from iltools_datasets.ranks import jax_rank, shared_seed, torch_rank  # noqa: E402
from iltools_datasets.replay_manager import ExpertReplayManager  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.data import TensorStorage  # noqa: E402

Make = Callable[..., Any]
SEED = 11
LENGTHS = [5, 2, 9, 14, 3, 7, 2, 11]
WORLDS = st.integers(1, 6)


@pytest.fixture(scope="module", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return TrajectoryStore.open(build_store(tmp_path_factory.mktemp("ranks") / "store", make_clips(LENGTHS)))


def storage_of(count: int) -> TensorStorage:
    return TensorStorage(TensorDict({"row": torch.arange(count)}, [count]))


def ranks_of(make: Make, world_size: int, **options: Any) -> list[Any]:
    return [make(seed=SEED, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


def rest_of_epoch(ranks: list[Any], storage: Any, batch_size: int) -> list[list[torch.Tensor]]:
    """What each rank draws until it has run out: `[rank][batch]`."""
    drawn: list[list[torch.Tensor]] = []
    for sampler in ranks:
        drawn.append([])
        sampler.ran_out = False
        while not sampler.ran_out:
            index, _ = sampler.sample(storage, batch_size)
            drawn[-1].append(index[0] if isinstance(index, tuple) else index)
    return drawn


def flat(drawn: list[list[torch.Tensor]]) -> list[int]:
    return torch.cat([batch for batches in drawn for batch in batches]).tolist()


@given(
    count=st.integers(6, 200),
    world_size=WORLDS,
    batch_size=st.integers(1, 40),
    shuffle=st.booleans(),
)
def test_ranks_make_up_one_epoch(count: int, world_size: int, batch_size: int, shuffle: bool) -> None:
    storage = storage_of(count)
    ranks = ranks_of(ours.SamplerWithoutReplacement, world_size, shuffle=shuffle)
    whole = ours.SamplerWithoutReplacement(seed=SEED, shuffle=shuffle)
    for _ in range(3):
        drawn = rest_of_epoch(ranks, storage, batch_size)
        assert sorted(flat(drawn)) == list(range(count))
        assert len({len(batches) for batches in drawn}) == 1
        for same_step in zip(*drawn, strict=True):
            sizes = [len(batch) for batch in same_step]
            assert max(sizes) - min(sizes) <= 1
            assert min(sizes) >= 1
            assert max(sizes) <= batch_size + 1
        # Put together in the order of the ranks it is what one process draws.
        together = torch.cat([torch.cat(same_step) for same_step in zip(*drawn, strict=True)])
        assert torch.equal(together, whole.sample(storage, count)[0])
        assert len({json.dumps(sampler.state_dict()) for sampler in ranks}) == 1


@given(count=st.integers(1, 200), world_size=WORLDS, batch_size=st.integers(1, 40))
def test_with_drop_last_all_batches_are_full(count: int, world_size: int, batch_size: int) -> None:
    storage = storage_of(count)
    ranks = ranks_of(ours.SamplerWithoutReplacement, world_size, drop_last=True)
    if count < world_size * batch_size:
        with pytest.raises(ValueError, match="storage capacity"):
            ranks[0].sample(storage, batch_size)
        return
    for _ in range(3):
        drawn = rest_of_epoch(ranks, storage, batch_size)
        assert all(len(batch) == batch_size for batches in drawn for batch in batches)
        assert {len(batches) for batches in drawn} == {count // (world_size * batch_size)}
        assert len(set(flat(drawn))) == len(flat(drawn))


def remaining_is_true(sampler: Any, storage: Any, batch_size: int) -> None:
    expected = sampler._remaining_batches
    sampler.ran_out = False
    for left in range(expected - 1, -1, -1):
        sampler.sample(storage, batch_size)
        assert sampler.ran_out == (left == 0)
        if left:
            assert sampler._remaining_batches == left


@given(count=st.integers(6, 120), world_size=WORLDS, batch_size=st.integers(1, 30), drop_last=st.booleans())
def test_the_remaining_batches_are_counted(count: int, world_size: int, batch_size: int, drop_last: bool) -> None:
    """TorchRL prefetches no more than that."""
    if drop_last and count < world_size * batch_size:
        return
    storage = storage_of(count)
    for sampler in ranks_of(ours.SamplerWithoutReplacement, world_size, drop_last=drop_last):
        sampler.sample(storage, batch_size)
        remaining_is_true(sampler, storage, batch_size)


EPOCHS: dict[str, Callable[[TrajectoryStore], Make]] = {
    "without": lambda store: ours.SamplerWithoutReplacement,
    "every window": lambda store: lambda **options: ours.EveryWindowSampler(2, **options),
}


@pytest.mark.filterwarnings("ignore:rank .* gets an empty batch")
@pytest.mark.parametrize("name", EPOCHS)
@given(worlds=st.lists(st.tuples(WORLDS, st.integers(1, 5), st.integers(0, 4)), min_size=2, max_size=8), data=st.data())
def test_an_epoch_goes_on_with_another_number_of_ranks(
    store: TrajectoryStore, name: str, worlds: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    make, length = EPOCHS[name](store), 1 if name == "without" else 2
    storage = ours.TrajectoryStorage(store)
    state: dict[str, Any] | None = None
    seen: list[int] = []
    over = False
    for world_size, batch_size, rounds in worlds:
        ranks = ranks_of(make, world_size)
        for sampler in ranks:
            if state is not None:
                sampler.load_state_dict(state)
        for _ in range(rounds):
            if not over:
                for sampler in ranks:
                    index, _ = sampler.sample(storage, batch_size * length)
                    seen += (index[0] if isinstance(index, tuple) else index)[::length].tolist()
                over = ranks[0].ran_out
                assert len({sampler.ran_out for sampler in ranks}) == 1
        # Any rank's state will do.
        state = json.loads(json.dumps(ranks[data.draw(st.integers(0, world_size - 1))].state_dict()))
    if not over:
        seen += [
            row for batch in rest_of_epoch(ranks, storage, 3 * length) for row in torch.cat(batch)[::length].tolist()
        ]
    segments = store.segments
    begins = [
        range(start, start + count - length + 1) for start, count in zip(segments.start, segments.length, strict=True)
    ]
    assert sorted(seen) == [row for rows in begins for row in rows]


@pytest.mark.parametrize("kind", ["epochs", "assigned", "with replacement", "random"])
@given(worlds=st.lists(st.tuples(WORLDS, st.integers(1, 60), st.integers(0, 4)), min_size=1, max_size=6))
def test_exact_batches_run_on_across_epochs(
    store: TrajectoryStore, kind: str, worlds: list[tuple[int, int, int]]
) -> None:
    makes: dict[str, Make] = {
        "epochs": lambda **options: ours.EpochUniformSampler(store.segments, **options),
        "assigned": lambda **options: ours.AssignedUniformSampler(
            store.segments, [(0, 0), (1, 2), (0, 0, 2)], **options
        ),
        "with replacement": lambda **options: ours.EpochUniformSampler(store.segments, False, **options),
        "random": ours.RandomSampler,
    }
    make, storage = makes[kind], ours.TrajectoryStorage(store)
    whole = make(seed=SEED)
    state = whole.state_dict()
    for world_size, batch_size, rounds in worlds:
        ranks = ranks_of(make, world_size)
        for sampler in ranks:
            sampler.load_state_dict(state)
        for _ in range(rounds):
            batches = [sampler.sample(storage, batch_size)[0] for sampler in ranks]
            assert all(len(batch) == batch_size for batch in batches)
            assert torch.equal(torch.cat(batches), whole.sample(storage, world_size * batch_size)[0])
        state = ranks[-1].state_dict()
    assert {key: state[key] for key in ("seed", "position")} == {
        key: whole.state_dict()[key] for key in ("seed", "position")
    }


@pytest.mark.parametrize("kind", [ours.SamplerWithoutReplacement, ours.EpochUniformSampler, ours.EveryWindowSampler])
@pytest.mark.parametrize("prefetch", [None, 3])
def test_batches_made_ahead_are_those_of_the_rank(store: TrajectoryStore, kind: type, prefetch: int | None) -> None:
    first = {ours.EpochUniformSampler: (store.segments,), ours.EveryWindowSampler: (2,)}.get(kind, ())
    seen = []
    for rank in range(3):
        rb = ours.TensorDictReplayBuffer(
            storage=ours.TrajectoryStorage(store),
            sampler=kind(*first, seed=SEED, rank=rank, world_size=3),
            batch_size=4,
            prefetch=prefetch,
        )
        plain = kind(*first, seed=SEED, rank=rank, world_size=3)
        for _ in range(25):
            expected, _ = plain.sample(rb.storage, 4)
            expected = expected[0] if isinstance(expected, tuple) else expected
            batch = rb.sample()
            assert torch.equal(batch["index"].reshape(-1), expected)
            np.testing.assert_array_equal(batch["qpos"].numpy(), store.gather(expected.numpy(), ["qpos"])["qpos"])
        seen.append(expected.tolist())
    assert len({json.dumps(rows) for rows in seen}) == 3


def test_a_last_round_of_less_than_one_each_warns(store: TrajectoryStore) -> None:
    """Only another number of ranks, or other batch sizes, can leave so little."""
    alone = ours.SamplerWithoutReplacement(seed=SEED)
    alone.sample(ours.TrajectoryStorage(store), 43)
    state = alone.state_dict()
    for rank, rows in enumerate([1, 1, 0]):
        sampler = ours.SamplerWithoutReplacement(seed=SEED, rank=rank, world_size=3)
        sampler.load_state_dict(state)
        rb = ours.TensorDictReplayBuffer(storage=ours.TrajectoryStorage(store), sampler=sampler, batch_size=4)
        if rows:
            assert len(rb.sample()) == 1
        else:
            with pytest.warns(RuntimeWarning, match="rank 2 of 3 gets an empty batch"):
                assert len(rb.sample()) == 0
        assert sampler.ran_out
        assert len(rb.sample()) == 4


def test_ranks_need_a_seed_and_to_exist(store: TrajectoryStore) -> None:
    for make in (ours.RandomSampler, ours.SamplerWithoutReplacement, lambda **o: ours.EveryWindowSampler(2, **o)):
        with pytest.raises(ValueError, match="shared_seed"):
            make(world_size=2)
        for rank, world_size in ((2, 2), (-1, 2), (0, 0), (True, 2), (0.0, 2)):
            with pytest.raises(ValueError, match="0 <= rank < world_size"):
                make(seed=1, rank=rank, world_size=world_size)
    with pytest.raises(ValueError, match="shared_seed"):
        ExpertReplayManager.from_store(store, world_size=2)
    with pytest.raises(ValueError, match="too few for 4 ranks"):
        ours.SamplerWithoutReplacement(seed=1, world_size=4).sample(storage_of(3), 1)


def test_managers_share_an_epoch_and_its_state(store: TrajectoryStore) -> None:
    def managers(world_size: int) -> list[ExpertReplayManager]:
        return [
            ExpertReplayManager.from_store(
                store, sample_batch_size=3, prefetch=2, seed=SEED, rank=rank, world_size=world_size
            )
            for rank in range(world_size)
        ]

    two = managers(2)
    seen = [row for _ in range(3) for mgr in two for row in mgr.buffer.sample()["index"].tolist()]
    state = json.loads(json.dumps(two[1].state_dict()))
    three = managers(3)
    for mgr in three:
        mgr.load_state_dict(state)
    seen += [row for _ in range(3) for mgr in three for row in mgr.buffer.sample()["index"].tolist()]
    assert sorted(seen) == list(range(45))
    for mgr in three:
        mgr.set_assignment([(0, 0), (1, 1)])
        mgr.set_uniform_sampler(4, respect_assignment=True)
        assert (mgr.buffer.sampler.rank, mgr.buffer.sampler.world_size) == (mgr._share["rank"], 3)
    drawn = [mgr.buffer.sample()["index"].tolist() for mgr in three]
    assert len({row for rows in drawn for row in rows}) == 6


def test_frameworks_are_asked() -> None:
    for ask in (torch_rank, shared_seed):
        with pytest.raises(RuntimeError, match="init_process_group"):
            ask()
    pytest.importorskip("jax", reason="needs the jax extra")
    assert jax_rank() == {"rank": 0, "world_size": 1}
