"""Worker processes for others' data sets: after JAX has computed, by forkserver, with errors in their place."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs the jax extra")
torch = pytest.importorskip("torch", reason="needs the torch extra")
from data_cases import Dies, JaxItems, Numbered, Raises, numbers_of  # noqa: E402
from iltools_datasets.data import JaxDataLoader, Transition  # noqa: E402
from iltools_datasets.data.torch_workers import _Failed, _Packed  # noqa: E402
from iltools_datasets.errors import SchemaError, StreamError  # noqa: E402

pytestmark = [pytest.mark.jax, pytest.mark.torch]


def children() -> int:
    return len(multiprocessing.active_children())


def test_batches_are_those_of_this_process() -> None:
    jax.block_until_ready(jax.numpy.ones((64, 64)) @ jax.numpy.ones((64, 64)))
    before = children()
    torch.manual_seed(0)
    wanted_draw = torch.rand(1)
    torch.manual_seed(0)
    alone = JaxDataLoader(Numbered(23), 4, drop_last=False, seed=9)
    with JaxDataLoader(Numbered(23), 4, 2, drop_last=False, seed=9) as loader:
        for _ in range(3):
            for batch, wanted in zip(loader, alone, strict=True):
                assert all(isinstance(leaf, jax.Array) for leaf in batch)
                for field, other in zip(batch, wanted, strict=True):
                    assert (field.dtype, field.shape) == (other.dtype, other.shape)
                    np.testing.assert_array_equal(field, other)
        assert children() == before + 2
        left = iter(loader)
        next(left)
        assert len(list(loader)) == 6
        state = loader.state_dict()
        assert list(left) == []
        iterator = iter(loader)
    assert children() == before
    with pytest.raises(StreamError, match="closed"):
        next(iterator)
    assert state == {**JaxDataLoader(Numbered(23), 5, drop_last=False, seed=9).state_dict(), "epoch": 5}
    assert torch.equal(torch.rand(1), wanted_draw)


def test_workers_use_jax_on_the_cpu_alone_and_errors_arrive_in_their_place() -> None:
    with JaxDataLoader(JaxItems(24, bad=(6,)), 4, 2, shuffle=False, prefetch_factor=1) as loader:
        iterator = iter(loader)
        first = next(iterator)
        assert numbers_of(first) == [0, 1, 2, 3]
        pid, on_cpu = np.asarray(first.action)[0]
        assert pid != os.getpid()
        assert on_cpu
        with pytest.raises(LookupError, match="nothing at 6") as caught:
            next(iterator)
        assert "at item 6 of JaxItems" in caught.value.__notes__
        assert "in the batch at item 4 of epoch 0" in caught.value.__notes__
        assert any("in a worker process" in note and "__getitem__" in note for note in caught.value.__notes__)
        assert [numbers_of(batch)[0] for batch in iterator] == [8, 12, 16, 20]


def test_an_error_that_cannot_be_pickled_is_told_in_words() -> None:
    failed = _Failed.of(_caught(lambda: Raises(9)[5]))
    error = failed.unpacked()
    assert isinstance(error, RuntimeError)
    assert str(error).startswith("Stubborn: <function")
    assert any("in a worker process" in note for note in error.__notes__)


def _caught(call: Any) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_process_that_dies() -> None:
    before = children()
    with JaxDataLoader(Dies(24), 4, 1, shuffle=False) as loader:
        for _ in range(2):  # the second time with other processes
            with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly") as caught:
                list(loader)
            assert any("of epoch" in note for note in caught.value.__notes__)
            assert children() == before
        loader.dataset.deadly = 24
        assert len(list(loader)) == 6


def test_a_data_set_that_cannot_be_pickled() -> None:
    local = Numbered(9)
    local.handle = lambda: None  # type: ignore[attr-defined]
    with (
        JaxDataLoader(local, 4, 2) as loader,
        pytest.raises(SchemaError, match=r"Numbered cannot be handed to worker processes: .*num_workers=0"),
    ):
        iter(loader)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.bool_, "bfloat16"])
def test_what_goes_between_processes(dtype: Any) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    arrays = [np.arange(n).astype(dtype) for n in (0, 3, 70)]
    batch = Transition({"a": arrays[0], "b": (arrays[1],)}, arrays[2].reshape(7, 10), np.float32(3), arrays[1], True)
    found = _Packed.of(batch).unpacked()
    assert found.obs.keys() == batch.obs.keys()
    assert (found.reward, found.done) == (3, True)
    pairs = [(found.obs["a"], arrays[0]), (found.obs["b"][0], arrays[1]), (found.action, batch.action)]
    for array, wanted in pairs:
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(array, wanted)
        assert not array.size or array.ctypes.data % 64 == 0 or dtype not in (np.float32, np.uint16, np.bool_)
