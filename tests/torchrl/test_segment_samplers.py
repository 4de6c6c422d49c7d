"""Samplers over segments against the obvious loops, with and without a buffer."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import EnvAssignment, Segment, Segments, TrajectoryStore  # noqa: E402
from iltools_datasets.errors import OutOfRangeError, StateError, UnknownSegmentError  # noqa: E402
from iltools_datasets.torchrl import (  # noqa: E402
    AssignedUniformSampler,
    EnvCursors,
    EpochUniformSampler,
    SequentialPerEnvSampler,
    TrajectoryStorage,
)
from stores import build_store, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.data import ReplayBuffer, TensorDictReplayBuffer  # noqa: E402
from torchrl_cases import LENGTHS, assert_same, data_fixture, storage_fixture, store_fixture  # noqa: E402, F401

pytestmark = pytest.mark.torch

SIZES = [3, 5, 1, 8]
"""Transitions per segment; ids (0, 0), (0, 1), (1, 0), (1, 1)."""
SEGMENTS = [
    Segment(k // 2, k % 2, start, size)
    for k, (start, size) in enumerate(zip(np.cumsum([0, *SIZES[:-1]]).tolist(), SIZES, strict=True))
]
COUNT = sum(SIZES)
IDS = [(segment.task_id, segment.traj_id) for segment in SEGMENTS]

ids = st.sampled_from(IDS)
assignments = st.lists(st.builds(lambda pair, step: EnvAssignment(*pair, step), ids, st.integers(0, 20)), min_size=1)


def segment_of(entry: EnvAssignment) -> Segment:
    return SEGMENTS[IDS.index((entry.task_id, entry.traj_id))]


def rows_of(*pairs: tuple[int, int]) -> list[int]:
    chosen = [SEGMENTS[IDS.index(pair)] for pair in dict.fromkeys(pairs)]
    return sorted(row for segment in chosen for row in range(segment.start, segment.start + segment.length))


class TestSequential:
    @given(assignment=assignments, steps=st.integers(1, 20))
    def test_marches_and_wraps(self, assignment: list[EnvAssignment], steps: int) -> None:
        sampler = SequentialPerEnvSampler(segments=SEGMENTS, assignment=assignment)
        for moved in range(steps):
            index, info = sampler.sample(None)
            assert info == {}
            assert index.dtype == torch.int64
            assert index.tolist() == [segment_of(entry).index_at(entry.step + moved) for entry in assignment]
        expected = [
            EnvAssignment(entry.task_id, entry.traj_id, (entry.step + steps) % segment_of(entry).length)
            for entry in assignment
        ]
        assert sampler.assignment == expected

    def test_batch_size_is_ignored_and_it_never_runs_out(self, store: TrajectoryStore, data: TensorDict) -> None:
        assignment = [EnvAssignment(0, 0), EnvAssignment(1, 2, 3)]
        sampler = SequentialPerEnvSampler(segments=store.segments, assignment=assignment)
        rb = TensorDictReplayBuffer(storage=TrajectoryStorage(store), sampler=sampler, batch_size=64)
        for moved, batch in zip(range(30), rb, strict=False):
            index = [store.segments[k].index_at(step + moved) for k, step in ((0, 0), (5, 3))]
            assert batch["index"].tolist() == index
            assert_same(batch.exclude("index"), data[index])

    def test_updates_some_envs(self) -> None:
        sampler = SequentialPerEnvSampler(segments=SEGMENTS, assignment=[EnvAssignment(0, 0)] * 4)
        sampler.sample()
        sampler.update_env_assignment(env_index=3, task_id=1, traj_id=1, step=6)
        sampler.update_assignments({0: (1, 0), 2: (0, 1, 4), 1: EnvAssignment(0, 1, 2)})
        assert sampler.assignment == [
            EnvAssignment(1, 0, 0),
            EnvAssignment(0, 1, 2),
            EnvAssignment(0, 1, 4),
            EnvAssignment(1, 1, 6),
        ]
        assert sampler.sample()[0].tolist() == [8, 5, 7, 15]

    def test_a_snapshot_is_a_snapshot(self) -> None:
        sampler = SequentialPerEnvSampler(segments=SEGMENTS, assignment=[EnvAssignment(0, 1)] * 2)
        snapshot = sampler.assignment
        snapshot[0] = EnvAssignment(1, 1)
        sampler.sample()
        assert snapshot[1] == EnvAssignment(0, 1, 0)
        assert sampler.assignment == [EnvAssignment(0, 1, 1)] * 2

    def test_no_env_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one env"):
            SequentialPerEnvSampler(segments=SEGMENTS, assignment=[])


BAD_UPDATES = [
    ({0: (1, 1), 1: (7, 0)}, UnknownSegmentError),
    ({0: (1, 1), 1: (0, 7)}, UnknownSegmentError),
    ({0: (1, 1), 1: (0, 0, -1)}, OutOfRangeError),
    ({0: (1, 1), 2: (0, 0)}, OutOfRangeError),
    ({0: (1, 1), -1: (0, 0)}, OutOfRangeError),
    ({0: (1, 1), 1: (0,)}, TypeError),
    ({0: (1, 1), 1: (0, 0, 0, 0)}, TypeError),
    ({0: (1, 1), 1: (0, 0.5)}, TypeError),
    ({0: (1, 1), "1": (0, 0)}, TypeError),
    ({0: (1, 1), 1: None}, TypeError),
]


@pytest.mark.parametrize("kind", [SequentialPerEnvSampler, AssignedUniformSampler])
class TestAssignment:
    @pytest.mark.parametrize(("changes", "error"), BAD_UPDATES)
    def test_a_bad_update_moves_nothing(self, kind: Any, changes: Any, error: type[Exception]) -> None:
        sampler = kind(segments=SEGMENTS, assignment=[EnvAssignment(0, 0, 1), EnvAssignment(0, 1, 2)])
        before = sampler.state_dict()
        with pytest.raises(error):
            sampler.update_assignments(changes)
        assert sampler.state_dict() == before

    @pytest.mark.parametrize(
        ("entry", "error"),
        [(EnvAssignment(9, 0), UnknownSegmentError), (EnvAssignment(0, 0, -1), OutOfRangeError)],
    )
    def test_a_bad_assignment_is_refused(self, kind: Any, entry: EnvAssignment, error: type[Exception]) -> None:
        with pytest.raises(error):
            kind(segments=SEGMENTS, assignment=[EnvAssignment(0, 0), entry])

    def test_cursors_can_be_shared(self, kind: Any) -> None:
        segments = Segments.from_segments(SEGMENTS)
        cursors = EnvCursors(segments, [EnvAssignment(0, 0)] * 2)
        sampler = kind(segments=segments, assignment=cursors)
        marching = SequentialPerEnvSampler(segments=segments, assignment=cursors)
        marching.sample()
        sampler.update_assignments({1: (1, 1, 5)})
        assert marching.assignment == sampler.assignment == [EnvAssignment(0, 0, 1), EnvAssignment(1, 1, 5)]
        with pytest.raises(ValueError, match="other segments"):
            kind(segments=SEGMENTS[:2], assignment=cursors)


def drawn(sampler: Any, *batches: int) -> list[int]:
    parts = []
    for batch in batches:
        index, info = sampler.sample(None, batch)
        assert info == {}
        assert index.dtype == torch.int64
        assert index.shape == (batch,)
        parts += index.tolist()
    return parts


class TestEpochUniform:
    @given(batches=st.lists(st.integers(1, 60), min_size=1, max_size=12), seed=st.integers(0, 2**64 - 1))
    def test_batches_are_exact_across_epochs(self, batches: list[int], seed: int) -> None:
        stream = drawn(EpochUniformSampler(SEGMENTS, seed=seed), *batches)
        for first in range(0, len(stream) - COUNT + 1, COUNT):
            assert sorted(stream[first : first + COUNT]) == list(range(COUNT))
        rest = stream[len(stream) // COUNT * COUNT :]
        assert len(set(rest)) == len(rest)
        assert stream == drawn(EpochUniformSampler(SEGMENTS, seed=seed), len(stream))

    def test_twenty_five_from_ten_are_twenty_five(self) -> None:
        index, _ = EpochUniformSampler([Segment(0, 0, 0, 10)]).sample(None, 25)
        counts = torch.bincount(index, minlength=10)
        assert index.shape == (25,)
        assert set(counts.tolist()) == {2, 3}

    def test_epochs_differ(self) -> None:
        sampler = EpochUniformSampler([Segment(0, 0, 0, 100)], seed=1)
        assert drawn(sampler, 100) != drawn(sampler, 100)

    def test_with_replacement_draws_are_independent(self) -> None:
        index, _ = EpochUniformSampler(SEGMENTS, without_replacement=False, seed=1).sample(None, 17_000)
        counts = torch.bincount(index, minlength=COUNT)
        # 1000 expected with a standard deviation of about 31.
        assert 850 < counts.min() <= counts.max() < 1150

    def test_an_epoch_of_a_store_is_the_store(self, store: TrajectoryStore, data: TensorDict) -> None:
        sampler = EpochUniformSampler(store.segments)
        rb = TensorDictReplayBuffer(storage=TrajectoryStorage(store), sampler=sampler, batch_size=9, prefetch=2)
        batch = torch.cat([rb.sample() for _ in range(len(store) // 9)])
        assert_same(batch[batch["index"].argsort()].exclude("index"), data)

    def test_the_batch_size_is_needed(self) -> None:
        with pytest.raises(ValueError, match="batch_size"):
            EpochUniformSampler(SEGMENTS).sample(None)

    def test_generators_and_seeds(self) -> None:
        def stream(seed: int | None, generator: int | None) -> list[int]:
            sampler = EpochUniformSampler(SEGMENTS, seed=seed)
            sampler._rng = None if generator is None else torch.Generator().manual_seed(generator)
            return drawn(sampler, 40)

        assert stream(1, 2) == stream(1, 3) == stream(1, None)
        assert stream(None, 2) == stream(None, 2) != stream(None, 3)
        sampler = EpochUniformSampler(SEGMENTS)
        for _ in range(2):
            sampler._rng = torch.Generator().manual_seed(2)
            assert drawn(sampler, 40) == stream(None, 2)


class TestAssignedUniform:
    @given(pairs=st.lists(ids, min_size=1, max_size=9), batch=st.integers(1, 40), seed=st.integers(0, 99))
    def test_draws_the_union_of_what_is_assigned(self, pairs: list[tuple[int, int]], batch: int, seed: int) -> None:
        sampler = AssignedUniformSampler(
            segments=SEGMENTS, assignment=[EnvAssignment(*pair, step=2) for pair in pairs], seed=seed
        )
        union = rows_of(*pairs)
        stream = drawn(sampler, *[batch] * (3 * len(union) // batch + 1))
        for first in range(0, 3 * len(union), len(union)):
            assert sorted(stream[first : first + len(union)]) == union

    def test_nothing_assigned_means_everything(self) -> None:
        for assignment in (None, []):
            sampler = AssignedUniformSampler(segments=SEGMENTS, assignment=assignment)
            assert sorted(drawn(sampler, COUNT)) == list(range(COUNT))
            assert sampler.assignment == []

    def test_reshuffles_when_the_set_changes_and_only_then(self) -> None:
        def make() -> AssignedUniformSampler:
            return AssignedUniformSampler(SEGMENTS, [EnvAssignment(0, 1), EnvAssignment(1, 1)], seed=4)

        undisturbed = drawn(make(), 13)
        sampler = make()
        head = drawn(sampler, 5)
        sampler.update_assignments({0: (0, 1, 3), 1: (1, 1, 2)})
        sampler.update_env_assignment(0, 1, 1)
        sampler.update_env_assignment(1, 0, 1, 1)
        assert head + drawn(sampler, 8) == undisturbed

        sampler = make()
        drawn(sampler, 5)
        sampler.update_env_assignment(0, 1, 0)
        assert sorted(drawn(sampler, 9)) == rows_of((1, 0), (1, 1))
        sampler.update_env_assignment(0, 0, 1)
        assert sorted(drawn(sampler, 13)) == rows_of((0, 1), (1, 1))

    def test_with_replacement_stays_within_the_union(self) -> None:
        sampler = AssignedUniformSampler(
            segments=SEGMENTS, assignment=[EnvAssignment(0, 1), EnvAssignment(1, 0)], without_replacement=False
        )
        assert set(drawn(sampler, 500)) == set(rows_of((0, 1), (1, 0)))
        sampler.update_env_assignment(0, 0, 0)
        assert set(drawn(sampler, 500)) == set(rows_of((0, 0), (1, 0)))


START = [EnvAssignment(0, 1, 2), EnvAssignment(1, 1, 7), EnvAssignment(0, 0, 0)]
MAKERS: dict[str, Callable[..., Any]] = {
    "sequential": lambda segments=SEGMENTS, assignment=START: SequentialPerEnvSampler(segments, assignment),
    "assigned": lambda segments=SEGMENTS, assignment=START: AssignedUniformSampler(segments, assignment),
    "assigned, with replacement": lambda segments=SEGMENTS, assignment=START: AssignedUniformSampler(
        segments, assignment, without_replacement=False
    ),
    "global": lambda segments=SEGMENTS, assignment=START: EpochUniformSampler(segments),
    "global, with replacement": lambda segments=SEGMENTS, assignment=START: EpochUniformSampler(segments, False),
}


def batches(sampler: Any, count: int) -> list[list[int]]:
    return [sampler.sample(None, 5)[0].tolist() for _ in range(count)]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
class TestState:
    @given(before=st.integers(0, 12), after=st.integers(1, 12), move=st.booleans())
    def test_restores_the_stream_anywhere(self, make: Callable[..., Any], before: int, after: int, move: bool) -> None:
        one = make()
        batches(one, before)
        if move and hasattr(one, "update_assignments"):
            one.update_assignments({1: (1, 0)})
        other = make()
        batches(other, 1)
        other.load_state_dict(json.loads(json.dumps(one.state_dict())))
        assert batches(other, after) == batches(one, after)
        assert other.state_dict() == one.state_dict()

    def test_restores_from_disk_and_pickle(self, make: Callable[..., Any], tmp_path: Path) -> None:
        one, other = make(), make()
        batches(one, 4)
        one.dumps(tmp_path)
        third = pickle.loads(pickle.dumps(one))
        other.loads(tmp_path)
        assert batches(one, 20) == batches(other, 20) == batches(third, 20)

    def test_a_whole_buffer_continues(
        self, make: Callable[..., Any], store: TrajectoryStore, storage: TrajectoryStorage, tmp_path: Path
    ) -> None:
        def buffer() -> ReplayBuffer:
            return ReplayBuffer(
                storage=storage, sampler=make(store.segments), batch_size=5, generator=torch.Generator().manual_seed(1)
            )

        one, other = buffer(), buffer()
        for _ in range(3):
            one.sample()
        one.dumps(tmp_path / "rb")
        other.loads(tmp_path / "rb")
        for _ in range(20):
            assert_same(other.sample(), one.sample())

    def test_mutated_states_are_refused(self, make: Callable[..., Any]) -> None:
        sampler = make()
        batches(sampler, 3)
        good = sampler.state_dict()
        bad: list[Any] = [None, [], {}, {**good, "kind": "RandomSampler"}, {**good, "version": 0}]
        for name, value in good.items():
            # States of before lack some.
            if name not in ("follows_generator", "num_segments", "ran_out", "batch_epoch"):
                bad.append({key: kept for key, kept in good.items() if key != name})
            wrong: list[Any] = [-1, 2**64, 1.5, "x", {}, b"x", [0.5], [-1, 0, 0], [0, 0], [0, 0, 2**63]]
            if name in ("epoch", "seed") or type(value) is bool:
                wrong += [None, [1]]
            bad += [{**good, name: replaced} for replaced in wrong]
        if "num_envs" in good:
            bad += [
                {**good, "segment": [0, 0, len(SEGMENTS)]},
                {**good, "step": [0, 0, 10**6]},
                {**good, "num_envs": 2, "segment": [0, 0], "step": [0, 0]},
                {**good, "num_envs": 5},
            ]
        if good.get("without_replacement"):
            bad.append({**good, "position": COUNT})
        for state in bad:
            if isinstance(state, dict) and state.get("store") == "x":
                continue  # a sampler that has met no store cannot know yet
            if isinstance(state, dict) and state.get("generator") == "x":
                continue  # any digest may be of some generator
            with pytest.raises(StateError):
                sampler.load_state_dict(state)
            assert sampler.state_dict() == good

    def test_a_state_of_other_segments_is_refused(self, make: Callable[..., Any]) -> None:
        sampler = make([Segment(s.task_id, s.traj_id, s.start, s.length - (s.length > 1)) for s in SEGMENTS])
        before = sampler.state_dict()
        with pytest.raises(StateError, match="segments"):
            sampler.load_state_dict(make().state_dict())
        assert sampler.state_dict() == before

    def test_a_state_of_another_store_is_refused(
        self, make: Callable[..., Any], store: TrajectoryStore, tmp_path: Path
    ) -> None:
        here = TrajectoryStorage(store)
        there = TrajectoryStorage(TrajectoryStore.open(build_store(tmp_path / "other", make_clips(LENGTHS))))
        sampler = make(store.segments)
        sampler.sample(here, 4)
        fresh = make(store.segments)
        fresh.load_state_dict(sampler.state_dict())
        with pytest.raises(StateError, match="expected store"):
            fresh.sample(there, 4)
        assert torch.equal(fresh.sample(here, 4)[0], sampler.sample(here, 4)[0])
        used = make(store.segments)
        used.sample(there, 4)
        with pytest.raises(StateError, match="store"):
            used.load_state_dict(sampler.state_dict())


def test_many_envs_march_together() -> None:
    sizes = np.arange(1, 401)
    segments = [
        Segment(0, k, int(start), int(size))
        for k, (start, size) in enumerate(zip(sizes.cumsum() - sizes, sizes, strict=True))
    ]
    rng = np.random.default_rng(0)
    traj, step = rng.integers(0, 400, 4096), rng.integers(0, 400, 4096)
    sampler = SequentialPerEnvSampler(
        segments, [EnvAssignment(0, int(k), int(t)) for k, t in zip(traj, step, strict=True)]
    )
    starts = sizes.cumsum() - sizes
    for moved in range(5):
        expected = starts[traj] + (step + moved) % sizes[traj]
        assert np.array_equal(sampler.sample()[0].numpy(), expected)
