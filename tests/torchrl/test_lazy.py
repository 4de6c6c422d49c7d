"""`LazyTensorStorage` and `LazyMemmapStorage` with the native gather, side by side with TorchRL's."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as torchrl_data  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import _core  # noqa: E402
from iltools_datasets.torchrl import LazyMemmapStorage, LazyTensorStorage  # noqa: E402
from tensordict import NonTensorData, TensorDict, tensorclass  # noqa: E402
from torchrl.data import ReplayBuffer, SliceSampler, TensorDictReplayBuffer  # noqa: E402
from torchrl_cases import assert_same  # noqa: E402

pytestmark = pytest.mark.torch

PAIRS = [
    (LazyTensorStorage, torchrl_data.LazyTensorStorage),
    (LazyMemmapStorage, torchrl_data.LazyMemmapStorage),
]
BOTH = pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["tensor", "memmap"])

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def rows_of(count: int, seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    return TensorDict(
        {
            "observation": torch.randn(count, 7, generator=generator),
            "image": torch.randint(0, 255, (count, 2, 3, 4), generator=generator, dtype=torch.uint8),
            "scalar": torch.randn(count, generator=generator),
            "next": {
                "observation": torch.randn(count, 7, generator=generator),
                "done": torch.rand(count, 1, generator=generator) < 0.2,
                "deep": {"er": torch.randn(count, 2, dtype=torch.float64, generator=generator)},
            },
        },
        [count],
    )


def filled(kind: type, data: Any, size: int = 50, **options: Any) -> Any:
    storage = kind(size, **options)
    ReplayBuffer(storage=storage, batch_size=4).extend(data)
    return storage


@pytest.fixture
def gathers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many columns each native gather took."""
    calls: list[int] = []
    gather = _core.gather

    def counted(columns: Any, *arguments: Any) -> Any:
        calls.append(len(columns))
        return gather(columns, *arguments)

    monkeypatch.setattr(_core, "gather", counted)
    return calls


ANY = st.integers(-32, 31)


@BOTH
@given(
    count=st.sampled_from([32, 50]),
    index=st.one_of(
        ANY,
        st.lists(ANY, max_size=40).map(lambda rows: torch.tensor(rows, dtype=torch.int64)),
        st.lists(ANY, max_size=40).map(lambda rows: (torch.tensor(rows, dtype=torch.int64),)),
        st.lists(ANY, min_size=1, max_size=9),
        st.lists(ANY, min_size=1, max_size=9).map(np.array),
        st.lists(st.integers(20, 60), min_size=1, max_size=9).map(torch.tensor),
        st.builds(slice, ANY, ANY),
        st.sampled_from([None, ..., slice(None), "image", ("next", "done"), "next"]),
    ),
)
def test_any_index_gives_what_torchrl_gives(ours: type, theirs: type, count: int, index: Any) -> None:
    data = rows_of(count)
    expected_of, storage = filled(theirs, data), filled(ours, data)
    try:
        expected = expected_of.get(index)
    except Exception as error:
        with pytest.raises(type(error)):
            storage.get(index)
        return
    picked = storage.get(index)
    assert_same(picked, expected)
    if isinstance(picked, TensorDict):
        assert picked.is_locked == expected.is_locked
        assert picked.is_memmap() == expected.is_memmap()


@BOTH
def test_vectors_of_rows_are_gathered_natively(ours: type, theirs: type, gathers: list[int]) -> None:
    data = rows_of(32)
    storage = filled(ours, data)
    index = torch.tensor([3, 31, 3, 0])
    assert_same(storage.get(index), filled(theirs, data).get(index))
    assert gathers == [6]
    batch = storage.get(index)
    batch.apply_(lambda leaf: leaf.zero_())
    assert_same(storage.get(index), filled(theirs, data).get(index))


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bare", [False, True], ids=["in a TensorDict", "a bare tensor"])
def test_dtypes(ours: type, theirs: type, dtype: torch.dtype, bare: bool, gathers: list[int]) -> None:
    values = torch.arange(36).reshape(12, 3).to(dtype)
    data = values if bare else TensorDict({"x": values}, [12])
    index = torch.tensor([5, 0, 11, 5])
    assert_same(filled(ours, data).get(index), filled(theirs, data).get(index))
    assert gathers == [1]


@tensorclass
class Step:
    x: torch.Tensor


UNCOVERED: dict[str, Callable[[], Any]] = {
    "non-tensors": lambda: TensorDict({"x": torch.arange(8), "name": NonTensorData("a", batch_size=[8])}, [8]),
    "a tensorclass": lambda: Step(x=torch.arange(8), batch_size=[8]),
    "a pytree": lambda: {"x": torch.arange(8), "y": (torch.ones(8, 2), torch.zeros(8))},
    "another nested batch size": lambda: TensorDict(
        {"x": torch.arange(8), "y": TensorDict({"z": torch.arange(24).reshape(8, 3)}, [8, 3])}, [8]
    ),
    "empty rows": lambda: TensorDict({"x": torch.arange(8), "y": torch.zeros(8, 0)}, [8]),
    "named dimensions": lambda: TensorDict({"x": torch.arange(8)}, [8], names=["time"]),
}


@pytest.mark.parametrize("make", UNCOVERED.values(), ids=UNCOVERED.keys())
def test_what_the_kernel_does_not_cover_goes_torchrls_way(make: Callable[[], Any]) -> None:
    index = torch.tensor([3, 7, 3])
    picked = filled(LazyTensorStorage, make()).get(index)
    expected = filled(torchrl_data.LazyTensorStorage, make()).get(index)
    assert type(picked) is type(expected)
    assert repr(picked) == repr(expected)
    mine, other = (picked, expected) if isinstance(expected, dict) else (picked.to_dict(), expected.to_dict())
    mine, other = torch.utils._pytree.tree_leaves(mine), torch.utils._pytree.tree_leaves(other)
    assert [leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for leaf in mine] == [
        leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for leaf in other
    ]


@BOTH
def test_storages_of_more_dimensions(ours: type, theirs: type) -> None:
    data = TensorDict({"x": torch.arange(24).reshape(3, 4, 2)}, [3, 4])
    index = (torch.tensor([2, 0]), torch.tensor([2, 1]))
    assert_same(filled(ours, data, ndim=2).get(index), filled(theirs, data, ndim=2).get(index))
    assert_same(filled(ours, data, ndim=2).get(index[0]), filled(theirs, data, ndim=2).get(index[0]))


@BOTH
def test_rows_are_seen_as_they_are_written(ours: type, theirs: type) -> None:
    storages = [kind(50) for kind in (ours, theirs)]
    buffers = [TensorDictReplayBuffer(storage=storage, batch_size=4) for storage in storages]
    for round_ in range(9):
        for rb in buffers:
            rb.extend(rows_of(13, seed=round_))
        index = torch.arange(0, min(13 * (round_ + 1), 50), 3)
        assert_same(*(storage.get(index) for storage in storages))
        outside = torch.tensor([len(storages[0])])
        for storage in storages:
            with pytest.raises(IndexError):
                storage.get(outside)
    for storage, rb in zip(storages, buffers, strict=True):
        storage[torch.tensor([1, 2])] = rows_of(2, seed=99)
        rb.set_at_("scalar", torch.tensor(5.0), 3)
        rb.update_(TensorDict({"image": torch.ones(50, 2, 3, 4, dtype=torch.uint8)}, [50]))
    assert_same(*(storage.get(torch.arange(50)).exclude("index") for storage in storages))


def test_replaced_and_moved_leaves_are_noticed() -> None:
    storage = filled(LazyTensorStorage, rows_of(50))
    index = torch.arange(50)
    storage.get(index)
    data = storage._storage.unlock_()
    data["scalar"] = torch.arange(50.0)
    assert torch.equal(storage.get(index)["scalar"], torch.arange(50.0))
    data.rename_key_("scalar", "renamed")
    assert "scalar" not in storage.get(index)
    data["next", "more"] = torch.arange(50)
    assert torch.equal(storage.get(index)["next", "more"], index)
    data.share_memory_()
    data["renamed"].fill_(3)
    assert (storage.get(index)["renamed"] == 3).all()
    data = storage._storage = data.clone()
    data["renamed"] = torch.arange(100.0)[::2]
    assert torch.equal(storage.get(index)["renamed"], torch.arange(100.0)[::2])
    data["renamed"] = torch.zeros(50, requires_grad=True)
    assert storage.get(index)["renamed"].requires_grad
    storage._storage = rows_of(50, seed=4)
    assert_same(storage.get(index), rows_of(50, seed=4))


@BOTH
@pytest.mark.filterwarnings("ignore:Loading the storage on an uninitialized TensorDict")
def test_saves_and_loads(ours: type, theirs: type, tmp_path: Path) -> None:
    index = torch.tensor([4, 2, 30])

    def buffer(kind: type) -> TensorDictReplayBuffer:
        return TensorDictReplayBuffer(storage=kind(50), batch_size=8)

    saved = buffer(ours)
    saved.extend(rows_of(32))
    saved.dumps(tmp_path / "rb")
    state = saved.state_dict()
    loaded, restored = [buffer(ours), buffer(theirs)], [buffer(ours), buffer(theirs)]
    for rb in loaded:
        rb.loads(tmp_path / "rb")
    for rb in restored:
        rb.load_state_dict(state)
    assert_same(*(rb.storage.get(index) for rb in loaded))
    assert_same(*(rb.storage.get(index) for rb in restored))
    assert torch.equal(loaded[0].storage.get(index)["scalar"], rows_of(32)["scalar"][index])


def test_pickles_without_its_views() -> None:
    storage = filled(LazyTensorStorage, rows_of(5000), size=5000)
    before = len(pickle.dumps(storage))
    index = torch.arange(0, 5000, 7)
    expected = storage.get(index)
    pickled = pickle.dumps(storage)
    assert len(pickled) == before
    assert_same(pickle.loads(pickled).get(index), expected)


@BOTH
@pytest.mark.parametrize("slices", [False, True])
def test_buffers_draw_the_same_batches(ours: type, theirs: type, slices: bool) -> None:
    def batches(kind: type) -> list[TensorDict]:
        torch.manual_seed(0)
        sampler = SliceSampler(num_slices=2, end_key=("next", "done"), strict_length=False) if slices else None
        rb = TensorDictReplayBuffer(storage=kind(50), sampler=sampler, batch_size=8)
        drawn = []
        for round_ in range(6):
            rb.extend(rows_of(11, seed=round_))
            drawn += [rb.sample() for _ in range(3)]
        return drawn

    for mine, other in zip(batches(ours), batches(theirs), strict=True):
        assert_same(mine, other)


@BOTH
def test_single_items_and_emptying(ours: type, theirs: type) -> None:
    for kind in (ours, theirs):
        rb = TensorDictReplayBuffer(storage=kind(5), batch_size=2)
        for k in range(7):
            rb.add(TensorDict({"x": torch.tensor([k])}, []))
        assert rb.storage.get(torch.arange(5))["x"].squeeze().tolist() == [5, 6, 2, 3, 4]
        rb.empty()
        assert len(rb) == 0
        with pytest.raises(IndexError):
            rb.storage.get(torch.tensor([0]))
