"""`RandomSampler` and `SamplerWithoutReplacement` side by side with TorchRL's, on any storage."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets.errors import StateError  # noqa: E402
from iltools_datasets.torchrl import RandomSampler, SamplerWithoutReplacement, TrajectoryStorage  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ListStorage, ReplayBuffer, TensorStorage  # noqa: E402
from torchrl.data.replay_buffers import samplers as torchrl_samplers  # noqa: E402
from torchrl_cases import LENGTHS, data_fixture, storage_fixture, store_fixture  # noqa: E402, F401

pytestmark = pytest.mark.torch


def storage_of(count: int) -> TensorStorage:
    return TensorStorage(TensorDict({"row": torch.arange(count)}, [count]))


def storage_of_two_dimensions() -> LazyTensorStorage:
    """Four times three rows in a storage with room for more."""
    storage = LazyTensorStorage(30, ndim=2)
    ReplayBuffer(storage=storage, dim_extend=0).extend(TensorDict({"row": torch.arange(12).reshape(4, 3)}, [4, 3]))
    return storage


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def epoch_of(rb: ReplayBuffer) -> list[list[int]]:
    return [batch["row"].flatten().tolist() for batch in rb]


class TestWithoutReplacement:
    @given(
        count=st.integers(1, 40),
        batch_size=st.integers(1, 50),
        drop_last=st.booleans(),
        shuffle=st.booleans(),
        draws=st.integers(1, 12),
    )
    def test_batches_and_flags_follow_torchrl(
        self, count: int, batch_size: int, drop_last: bool, shuffle: bool, draws: int
    ) -> None:
        ours = SamplerWithoutReplacement(drop_last, shuffle)
        theirs = torchrl_samplers.SamplerWithoutReplacement(drop_last, shuffle)
        storage = storage_of(count)
        assert ours.can_sample(storage, batch_size) == theirs.can_sample(storage, batch_size)
        for _ in range(draws):
            try:
                expected, _ = theirs.sample(storage, batch_size)
            except ValueError:
                with pytest.raises(ValueError, match="greater than the storage capacity"):
                    ours.sample(storage, batch_size)
                return
            index, info = ours.sample(storage, batch_size)
            assert info == {}
            assert index.shape == expected.shape
            assert index.dtype == expected.dtype
            assert ours.ran_out == theirs.ran_out
            assert ours._remaining_batches == theirs._remaining_batches
            if not shuffle:
                assert torch.equal(index, expected)

    @given(count=st.integers(1, 3000), batch_size=st.integers(1, 700), seed=st.integers(0, 2**64 - 1))
    def test_every_element_comes_once_per_epoch(self, count: int, batch_size: int, seed: int) -> None:
        sampler, storage = SamplerWithoutReplacement(seed=seed), storage_of(count)
        orders = []
        for _ in range(2):
            drawn = []
            while not drawn or not sampler.ran_out:
                drawn.append(sampler.sample(storage, batch_size)[0])
            orders.append(torch.cat(drawn))
            assert torch.equal(orders[-1].sort().values, torch.arange(count))
        assert count < 20 or not torch.equal(*orders)

    @pytest.mark.parametrize("prefetch", [None, 1, 3])
    @pytest.mark.parametrize("drop_last", [False, True])
    @pytest.mark.parametrize("count", [1, 7, 20, 21])
    def test_iterating_a_buffer_ends_with_the_epoch(self, count: int, drop_last: bool, prefetch: int | None) -> None:
        def epochs(sampler: torchrl_samplers.Sampler) -> list[list[list[int]]]:
            rb = ReplayBuffer(storage=storage_of(count), sampler=sampler, batch_size=5, prefetch=prefetch)
            return [epoch_of(rb) for _ in range(3)]

        if drop_last and count < 5:
            pytest.skip("less than one batch")
        ours = epochs(SamplerWithoutReplacement(drop_last))
        theirs = epochs(torchrl_samplers.SamplerWithoutReplacement(drop_last))
        for mine, other in zip(ours, theirs, strict=True):
            # Several prefetching threads race for the sampler, so the short batch may not come last.
            assert sorted(len(batch) for batch in mine) == sorted(len(batch) for batch in other)
            rows = flat(mine)
            assert len(set(rows)) == len(rows)
            if not drop_last:
                assert sorted(rows) == list(range(count))

    def test_a_storage_that_grew_is_begun_anew(self) -> None:
        rb = ReplayBuffer(storage=LazyTensorStorage(30), sampler=SamplerWithoutReplacement(), batch_size=4)
        rb.extend(TensorDict({"row": torch.arange(10)}, [10]))
        rb.sample()
        rb.extend(TensorDict({"row": torch.arange(10, 17)}, [7]))
        assert sorted(flat(epoch_of(rb))) == list(range(17))
        rb.empty()
        with pytest.raises(RuntimeError, match="empty storage"):
            rb.sample()
        rb.extend(TensorDict({"row": torch.arange(3)}, [3]))
        assert sorted(flat(epoch_of(rb))) == list(range(3))

    def test_another_store_of_the_same_length_is_begun_anew(self, store: TrajectoryStore, tmp_path: Path) -> None:
        sampler = SamplerWithoutReplacement()
        storage = TrajectoryStorage(store)
        sampler.sample(storage, 5)
        other = TrajectoryStorage(TrajectoryStore.open(build_store(tmp_path / "other", make_clips(LENGTHS))))
        drawn = [sampler.sample(other, 5)[0] for _ in range(len(other) // 5)]
        assert torch.equal(torch.cat(drawn).sort().values, torch.arange(len(other)))

    @pytest.mark.parametrize("kind", [ListStorage, LazyTensorStorage, LazyMemmapStorage])
    def test_works_with_any_storage(self, kind: type) -> None:
        rb = ReplayBuffer(storage=kind(20), sampler=SamplerWithoutReplacement(), batch_size=6)
        rb.extend(TensorDict({"row": torch.arange(20)}, [20]))
        assert sorted(flat(epoch_of(rb))) == list(range(20))

    def test_storages_of_more_dimensions(self) -> None:
        storage = storage_of_two_dimensions()
        rb = ReplayBuffer(storage=storage, sampler=SamplerWithoutReplacement(), batch_size=5)
        index, _ = rb.sampler.sample(storage, 5)
        assert isinstance(index, tuple)
        assert [part.shape for part in index] == [(5,), (5,)]
        rb.sampler._empty()
        assert sorted(flat(epoch_of(rb))) == list(range(12))

    def test_an_epoch_of_a_store_is_the_store(self, storage: TrajectoryStorage, data: TensorDict) -> None:
        rb = ReplayBuffer(storage=storage, sampler=SamplerWithoutReplacement(), batch_size=7)
        drawn = []
        while not drawn or not rb.sampler.ran_out:
            drawn.append(rb.sample(return_info=True))
        index = torch.cat([info["index"] for _, info in drawn])
        batch = torch.cat([batch for batch, _ in drawn])
        order = index.argsort()
        assert torch.equal(index[order], torch.arange(len(data)))
        assert (batch[order] == data).all()

    def test_drop_last_needs_a_known_batch_size(self) -> None:
        with pytest.raises(ValueError, match="drop_last"):
            ReplayBuffer(storage=storage_of(5), sampler=SamplerWithoutReplacement(drop_last=True))

    def test_begins_at_once_however_long_the_storage(self) -> None:
        class Huge(TensorStorage):
            def __len__(self) -> int:
                return 346_000_000

        sampler = SamplerWithoutReplacement()
        index, _ = sampler.sample(Huge(TensorDict({"row": torch.zeros(1)}, [1])), 4096)
        assert index.unique().numel() == 4096
        assert index.max() > 300_000_000
        assert len(json.dumps(sampler.state_dict())) < 1024
        assert "sampled" in repr(sampler)


class TestWithReplacement:
    def test_is_uniform(self) -> None:
        index, info = RandomSampler(seed=3).sample(storage_of(50), 100_000)
        assert info == {}
        counts = torch.bincount(index, minlength=50)
        assert counts.numel() == 50
        # 2000 expected with a standard deviation of about 45.
        assert 1775 < counts.min() <= counts.max() < 2225

    def test_storages_of_more_dimensions(self) -> None:
        storage = storage_of_two_dimensions()
        index, _ = RandomSampler(seed=1).sample(storage, 1000)
        expected, _ = torchrl_samplers.RandomSampler().sample(storage, 1000)
        assert [part.shape for part in index] == [part.shape for part in expected]
        assert set(zip(*(part.tolist() for part in index), strict=True)) == {(i, j) for i in range(4) for j in range(3)}

    def test_follows_a_growing_storage(self) -> None:
        rb = ReplayBuffer(storage=LazyTensorStorage(1000), sampler=RandomSampler(seed=0), batch_size=200)
        with pytest.raises(RuntimeError, match="empty storage"):
            rb.sample()
        for count in (1, 10, 500):
            rb.extend(TensorDict({"row": torch.arange(count)}, [count]))
            assert rb.sample()["row"].max() < count
        assert rb.sampler.state_dict()["position"] == 600

    def test_turns_into_its_sibling_as_torchrl_does(self) -> None:
        assert type(RandomSampler(replacement=True)) is RandomSampler
        assert type(RandomSampler(replacement=False, drop_last=True)) is SamplerWithoutReplacement
        assert isinstance(RandomSampler(), torchrl_samplers.RandomSampler)
        assert isinstance(SamplerWithoutReplacement(), torchrl_samplers.SamplerWithoutReplacement)


Make = Callable[..., Any]
BOTH = pytest.mark.parametrize("make", [RandomSampler, SamplerWithoutReplacement])


def rows(rb: ReplayBuffer, count: int = 5) -> list[list[int]]:
    return [rb.sample()["row"].tolist() for _ in range(count)]


def buffer(sampler: Any, generator: int | None = None) -> ReplayBuffer:
    made = None if generator is None else torch.Generator().manual_seed(generator)
    return ReplayBuffer(storage=storage_of(1000), sampler=sampler, batch_size=16, generator=made)


@BOTH
class TestSeeds:
    def test_a_seed_fixes_the_stream(self, make: Make) -> None:
        assert rows(buffer(make(seed=1))) == rows(buffer(make(seed=1), generator=5))
        assert rows(buffer(make(seed=1))) != rows(buffer(make(seed=2)))

    def test_the_buffers_generator_fixes_the_stream(self, make: Make) -> None:
        assert rows(buffer(make(), generator=1)) == rows(buffer(make(), generator=1))
        assert rows(buffer(make(), generator=1)) != rows(buffer(make(), generator=2))
        late = buffer(make())
        late.set_rng(torch.Generator().manual_seed(1))
        assert rows(late) == rows(buffer(make(), generator=1))

    def test_torchs_generator_does_otherwise(self, make: Make) -> None:
        torch.manual_seed(1)
        first = rows(buffer(make()))
        torch.manual_seed(1)
        assert rows(buffer(make())) == first
        assert rows(buffer(make())) != first

    @pytest.mark.parametrize("seed", [-1, 2**64, True])
    def test_an_impossible_seed_is_refused(self, make: Make, seed: int) -> None:
        with pytest.raises(ValueError, match="seed"):
            make(seed=seed)

    def test_setting_the_same_generator_changes_nothing(self, make: Make) -> None:
        one, other = buffer(make(), generator=1), buffer(make(), generator=1)
        rows(one), rows(other)
        other.set_rng(other._rng)
        assert rows(one) == rows(other)


def test_a_generator_counts_for_draws_with_replacement_at_once() -> None:
    rb = buffer(RandomSampler(), generator=1)
    first = rows(rb)
    rb.set_rng(torch.Generator().manual_seed(1))
    assert rows(rb) == first


def test_a_generator_counts_for_epochs_from_the_next_one() -> None:
    rb = buffer(SamplerWithoutReplacement(), generator=1)
    head = rows(rb, 10)
    rb.set_rng(torch.Generator().manual_seed(2))
    state = rb.sampler.state_dict()
    tail = rows(rb, 53)
    assert sorted(flat(head + tail)) == list(range(1000))
    following = rows(rb, 3)
    assert rb.sampler.state_dict()["seed"] != state["seed"]
    other = buffer(SamplerWithoutReplacement(), generator=2)
    other.sampler.load_state_dict(state)
    assert rows(other, 53) == tail
    assert rows(other, 3) == following == rows(buffer(SamplerWithoutReplacement(), generator=2), 3)


@BOTH
@pytest.mark.filterwarnings("ignore:last_cursor is None")
class TestState:
    @given(before=st.integers(0, 70), after=st.integers(1, 70))
    def test_restores_the_stream_anywhere(self, make: Make, before: int, after: int) -> None:
        one = buffer(make())
        rows(one, before)
        other = buffer(make())
        other.sampler.load_state_dict(json.loads(json.dumps(one.sampler.state_dict())))
        assert other.sampler._remaining_batches == one.sampler._remaining_batches
        assert other.sampler.ran_out == one.sampler.ran_out
        # Torch's global generator, which both follow, is part of the state of a run.
        of_torch = torch.get_rng_state()
        expected = rows(one, after)
        torch.set_rng_state(of_torch)
        assert rows(other, after) == expected

    def test_restores_from_disk_and_pickle(self, make: Make, tmp_path: Path) -> None:
        one = buffer(make(), generator=3)
        rows(one, 20)
        one.sampler.dumps(tmp_path / "sampler")
        pickled = pickle.loads(pickle.dumps(one.sampler))
        assert sum(file.stat().st_size for file in (tmp_path / "sampler").iterdir()) < 1024
        other, third = buffer(make()), buffer(pickled)
        other.sampler.loads(tmp_path / "sampler")
        for each in (other, third):
            generator = torch.Generator()
            generator.set_state(one._rng.get_state())
            each.set_rng(generator)
        assert rows(one, 100) == rows(other, 100) == rows(third, 100)

    def test_a_buffer_that_loads_hands_over_its_generator_without_harm(self, make: Make, tmp_path: Path) -> None:
        one = buffer(make(), generator=3)
        rows(one, 20)
        one.dumps(tmp_path / "rb")
        other = buffer(make(), generator=4)
        rows(other, 3)
        other.loads(tmp_path / "rb")
        assert rows(one, 100) == rows(other, 100)
        third = pickle.loads(pickle.dumps(one))
        assert rows(one, 100) == rows(third, 100)
        third.set_rng(torch.Generator().manual_seed(9))
        assert rows(one, 100) != rows(third, 100)

    def test_a_later_generator_still_reseeds(self, make: Make) -> None:
        one, other = buffer(make(), generator=3), buffer(make(), generator=3)
        other.sampler.load_state_dict(one.sampler.state_dict())
        other.set_rng(torch.Generator().manual_seed(9))
        assert rows(one, 100) != rows(other, 100)

    def test_mutated_states_are_refused(self, make: Make) -> None:
        rb = buffer(make(seed=1))
        rows(rb)
        good = rb.sampler.state_dict()
        bad: list[Any] = [None, [], 3, {}, {**good, "kind": "SliceSampler"}, {**good, "version": 2}]
        for name, value in good.items():
            wrong = [-1, 2**64, 1.5, "1", [1], {}, b"x"]
            if type(value) is bool:
                wrong = [0, 1, None, "true"]
            if name in ("store", "generator"):
                wrong = [1, [], True]
            bad += [{**good, name: replaced} for replaced in wrong]
            if name not in ("follows_generator", "batch_epoch"):  # states of before lack them
                bad.append({key: kept for key, kept in good.items() if key != name})
        if make is SamplerWithoutReplacement:
            bad += [{**good, "position": 1000}, {**good, "total": 10}, {**good, "remaining_batches": 921}]
            bad += [{**good, "remaining_batches": 0}, {**good, "ran_out": True}]
        for state in bad:
            with pytest.raises(StateError):
                rb.sampler.load_state_dict(state)
            assert rb.sampler.state_dict() == good
        theirs = torchrl_samplers.SamplerWithoutReplacement()
        theirs.sample(storage_of(5), 2)
        if make is RandomSampler:
            with pytest.raises(StateError):
                rb.sampler.load_state_dict(theirs.state_dict())
        else:  # that of the class of the same name is taken over as far as it means something
            with pytest.warns(RuntimeWarning, match="begins anew"):
                rb.sampler.load_state_dict(theirs.state_dict())

    @pytest.mark.parametrize("damage", ["", "{", "null", "[1, 2]"])
    def test_damaged_files_are_refused(self, make: Make, tmp_path: Path, damage: str) -> None:
        rb = buffer(make(seed=1))
        rb.sampler.dumps(tmp_path)
        before = rb.sampler.state_dict()
        (tmp_path / "sampler.json").write_text(damage)
        with pytest.raises(StateError):
            rb.sampler.loads(tmp_path)
        with pytest.raises(StateError, match="no saved state"):
            rb.sampler.loads(tmp_path / "nowhere")
        assert rb.sampler.state_dict() == before

    def test_a_failed_save_keeps_the_old_one(self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rb = buffer(make(seed=1))
        rb.sampler.dumps(tmp_path)
        before = (tmp_path / "sampler.json").read_bytes()
        rows(rb)

        def fail(self: Path, target: Path) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            rb.sampler.dumps(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["sampler.json"]
        assert (tmp_path / "sampler.json").read_bytes() == before

    def test_a_state_of_another_store_is_refused(self, make: Make, store: TrajectoryStore, tmp_path: Path) -> None:
        here = TrajectoryStorage(store)
        there = TrajectoryStorage(TrajectoryStore.open(build_store(tmp_path / "other", make_clips(LENGTHS))))
        sampler = make()
        sampler.sample(here, 4)
        state = sampler.state_dict()
        assert state["store"] == store.uuid

        used = make()
        used.sample(there, 4)
        before = used.state_dict()
        with pytest.raises(StateError, match="store"):
            used.load_state_dict(state)
        assert used.state_dict() == before

        fresh = make()
        fresh.load_state_dict(state)
        generators = [torch.Generator().manual_seed(5) for _ in range(2)]
        fresh._rng, sampler._rng = generators
        state["generator"] = fresh.state_dict()["generator"]
        with pytest.raises(StateError, match="expected store"):
            fresh.sample(there, 4)
        with pytest.raises(StateError, match="expected store"):
            fresh.sample(storage_of(45), 4)
        assert fresh.state_dict() == state
        assert torch.equal(fresh.sample(here, 4)[0], sampler.sample(here, 4)[0])
