"""`TrajectoryStorage` gives what TorchRL's `TensorStorage` over the same data gives, from a store it never changes."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from hypothesis import assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import StoreBuilder, TrajectoryStore  # noqa: E402
from iltools_datasets.errors import OutOfRangeError, ReadOnlyError, StateError, StoreChangedError  # noqa: E402
from iltools_datasets.torchrl import RandomSampler, SamplerWithoutReplacement, TrajectoryStorage  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.data import ReplayBuffer, SliceSampler, TensorDictReplayBuffer, TensorStorage  # noqa: E402
from torchrl.data.replay_buffers import samplers as torchrl_samplers  # noqa: E402
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter  # noqa: E402
from torchrl.envs import DoubleToFloat, RenameTransform  # noqa: E402
from torchrl_cases import (  # noqa: E402, F401
    LENGTHS,
    assert_same,
    data_fixture,
    oracle_fixture,
    storage_fixture,
    store_fixture,
)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*last_cursor.*")]

COUNT = sum(LENGTHS) - len(LENGTHS)
ANY = st.integers(-COUNT, COUNT - 1)
BOUND = st.none() | st.integers(-COUNT - 3, COUNT + 3)


def masks() -> st.SearchStrategy[list[bool]]:
    return st.lists(st.booleans(), min_size=COUNT, max_size=COUNT)


INDICES: st.SearchStrategy[Any] = st.one_of(
    ANY,
    ANY.map(np.int64),
    ANY.map(torch.tensor),
    st.lists(ANY, min_size=1, max_size=70),
    st.lists(ANY, max_size=70).map(lambda rows: torch.tensor(rows, dtype=torch.int64)),
    st.lists(ANY, max_size=70).map(lambda rows: (torch.tensor(rows, dtype=torch.int64),)),
    st.lists(ANY, max_size=9).map(lambda rows: torch.tensor(rows, dtype=torch.int32)),
    st.lists(ANY, min_size=1, max_size=9).map(lambda rows: np.array(rows)),
    st.lists(ANY, min_size=1, max_size=9).map(lambda rows: np.array(rows, dtype=np.int32)),
    st.lists(st.tuples(ANY, ANY), min_size=1, max_size=9).map(torch.tensor),
    st.lists(st.tuples(ANY, ANY), min_size=1, max_size=9).map(lambda rows: (torch.tensor(rows),)),
    masks().map(torch.tensor),
    masks().map(np.array),
    masks(),
    st.builds(slice, BOUND, BOUND, st.none() | st.integers(1, 5)),
    st.builds(lambda a, b: (slice(a, b), None), BOUND, BOUND),
    st.builds(lambda a, b: (..., slice(a, b)), BOUND, BOUND),
    st.builds(range, st.integers(0, COUNT - 1), st.integers(0, COUNT)).filter(len),
    st.sampled_from([None, ..., slice(None), (), (None, ...), True, np.bool_(False)]),
    st.sampled_from(["action", ("next", "observation"), "next", ("action",), "terminated"]),
)


OLD_TORCH = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8)


@settings(max_examples=400)
@given(index=INDICES)
def test_any_index_gives_what_a_tensor_storage_gives(
    storage: TrajectoryStorage, oracle: TensorStorage, index: Any
) -> None:
    # Torch 2.7 takes numpy's bool for an index of a plain tensor, and of no subclass.
    assume(not OLD_TORCH or not isinstance(index, np.bool_))
    try:
        expected = oracle.get(index)
    except Exception as error:
        # Its shapes are numpy's integers where a mask of numpy is the index, which its own assertions stumble over.
        assume(not (OLD_TORCH and isinstance(error, AssertionError)))
        with pytest.raises(type(error)):
            storage.get(index)
        return
    assert_same(storage.get(index), expected)
    assert_same(storage[index], expected)


@pytest.mark.parametrize(
    "index", [COUNT, -COUNT - 1, [0, COUNT], torch.tensor([COUNT]), torch.tensor([2, -COUNT - 1]), np.array([2**40])]
)
def test_an_index_outside_raises_an_index_error(storage: TrajectoryStorage, oracle: TensorStorage, index: Any) -> None:
    with pytest.raises(IndexError):
        oracle.get(index)
    with pytest.raises(OutOfRangeError, match=r"outside 0\.\.45"):
        storage.get(index)


def test_an_unknown_key_raises_a_key_error(storage: TrajectoryStorage) -> None:
    with pytest.raises(KeyError, match="nothing"):
        storage.get("nothing")


def test_a_batch_belongs_to_the_caller(storage: TrajectoryStorage, data: TensorDict) -> None:
    index = torch.arange(COUNT)
    storage.get(index).apply_(lambda leaf: leaf.zero_())
    assert_same(storage.get(index), data)


def test_batches_begin_at_cache_lines_and_know_their_device(storage: TrajectoryStorage) -> None:
    batch = storage.get(torch.tensor([3, 1, 4]))
    assert batch.device == torch.device("cpu")
    assert batch["next"].device == torch.device("cpu")
    assert all(leaf.data_ptr() % 64 == 0 for leaf in batch.values(True, True))


def test_index_tensors_need_not_be_contiguous(storage: TrajectoryStorage, data: TensorDict) -> None:
    index = torch.stack([torch.arange(5), torch.arange(5)], -1).unbind(-1)[1]
    assert not index.is_contiguous()
    assert_same(storage.get(index), data[index])


def test_getitems_gives_one_batch_to_a_data_loader(storage: TrajectoryStorage, data: TensorDict) -> None:
    loader = torch.utils.data.DataLoader(storage, batch_size=10, collate_fn=lambda batch: batch)
    assert_same(torch.cat(list(loader)), data)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader_workers_read_the_same(storage: TrajectoryStorage, data: TensorDict, workers: int) -> None:
    loader = (
        torch.utils.data.DataLoader(
            storage, batch_size=16, num_workers=workers, collate_fn=lambda batch: batch, multiprocessing_context="fork"
        )
        if workers
        else torch.utils.data.DataLoader(storage, batch_size=16, collate_fn=lambda batch: batch)
    )
    assert_same(torch.cat(list(loader)), data)


class TestWholeColumns:
    """`storage[:]` names everything and reads nothing."""

    def test_nothing_is_read_before_it_is_used(self, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = TrajectoryStorage(store)
        read: list[int] = []
        for column in storage._storage.values(True, True):
            monkeypatch.setattr(
                column, "_read", lambda index, read_=column._read: (read.append(len(index)), read_(index))[1]
            )
        everything = storage[:]
        done = everything["next", "done"].squeeze()[: len(storage)]
        assert repr(everything)
        assert done.shape == (COUNT,)
        assert read == []
        assert int(done.sum()) == len(LENGTHS)
        assert read == [COUNT]
        assert everything["action"][5:8].shape == (3, 3)
        assert read == [COUNT, 3]

    def test_operations_work_on_copies(self, storage: TrajectoryStorage, data: TensorDict) -> None:
        column, expected = storage["observation"], data["observation"]
        assert torch.equal(column + 1, expected + 1)
        assert torch.equal(column.mean(0), expected.mean(0))
        assert torch.equal(torch.cat([column, expected]), torch.cat([expected, expected]))
        assert torch.equal(column[3:9, 2], expected[3:9, 2])
        assert torch.equal(column[:, 1], expected[:, 1])
        assert torch.equal(column[-1], expected[-1])
        assert torch.equal(column[[4, -2]], expected[[4, -2]])
        assert torch.equal(column[:, None].expand(-1, 2, -1), expected[:, None].expand(-1, 2, -1))
        assert np.array_equal(column.numpy(), expected.numpy())
        assert np.array_equal(np.asarray(column), expected.numpy())
        assert column.tolist() == expected.tolist()
        assert column.clone().data_ptr() % 64 == 0
        assert_same(storage[:].clone(), data)
        assert torch.equal(pickle.loads(pickle.dumps(column)), expected)
        with pytest.raises(IndexError):
            column[COUNT]
        with pytest.raises(OutOfRangeError):
            column[[1, COUNT]]

    def test_writing_into_one_is_refused(self, storage: TrajectoryStorage) -> None:
        with pytest.raises(ReadOnlyError):
            storage["action"].zero_()
        with pytest.raises(ReadOnlyError):
            storage["action"][:] = 1
        with pytest.raises(ReadOnlyError):
            storage["action"][0] = 1
        with pytest.raises(ReadOnlyError):
            torch.add(torch.zeros(COUNT, 3), 1, out=storage["action"])

    def test_a_transform_of_everything_stays_outside(self, storage: TrajectoryStorage, data: TensorDict) -> None:
        rb = TensorDictReplayBuffer(
            storage=storage, batch_size=4, transform=RenameTransform(["action"], ["act"], create_copy=False)
        )
        assert "act" in rb[:]
        assert_same(storage[:].clone(), data)
        assert torch.equal(rb["act"], data["action"])


def test_writes_are_refused(storage: TrajectoryStorage, data: TensorDict) -> None:
    rb = TensorDictReplayBuffer(storage=storage, batch_size=4)
    for write in (
        lambda: rb.extend(data[:3].clone()),
        lambda: rb.add(data[0].clone()),
        lambda: storage.set(0, data[0]),
        lambda: storage.__setitem__(0, data[0]),
        lambda: rb.__setitem__(0, data[0]),
        lambda: rb.set_at_("action", torch.zeros(3), 0),
        lambda: rb.empty(),
    ):
        with pytest.raises(ReadOnlyError):
            write()
    immutable = TensorDictReplayBuffer(storage=storage, batch_size=4, writer=ImmutableDatasetWriter())
    with pytest.raises(RuntimeError, match="doesn't allow writing"):
        immutable.extend(data[:3].clone())
    assert_same(storage[:].clone(), data)


SAMPLERS = {
    "RandomSampler": lambda: torchrl_samplers.RandomSampler(),
    "SamplerWithoutReplacement": lambda: torchrl_samplers.SamplerWithoutReplacement(),
    "drop_last": lambda: torchrl_samplers.SamplerWithoutReplacement(drop_last=True),
    "in order": lambda: torchrl_samplers.SamplerWithoutReplacement(shuffle=False),
    "SliceSampler": lambda: SliceSampler(num_slices=4, end_key=("next", "done"), strict_length=False),
    "cached slices": lambda: SliceSampler(slice_len=2, end_key=("next", "done"), cache_values=True),
    "by trajectory": lambda: SliceSampler(slice_len=2, traj_key="trajectory", strict_length=False),
    "SliceSamplerWithoutReplacement": lambda: torchrl_samplers.SliceSamplerWithoutReplacement(
        slice_len=2, strict_length=False
    ),
    "PrioritizedSampler": lambda: torchrl_samplers.PrioritizedSampler(COUNT, 0.7, 0.5),
}


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("buffer", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("prefetch", [None, 1])  # with more, TorchRL's threads draw in any order
def test_torchrl_samplers_draw_the_same_batches(
    tmp_path: Path, kind: str, buffer: type[ReplayBuffer], prefetch: int | None
) -> None:
    clips = make_clips(LENGTHS)
    with StoreBuilder(tmp_path / "store") as builder:
        for k, clip in enumerate(clips):
            count = len(clip["action"])
            builder.add(
                0,
                k,
                states={"observation": clip["qpos"]},
                transitions={("next", "done"): clip["done"], "trajectory": np.full(count, k)},
            )
    ours = TrajectoryStorage(TrajectoryStore.open(tmp_path / "store"))
    theirs = TensorStorage(ours[:].clone())

    def batches(storage: TensorStorage) -> list[Any]:
        try:
            sampler = SAMPLERS[kind]()
        except RuntimeError as error:
            pytest.skip(f"TorchRL's native part does not load here: {error}")
        rb = buffer(
            storage=storage,
            sampler=sampler,
            batch_size=8,
            prefetch=prefetch,
            generator=torch.Generator().manual_seed(7),
            transform=DoubleToFloat(),
        )
        return [rb.sample() for _ in range(12)]

    torch.manual_seed(0)
    expected = batches(theirs)
    torch.manual_seed(0)
    for mine, other in zip(batches(ours), expected, strict=True):
        assert_same(mine, other)


def test_pin_memory_without_a_gpu_changes_nothing(storage: TrajectoryStorage, data: TensorDict) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    rb = TensorDictReplayBuffer(storage=storage, batch_size=COUNT, pin_memory=True, sampler=SamplerWithoutReplacement())
    try:
        batch = rb.sample()
    except RuntimeError as error:
        # torch's own answer where no accelerator is built in; the same as for any storage.
        with pytest.raises(type(error)):
            TensorDictReplayBuffer(storage=TensorStorage(data), batch_size=4, pin_memory=True).sample()
        return
    assert batch.batch_size == (COUNT,)


@pytest.mark.gpu
def test_pin_memory_pins(storage: TrajectoryStorage) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    batch = TensorDictReplayBuffer(storage=storage, batch_size=8, pin_memory=True).sample()
    assert all(leaf.is_pinned() for leaf in batch.values(True, True))


class TestCheckpoints:
    def buffer(self, store: TrajectoryStore) -> TensorDictReplayBuffer:
        return TensorDictReplayBuffer(
            storage=TrajectoryStorage(store),
            sampler=SamplerWithoutReplacement(),
            batch_size=4,
            generator=torch.Generator().manual_seed(1),
            writer=ImmutableDatasetWriter(),
        )

    def test_a_buffer_continues_where_it_was_saved(self, store: TrajectoryStore, tmp_path: Path) -> None:
        saved = self.buffer(store)
        for _ in range(5):
            saved.sample()
        saved.dumps(tmp_path / "checkpoint")
        restored = self.buffer(store)
        restored.sample()
        restored.loads(tmp_path / "checkpoint")
        for _ in range(30):
            assert_same(restored.sample(), saved.sample())
        size = sum(file.stat().st_size for file in (tmp_path / "checkpoint" / "storage").rglob("*"))
        assert size < 4096

    def test_a_state_dict_does_too(self, store: TrajectoryStore) -> None:
        saved = self.buffer(store)
        saved.sample()
        state = saved.state_dict()
        restored = self.buffer(store)
        restored.load_state_dict(state)
        for _ in range(30):
            assert_same(restored.sample(), saved.sample())

    def test_a_pickled_buffer_is_small_and_continues(self, store: TrajectoryStore) -> None:
        saved = self.buffer(store)
        saved.sample()
        pickled = pickle.dumps(saved)
        assert len(pickled) < 20_000
        restored = pickle.loads(pickled)
        for _ in range(30):
            assert_same(restored.sample(), saved.sample())

    def test_another_store_is_refused(self, store: TrajectoryStore, tmp_path: Path) -> None:
        saved = self.buffer(store)
        saved.sample()
        saved.dumps(tmp_path / "checkpoint")
        other = self.buffer(TrajectoryStore.open(build_store(tmp_path / "other", make_clips(LENGTHS))))
        before = other.sampler.state_dict()
        with pytest.raises(StoreChangedError, match=store.uuid):
            other.loads(tmp_path / "checkpoint")
        assert other.sampler.state_dict() == before

    @pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"kind": "TrajectoryStorage", "version": 2}'])
    def test_a_damaged_checkpoint_is_refused(self, storage: TrajectoryStorage, tmp_path: Path, damage: str) -> None:
        storage.dumps(tmp_path)
        storage.loads(tmp_path)
        (tmp_path / "store.json").write_text(damage)
        with pytest.raises(StateError):
            storage.loads(tmp_path)
        (tmp_path / "store.json").unlink()
        with pytest.raises(StateError, match="no saved state"):
            storage.loads(tmp_path)

    def test_a_moved_store_is_the_same_store(self, tmp_path: Path) -> None:
        path = build_store(tmp_path / "here", make_clips([4, 5]))
        state = TrajectoryStorage(TrajectoryStore.open(path)).state_dict()
        path.rename(tmp_path / "there")
        TrajectoryStorage(TrajectoryStore.open(tmp_path / "there")).load_state_dict(state)

    def test_a_rebuilt_store_is_another_store(self, tmp_path: Path) -> None:
        path = build_store(tmp_path / "store", make_clips([4, 5]))
        pickled = pickle.dumps(TrajectoryStorage(TrajectoryStore.open(path)))
        pickle.loads(pickled)
        build_store(path, make_clips([4, 5]), overwrite=True)
        with pytest.raises(StoreChangedError):
            pickle.loads(pickled)


def _sum_in_child(storage: TrajectoryStorage, results: Any) -> None:
    results.put(float(storage.get(torch.arange(len(storage)))["action"].sum()))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_goes_to_another_process(storage: TrajectoryStorage, data: TensorDict, method: str) -> None:
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=_sum_in_child, args=(storage, results))
    child.start()
    assert results.get(timeout=120) == pytest.approx(float(data["action"].sum()), abs=1e-4)
    child.join()


def test_goes_to_a_spawned_process_where_fork_is_the_default(store: TrajectoryStore, data: TensorDict) -> None:
    # What the default is was decided when somebody first asked, maybe before torchrl was imported, which wants "spawn".
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    try:
        test_goes_to_another_process(TrajectoryStorage(store), data, "spawn")
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_bfloat16_comes_back_as_bfloat16(tmp_path: Path) -> None:
    values = torch.randn(6, 3).to(torch.bfloat16)
    TensorDict({"x": values, ("next", "done"): torch.ones(6, 1, dtype=torch.bool)}, [6]).memmap(tmp_path / "td")
    storage = TrajectoryStorage(TrajectoryStore.from_tensordict_memmap(tmp_path / "td"))
    assert torch.equal(storage.get(torch.arange(6))["x"], values)
    assert torch.equal(storage["x"][:], values)
    assert storage["x"].dtype is torch.bfloat16


def test_a_directory_of_others_is_known_by_its_place(tmp_path: Path) -> None:
    td = TensorDict({"x": torch.arange(6.0), ("next", "done"): torch.ones(6, 1, dtype=torch.bool)}, [6])
    td.memmap(tmp_path / "a")
    td.memmap(tmp_path / "b")
    a, b = (TrajectoryStorage(TrajectoryStore.from_tensordict_memmap(tmp_path / name)) for name in "ab")
    a.load_state_dict(a.state_dict())
    assert_same(pickle.loads(pickle.dumps(a))[:].clone(), td.clone().to("cpu"))
    with pytest.raises(StoreChangedError):
        b.load_state_dict(a.state_dict())


def test_random_sampler_without_arguments_fits(storage: TrajectoryStorage) -> None:
    rb = ReplayBuffer(storage=storage, sampler=RandomSampler(), batch_size=7)
    assert rb.sample().batch_size == (7,)
    assert isinstance(rb[2:5], TensorDict)
    assert len(rb) == COUNT
