"""Slice samplers side by side with TorchRL's: fed with the same random numbers, they give the same batches."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as torchrl_data  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import StoreBuilder, TrajectoryStore, _core  # noqa: E402
from iltools_datasets.errors import StateError  # noqa: E402
from iltools_datasets.torchrl import (  # noqa: E402
    EveryWindowSampler,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    TrajectoryStorage,
)
from iltools_datasets.torchrl import TensorDictReplayBuffer as OurReplayBuffer  # noqa: E402
from iltools_datasets.torchrl.store_column import StoreColumn  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.data import LazyTensorStorage, ListStorage, ReplayBuffer, TensorDictReplayBuffer, TensorStorage  # noqa: E402
from torchrl_cases import LENGTHS, assert_same, data_fixture, storage_fixture, store_fixture  # noqa: E402, F401

pytestmark = pytest.mark.torch

FRACTIONS = 2**53


@contextlib.contextmanager
def torch_draws(integers: Any, fractions: Any, order: Any = None) -> Iterator[None]:
    """Let torch "draw" these numbers, each given in [0, 1)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch, "randint", lambda high, size, **_: torch.from_numpy(np.floor(integers * high).astype(np.int64))
        )
        patch.setattr(torch, "rand", lambda size, **_: torch.from_numpy(fractions[:size]))
        patch.setattr(torch, "randperm", lambda count, **_: torch.from_numpy(order(count)))
        yield


def same_batch(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    assert len(ours[0]) == len(theirs[0])
    for mine, other in zip(ours[0], theirs[0], strict=True):
        assert_same(mine, other)
    assert ours[1].keys() == theirs[1].keys()
    for key in theirs[1]:
        assert_same(ours[1][key], theirs[1][key])


def sample_both(ours: SliceSampler, theirs: Any, storage: Any, batch_size: int) -> None:
    """Draw from both samplers with the same random numbers, and compare."""
    _, num_slices = theirs._adjusted_batch_size(batch_size)
    state = ours.state_dict()
    draws = _core.UniformDraws(FRACTIONS, state["seed"], state["position"]).next(2 * num_slices) / FRACTIONS
    try:
        with torch_draws(draws[:num_slices], draws[num_slices:]):
            expected = theirs.sample(storage, batch_size)
    except RuntimeError as error:
        with pytest.raises(RuntimeError, match=str(error)[:30]):
            ours.sample(storage, batch_size)
        return
    same_batch(ours.sample(storage, batch_size), expected)
    assert ours.can_sample(storage, batch_size) == theirs.can_sample(storage, batch_size)


def steps(count: int, rng: np.random.Generator, with_init: bool = False) -> TensorDict:
    """Rows with random ends; the ids change with the ends, and now and then without."""
    done = rng.random(count) < 0.25
    data = {
        "episode": torch.from_numpy((np.cumsum(done) - done + rng.integers(0, 2) * 50).astype(np.int64)),
        "step": torch.arange(count),
        "next": {
            "done": torch.from_numpy(done)[:, None],
            "terminated": torch.from_numpy(done & (rng.random(count) < 0.5))[:, None],
            "cut": torch.from_numpy(rng.random(count) < 0.1)[:, None],
        },
    }
    if with_init:
        data["is_init"] = torch.from_numpy(rng.random(count) < 0.2)[:, None]
    return TensorDict(data, [count])


ENDS: list[dict[str, Any]] = [
    {"end_key": ("next", "done")},
    {"end_keys": [("next", "done"), ("next", "cut"), ("next", "missing")]},
    {"traj_key": "episode"},
    {"traj_key": "missing"},
    {},
]
SHAPES: list[dict[str, Any]] = [
    {},
    {"strict_length": False},
    {"strict_length": False, "pad_output": True},
    {"span": (True, False)},
    {"span": (2, False)},
    {"span": (0, 2)},
    {"span": (1, 1)},
    {"strict_length": False, "span": (True, False)},
    {"truncated_key": None},
    {"truncated_key": "truncated", "init_key": None},
]


@settings(max_examples=120)
@given(
    capacity=st.integers(6, 40),
    writes=st.lists(st.tuples(st.sampled_from(["extend", "add", "set", "other", "patch"]), st.integers(1, 30))),
    ends=st.sampled_from(ENDS),
    shape=st.sampled_from(SHAPES),
    size=st.sampled_from([{"num_slices": 4}, {"slice_len": 3}]),
    with_init=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_a_buffer_that_is_written_to(
    capacity: int,
    writes: list[tuple[str, int]],
    ends: dict[str, Any],
    shape: dict[str, Any],
    size: dict[str, Any],
    with_init: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    ours = SliceSampler(**ends, **shape, **size, seed=seed)
    theirs = torchrl_data.SliceSampler(**ends, **shape, **size)
    storage = LazyTensorStorage(capacity)
    rb = ReplayBuffer(storage=storage, sampler=ours, batch_size=12)
    other = ReplayBuffer(storage=storage, batch_size=12)
    rb.extend(steps(5, rng, with_init))
    sample_both(ours, theirs, storage, 12)
    for how, count in writes:
        count = min(count, capacity)
        data = steps(count, rng, with_init)
        if how == "extend":
            rb.extend(data)
        elif how == "add":
            rb.add(data[0])
        elif how == "other":
            other.extend(data)
        elif how == "set":
            storage[torch.from_numpy(rng.choice(len(storage), min(count, len(storage)), replace=False))] = data[
                : len(storage)
            ]
        else:
            rb.set_at_(("next", "done"), torch.ones(1, dtype=torch.bool), int(rng.integers(len(storage))))
        if rng.random() < 0.7:
            sample_both(ours, theirs, storage, 12)
    sample_both(ours, theirs, storage, 12)


def test_writes_correct_the_table_instead_of_rebuilding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for ends in ({"end_key": ("next", "done")}, {"traj_key": "episode"}):
        sampler = SliceSampler(slice_len=2, strict_length=False, **ends)
        rb = ReplayBuffer(storage=LazyTensorStorage(50), sampler=sampler, batch_size=8)
        rb.extend(steps(20, rng))
        rb.sample()
        with monkeypatch.context() as patch:
            patch.setattr(sampler, "_whole_table", lambda storage: pytest.fail("looked at all rows"))
            for _ in range(9):
                rb.extend(steps(13, rng))
                rb.add(steps(1, rng)[0])
                rb.sample()
                rb.sample()


def test_a_ring_without_an_end_is_one_trajectory() -> None:
    data = TensorDict({"x": torch.arange(10), ("next", "done"): torch.zeros(10, 1, dtype=torch.bool)}, [10])
    sample_both(SliceSampler(slice_len=4, seed=1), torchrl_data.SliceSampler(slice_len=4), TensorStorage(data), 12)


@pytest.mark.parametrize("with_done", [True, False])
def test_storages_of_more_dimensions(with_done: bool) -> None:
    rng = np.random.default_rng(1)
    done = torch.from_numpy(rng.random((20, 3, 1)) < 0.2)
    data = TensorDict({"x": torch.arange(60).reshape(20, 3), ("next", "done"): done}, [20, 3])
    for shape in SHAPES:
        storage = LazyTensorStorage(60, ndim=2)
        ReplayBuffer(storage=storage, batch_size=4, dim_extend=0).extend(data)
        sample_both(
            SliceSampler(slice_len=3, end_key=("next", "done"), **shape, seed=1),
            torchrl_data.SliceSampler(slice_len=3, end_key=("next", "done"), **shape),
            storage,
            12,
        )


def test_given_ends_and_trajectories() -> None:
    ends = torch.zeros(30, dtype=torch.bool)
    ends[[4, 11, 12, 25]] = True
    storage = TensorStorage(TensorDict({"x": torch.arange(30)}, [30]))
    for options in ({"ends": ends}, {"trajectories": ends.cumsum(0)}):
        options = {"slice_len": 3, "cache_values": True, "strict_length": False, **options}
        sample_both(SliceSampler(**options, seed=1), torchrl_data.SliceSampler(**options), storage, 30)


def test_lists_go_torchrls_way() -> None:
    storage = ListStorage(30)
    rng = np.random.default_rng(3)
    rb = ReplayBuffer(storage=storage, sampler=SliceSampler(slice_len=2, traj_key="episode"), batch_size=6)
    rb.extend(list(steps(30, rng)))
    try:
        expected = ReplayBuffer(
            storage=storage, sampler=torchrl_data.SliceSampler(slice_len=2, traj_key="episode"), batch_size=6
        ).sample()
    except Exception as error:
        with pytest.raises(type(error)):
            rb.sample()
        return
    assert rb.sample().batch_size == expected.batch_size


def test_fragmented_trajectories_go_torchrls_way() -> None:
    trajectory, step = torch.tensor([0, 1] * 10), torch.arange(20) // 2
    data = TensorDict({"episode": trajectory, "step_count": step, ("next", "done"): (step == 9)[:, None]}, [20])
    options = {"slice_len": 4, "traj_key": "episode", "fragmented": True}
    storage = TensorStorage(data)
    torch.manual_seed(0)
    ours = SliceSampler(**options).sample(storage, 12)
    torch.manual_seed(0)
    same_batch(ours, torchrl_data.SliceSampler(**options).sample(storage, 12))


def test_spanning_to_the_right_keeps_a_step() -> None:
    ends = torch.zeros(30, dtype=torch.bool)
    ends[9::10] = True
    storage = TensorStorage(TensorDict({"x": torch.arange(30)}, [30]))
    sampler = SliceSampler(num_slices=500, ends=ends, cache_values=True, span=(False, True), seed=0)
    (index,), info = sampler.sample(storage, 2000)
    lengths = torch.diff(info["next", "truncated"].flatten().nonzero().flatten(), prepend=torch.tensor([-1]))
    assert len(lengths) == 500
    assert set(lengths.tolist()) == {1, 2, 3, 4}
    assert set((index % 10).tolist()) == set(range(10))


@pytest.mark.parametrize("span", [(3, 0), (0, 3), (4, 4)])
def test_a_span_of_a_whole_slice_is_refused(storage: TrajectoryStorage, span: Any) -> None:
    with pytest.raises(ValueError, match="span"):
        SliceSampler(slice_len=3, span=span).sample(storage, 12)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_slices": 2, "slice_len": 3}, {"slice_len": 2, "pad_output": True}, {"slice_len": 2, "typo": 1}],
)
@pytest.mark.parametrize("kind", ["SliceSampler", "SliceSamplerWithoutReplacement"])
def test_arguments_are_refused_as_torchrl_does(options: dict[str, Any], kind: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refusal:
        getattr(torchrl_data, kind)(**options)
    ours = {"SliceSampler": SliceSampler, "SliceSamplerWithoutReplacement": SliceSamplerWithoutReplacement}[kind]
    with pytest.raises(refusal.type):
        ours(**options)


def test_turns_into_its_sibling_as_torchrl_does() -> None:
    assert type(SliceSampler(slice_len=2, replacement=False)) is SliceSamplerWithoutReplacement
    assert isinstance(SliceSampler(slice_len=2), torchrl_data.SliceSampler)
    assert isinstance(SliceSamplerWithoutReplacement(slice_len=2), torchrl_data.SliceSamplerWithoutReplacement)


class TestStores:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("ends", [{}, {"end_key": ("next", "done")}])
    def test_batches_are_torchrls(
        self, storage: TrajectoryStorage, data: TensorDict, shape: dict[str, Any], ends: dict[str, Any]
    ) -> None:
        ours = SliceSampler(slice_len=3, **ends, **shape, seed=1)
        theirs = torchrl_data.SliceSampler(slice_len=3, end_key=("next", "done"), **shape)
        oracle = TensorStorage(data)
        for _ in range(5):
            state = ours.state_dict()
            draws = _core.UniformDraws(FRACTIONS, state["seed"], state["position"]).next(20) / FRACTIONS
            with torch_draws(draws[:10], draws[10:]):
                expected = theirs.sample(oracle, 30)
            same_batch(ours.sample(storage, 30), expected)

    def test_only_the_flags_are_read_beside_the_batch(
        self, storage: TrajectoryStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sampler = SliceSampler(slice_len=3, seed=1)
        sampler.sample(storage, 12)
        monkeypatch.setattr(TrajectoryStorage, "get", lambda self, index: pytest.fail("read a whole batch"))
        monkeypatch.setattr(StoreColumn, "rows", lambda self, index: pytest.fail("read a column by itself"))
        stream, asked = sampler.index_stream, []
        draw = lambda *of: (asked.append(of), stream.next_slices(*of))[1]  # noqa: E731
        recording = SimpleNamespace(total=stream.total, next_slices=draw)
        monkeypatch.setattr(sampler, "_stream", recording)
        sampler.sample(storage, 12)
        [done] = storage.store.field_ids([("next", "done")])
        assert [(of[0], of[-2][1], of[-1]) for of in asked] == [(4, [done], done)]

    @pytest.mark.parametrize("dtype", [bool, np.uint8])
    @pytest.mark.parametrize("truncated_key", ["truncated", ("next", "truncated"), None])
    def test_done_is_told_where_slices_end_and_only_where_that_is_told(
        self, tmp_path: Path, truncated_key: Any, dtype: Any
    ) -> None:
        """Flags of one bool per row are set in the rows that came; others are left to torch."""
        done = (np.arange(20)[:, None] % 7 == 3).astype(dtype)
        with StoreBuilder(tmp_path / "store") as builder:
            builder.add(0, 0, {}, {"done": done, ("next", "done"): ~done if dtype is bool else 1 - done})
        storage = TrajectoryStorage(TrajectoryStore.open(tmp_path / "store"))
        stored = {"done": torch.from_numpy(done), ("next", "done"): storage[:]["next", "done"][torch.arange(20)]}
        for kind, prefetch in ((TensorDictReplayBuffer, None), (OurReplayBuffer, None), (OurReplayBuffer, 2)):
            rb = kind(
                storage=storage,
                sampler=SliceSampler(slice_len=4, truncated_key=truncated_key, seed=0),
                batch_size=12,
                prefetch=prefetch,
            )
            told = {None: None, "truncated": "done"}.get(truncated_key, ("next", "done"))
            for _ in range(20):
                batch = rb.sample()
                index = batch["index"].reshape(-1)
                ends = torch.tensor([False, False, False, True] * 3)[:, None]
                for key, column in stored.items():
                    assert_same(batch[key], column[index] | ends if key == told else column[index])

    def test_a_span_that_is_changed_in_place_holds_at_once(self, storage: TrajectoryStorage) -> None:
        live, fresh = (SliceSampler(slice_len=3, span=list(span), seed=1) for span in ([False, False], [True, 1]))
        live.sample(storage, 30)
        fresh.sample(storage, 30)
        live.span[:] = [True, 1]
        for _ in range(3):
            same_batch(live.sample(storage, 30), fresh.sample(storage, 30))

    def test_a_flag_of_beginnings_that_is_done_as_well(self, storage: TrajectoryStorage, data: TensorDict) -> None:
        options = {"slice_len": 3, "init_key": ("next", "done"), "seed": 1}
        batch = OurReplayBuffer(storage=storage, sampler=SliceSampler(**options), batch_size=12).sample()
        (index,), info = SliceSampler(**options).sample(storage, 12)
        begins = torch.tensor([True, False, False] * 4)[:, None]
        assert_same(batch["next", "done"], data["next", "done"][index] | begins)
        assert_same(info["next", "done"], batch["next", "done"])

    def test_goes_into_a_buffer(self, store: TrajectoryStore, data: TensorDict) -> None:
        rb = TensorDictReplayBuffer(
            storage=TrajectoryStorage(store), sampler=SliceSampler(num_slices=5), batch_size=10, prefetch=2
        )
        for _ in range(10):
            batch = rb.sample()
            index = batch["index"].squeeze(-1)
            assert_same(batch["qpos"], data["qpos"][index])
            segment, step = store.segments.locate(index.numpy())
            segment, step = segment.reshape(5, 2), step.reshape(5, 2)
            assert (segment[:, 0] == segment[:, 1]).all()
            assert (step[:, 0] + 1 == step[:, 1]).all()
            assert batch["next", "truncated"].flatten().tolist() == [False, True] * 5
            assert_same(batch["next", "done"], data["next", "done"][index] | batch["next", "truncated"])

    @pytest.mark.parametrize("prefetch", [None, 1])
    @pytest.mark.parametrize("kind", [SliceSampler, SliceSamplerWithoutReplacement, torchrl_data.SliceSampler])
    def test_goes_into_our_buffer_too(self, storage: TrajectoryStorage, kind: Any, prefetch: int | None) -> None:
        def batches(buffer: type) -> list[TensorDict]:
            rb = buffer(
                storage=storage,
                sampler=kind(slice_len=2, end_key=("next", "done")),
                batch_size=8,
                prefetch=prefetch,
                generator=torch.Generator().manual_seed(0),
            )
            return [rb.sample() for _ in range(12)]

        for mine, other in zip(batches(OurReplayBuffer), batches(TensorDictReplayBuffer), strict=True):
            assert_same(mine, other)

    def test_all_windows_are_equally_likely_within_a_trajectory(self, storage: TrajectoryStorage) -> None:
        (index,), _ = SliceSampler(slice_len=5, seed=1).sample(storage, 5 * 40_000)
        starts, counts = index.reshape(-1, 5)[:, 0].unique(return_counts=True)
        segments = storage.store.segments
        long = np.flatnonzero(segments.length >= 5)
        windows = {int(s) for k in long for s in range(segments.start[k], segments.start[k] + segments.length[k] - 4)}
        assert set(starts.tolist()) == windows
        per_start = dict(zip(starts.tolist(), counts.tolist(), strict=True))
        for k in long:
            expected = 40_000 / len(long) / (segments.length[k] - 4)
            for start in range(segments.start[k], segments.start[k] + segments.length[k] - 4):
                assert abs(per_start[start] - expected) < 6 * expected**0.5

    def test_no_trajectory_of_sufficient_length(self, storage: TrajectoryStorage) -> None:
        for sampler in (
            SliceSampler(slice_len=14),
            SliceSamplerWithoutReplacement(slice_len=14),
            EveryWindowSampler(14),
        ):
            with pytest.raises(RuntimeError, match="length range: 1 - 13 / required=14"):
                sampler.sample(storage, 14)

    def test_the_batch_size_must_be_divisible(self, storage: TrajectoryStorage) -> None:
        for sampler in (SliceSampler(num_slices=4), EveryWindowSampler(4)):
            with pytest.raises(RuntimeError, match="divisible"):
                sampler.sample(storage, 10)


class TestWithoutReplacement:
    @settings(max_examples=60)
    @given(
        num_slices=st.integers(1, 9),
        drop_last=st.booleans(),
        strict=st.booleans(),
        shuffle=st.booleans(),
        seed=st.integers(0, 1000),
    )
    def test_batches_and_flags_follow_torchrl(
        self, data: TensorDict, num_slices: int, drop_last: bool, strict: bool, shuffle: bool, seed: int
    ) -> None:
        storage = TensorStorage(data)
        options: dict[str, Any] = {
            "slice_len": 3,
            "end_key": ("next", "done"),
            "drop_last": drop_last,
            "strict_length": strict,
            "shuffle": shuffle,
        }
        ours = SliceSamplerWithoutReplacement(**options, seed=seed)
        theirs = torchrl_data.SliceSamplerWithoutReplacement(**options)
        epochs = iter(range(99))

        def order(count: int) -> Any:
            return _core.EpochShuffle(count, seed, next(epochs), 0).next(count)

        for _ in range(8):
            drawn = ours.state_dict()["places_drawn"]
            fractions = _core.UniformDraws(FRACTIONS, seed, drawn).next(num_slices) / FRACTIONS
            try:
                with torch_draws(None, fractions, order):
                    expected = theirs.sample(storage, 3 * num_slices)
            except (RuntimeError, ValueError) as error:
                with pytest.raises(type(error)):
                    ours.sample(storage, 3 * num_slices)
                if isinstance(error, ValueError):
                    return
                continue
            same_batch(ours.sample(storage, 3 * num_slices), expected)
            assert ours.ran_out == theirs.ran_out
            assert ours._remaining_batches == theirs._remaining_batches

    def test_every_trajectory_comes_once_per_epoch(self, store: TrajectoryStore) -> None:
        sampler = SliceSamplerWithoutReplacement(num_slices=3, strict_length=False)
        rb = ReplayBuffer(storage=TrajectoryStorage(store), sampler=sampler, batch_size=9)
        for _ in range(3):
            seen = []
            while not seen or not sampler.ran_out:
                (index,) = rb.sample(return_info=True)[1]["index"]
                seen += np.unique(store.segments.locate(index.numpy())[0]).tolist()
            assert sorted(seen) == list(range(len(LENGTHS)))


def windows_of(lengths: list[int], slice_len: int, stride: int) -> list[list[int]]:
    expected, start = [], 0
    for length in lengths:
        firsts = range(start, start + length - slice_len + 1, stride)
        expected += [list(range(first, first + slice_len)) for first in firsts]
        start += length
    return expected


class TestEveryWindow:
    @given(
        lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
        slice_len=st.integers(1, 6),
        stride=st.integers(1, 4),
        num_slices=st.integers(1, 9),
        drop_last=st.booleans(),
    )
    def test_every_window_comes_once_per_epoch(
        self, lengths: list[int], slice_len: int, stride: int, num_slices: int, drop_last: bool
    ) -> None:
        done = torch.zeros(sum(lengths), 1, dtype=torch.bool)
        done[np.cumsum(lengths) - 1] = True
        storage = TensorStorage(TensorDict({("next", "done"): done}, [len(done)]))
        sampler = EveryWindowSampler(slice_len, stride, drop_last=drop_last)
        expected = windows_of(lengths, slice_len, stride)
        assert sampler.num_windows(storage) == len(expected)
        if not expected or (drop_last and num_slices > len(expected)):
            with pytest.raises((RuntimeError, ValueError)):
                sampler.sample(storage, num_slices * slice_len)
            return
        for _ in range(2):
            drawn: list[list[int]] = []
            while not drawn or not sampler.ran_out:
                (index,), info = sampler.sample(storage, num_slices * slice_len)
                windows = index.reshape(-1, slice_len)
                assert info["next", "truncated"].reshape(-1, slice_len).nonzero()[:, 1].unique().tolist() == [
                    slice_len - 1
                ]
                drawn += windows.tolist()
            if drop_last:
                assert len(drawn) == len(expected) // num_slices * num_slices
                assert len({tuple(window) for window in drawn}) == len(drawn)
                assert all(window in expected for window in drawn)
            else:
                assert sorted(drawn) == expected

    def test_in_order(self, storage: TrajectoryStorage) -> None:
        sampler = EveryWindowSampler(3, shuffle=False)
        (index,), _ = sampler.sample(storage, 3 * sampler.num_windows(storage))
        assert index.reshape(-1, 3).tolist() == windows_of([states - 1 for states in LENGTHS], 3, 1)
        assert sampler.ran_out

    def test_iterating_a_buffer_ends_with_the_epoch(self, storage: TrajectoryStorage) -> None:
        sampler = EveryWindowSampler(2)
        rb = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=8, prefetch=2)
        rows = sum(batch.numel() for batch in rb)
        assert rows == 2 * sampler.num_windows(storage)

    def test_costs_the_same_however_many_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        count = 346_000
        ends = np.arange(1, count + 1) * 1000

        class Huge(TensorStorage):
            def __len__(self) -> int:
                return count * 1000

            @property
            def shape(self) -> torch.Size:
                return torch.Size([len(self)])

        sampler = EveryWindowSampler(4, seed=0)
        storage = Huge(TensorDict({"x": torch.zeros(1)}, [1]))
        from iltools_datasets.torchrl.samplers import slices
        from iltools_datasets.torchrl.samplers.trajectory_table import TrajectoryTable

        monkeypatch.setattr(sampler, "_whole_table", lambda _: TrajectoryTable.from_stops(ends - 1, count * 1000))
        monkeypatch.setattr(slices, "read_keys", lambda *_: {})
        (index,), _ = sampler.sample(storage, 1024)
        assert (index.reshape(-1, 4).diff() == 1).all()
        assert index.max() > 300_000_000
        assert len(json.dumps(sampler.state_dict())) < 1024
        assert slices.EveryWindowSampler is EveryWindowSampler

    @pytest.mark.parametrize("options", [{"slice_len": 0}, {"slice_len": 2, "stride": 0}])
    def test_impossible_arguments(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            EveryWindowSampler(**options)


MAKERS = {
    "with replacement": lambda **o: SliceSampler(slice_len=o.pop("slice_len", 3), **o),
    "ragged": lambda **o: SliceSampler(slice_len=o.pop("slice_len", 3), strict_length=False, **o),
    "without replacement": lambda **o: SliceSamplerWithoutReplacement(
        slice_len=o.pop("slice_len", 3), strict_length=False, **o
    ),
    "every window": lambda **o: EveryWindowSampler(o.pop("slice_len", 3), stride=2, **o),
}


def batches(sampler: Any, storage: Any, count: int) -> list[list[int]]:
    return [sampler.sample(storage, 9)[0][0].tolist() for _ in range(count)]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
class TestState:
    @given(before=st.integers(0, 12), after=st.integers(1, 12))
    def test_restores_the_stream_anywhere(self, make: Any, storage: TrajectoryStorage, before: int, after: int) -> None:
        one, other = make(), make()
        batches(one, storage, before)
        batches(other, storage, 2)
        other.load_state_dict(json.loads(json.dumps(one.state_dict())))
        # Torch's global generator, which both follow, is part of the state of a run.
        of_torch = torch.get_rng_state()
        expected = batches(one, storage, after)
        torch.set_rng_state(of_torch)
        assert batches(other, storage, after) == expected

    def test_restores_from_disk_and_pickle(self, make: Any, storage: TrajectoryStorage, tmp_path: Path) -> None:
        one, other = make(seed=4), make()
        batches(one, storage, 4)
        one.dumps(tmp_path)
        third = pickle.loads(pickle.dumps(one))
        other.loads(tmp_path)
        assert batches(one, storage, 9) == batches(other, storage, 9) == batches(third, storage, 9)

    def test_seeds_and_generators(self, make: Any, storage: TrajectoryStorage) -> None:
        assert batches(make(seed=1), storage, 9) == batches(make(seed=1), storage, 9)
        assert batches(make(seed=1), storage, 9) != batches(make(seed=2), storage, 9)

        def with_generator(seed: int) -> list[list[int]]:
            sampler = make()
            rb = ReplayBuffer(
                storage=storage, sampler=sampler, batch_size=9, generator=torch.Generator().manual_seed(seed)
            )
            return batches(rb.sampler, storage, 9)

        assert with_generator(1) == with_generator(1) != with_generator(2)

    def test_impossible_and_foreign_states_are_refused(
        self, make: Any, storage: TrajectoryStorage, tmp_path: Path
    ) -> None:
        sampler = make(seed=1)
        batches(sampler, storage, 2)
        good = sampler.state_dict()
        bad = [None, {}, {**good, "kind": "RandomSampler"}, make(slice_len=2).state_dict()]
        for name in good:
            if name == "generator":
                continue
            bad += [{**good, name: wrong} for wrong in (-1, 1.5, "x", [1], 2**64)]
            if name not in ("follows_generator", "batch_epoch"):  # states of before lack them
                bad.append({key: value for key, value in good.items() if key != name})
        if "stride" in good:
            bad.append({**good, "stride": 1})
        for state in bad:
            with pytest.raises(StateError):
                sampler.load_state_dict(state)
            assert sampler.state_dict() == good
        other = TrajectoryStorage(TrajectoryStore.open(build_store(tmp_path / "other", make_clips(LENGTHS))))
        fresh = make()
        fresh.load_state_dict(good)
        with pytest.raises(StateError, match="expected store"):
            fresh.sample(other, 9)
        assert batches(fresh, storage, 9) == batches(sampler, storage, 9)
