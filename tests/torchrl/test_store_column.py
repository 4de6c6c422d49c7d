"""A column without memory hands its address to nobody: each way to a tensor's memory reads the column, or raises."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets import StoreBuilder, TrajectoryStore  # noqa: E402
from iltools_datasets.errors import ReadOnlyError  # noqa: E402
from iltools_datasets.torchrl import TensorDictReplayBuffer, TrajectoryStorage  # noqa: E402
from iltools_datasets.torchrl.store_column import ADDRESSES_ARE_GUARDED, StoreColumn  # noqa: E402

pytestmark = pytest.mark.torch

VALUES = np.arange(21, dtype=np.float32).reshape(7, 3) + 1


def build(path: Path) -> Path:
    with StoreBuilder(path) as builder:
        builder.add(0, 0, states={"q": VALUES})
    return path


@pytest.fixture
def storage(tmp_path: Path) -> TrajectoryStorage:
    return TrajectoryStorage(TrajectoryStore.open(build(tmp_path / "store")))


@pytest.fixture
def column(storage: TrajectoryStorage) -> StoreColumn:
    return storage["q"]


def _by_jax(column: StoreColumn) -> Any:
    return pytest.importorskip("jax", reason="needs the jax extra").dlpack.from_dlpack(column)


READS: dict[str, Callable[[StoreColumn], Any]] = {
    "torch.from_dlpack": torch.from_dlpack,
    "numpy.from_dlpack": np.from_dlpack,
    "jax.dlpack": _by_jax,
    "a copy by dlpack": lambda column: torch.from_dlpack(column.__dlpack__(copy=True)),
    "share_memory_": lambda column: column.share_memory_(),
    "share_memory_ of torch.Tensor": lambda column: torch.Tensor.share_memory_(column),
    "untyped_storage": lambda column: torch.tensor(column.untyped_storage().tolist(), dtype=torch.uint8).view(
        torch.float32
    ),
    "_typed_storage": lambda column: torch.empty(0).set_(column._typed_storage()._untyped_storage, 0, (6, 3)),
    "numpy": lambda column: column.numpy(),
    "numpy of torch.Tensor": lambda column: torch.Tensor.numpy(column),
    "numpy.asarray": np.asarray,
    "__array__": lambda column: column.__array__(np.float64),
    "tolist": lambda column: column.tolist(),
    "pickle": lambda column: pickle.loads(pickle.dumps(column)),
    "as_subclass": lambda column: column.as_subclass(torch.Tensor).numpy(),
    "data": lambda column: column.data.numpy(),
    "a slice of an alias": lambda column: torch.from_dlpack(column.detach()[:]),
}


OLD_TORCH = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8)


def skip_what_old_torch_lacks(way: str) -> None:
    """Torch 2.7 makes no other class of a tensor that dispatches, and its tensors give no copy by DLPack."""
    if OLD_TORCH and way in ("as_subclass", "data_ptr of torch.Tensor", "a copy by dlpack"):
        pytest.skip("torch 2.7 has no such way")


@pytest.mark.faults("column without memory")
@pytest.mark.parametrize("way", READS)
def test_ways_to_the_memory_read_the_column(column: StoreColumn, way: str) -> None:
    skip_what_old_torch_lacks(way)
    np.testing.assert_array_equal(np.asarray(READS[way](column)).reshape(6, 3), VALUES[:-1])


REFUSED: dict[str, Callable[[StoreColumn], Any]] = {
    "data_ptr": lambda column: column.data_ptr(),
    "data_ptr of an alias": lambda column: column.detach().data_ptr(),
    "data_ptr of a parameter": lambda column: torch.nn.Parameter(column, requires_grad=False).data_ptr(),
    "data_ptr of torch.Tensor": lambda column: torch.Tensor.data_ptr(column.as_subclass(torch.Tensor)),
    "data_ptr of a TensorDict": lambda column: TensorDictReplayBuffer(storage=column_storage(column))[:].data_ptr(),
    "apply_": lambda column: column.apply_(lambda value: value + 1),
    "map_": lambda column: column.map_(torch.ones(6, 3), lambda mine, other: other),
    "fill_diagonal_": lambda column: column.fill_diagonal_(0.0),
    "nn.init": lambda column: torch.nn.init.zeros_(column),
    "out=": lambda column: torch.add(torch.ones(6, 3), 1, out=column),
    "set_": lambda column: column.set_(),
}


def column_storage(column: StoreColumn) -> Any:
    from tensordict import TensorDict
    from torchrl.data import TensorStorage

    return TensorStorage(TensorDict({"q": column}, batch_size=[6]))


@pytest.mark.faults("column without memory")
@pytest.mark.parametrize("way", REFUSED)
def test_addresses_and_writes_are_refused(storage: TrajectoryStorage, column: StoreColumn, way: str) -> None:
    skip_what_old_torch_lacks(way)
    with pytest.raises(ReadOnlyError, match="clone"):
        REFUSED[way](column)
    np.testing.assert_array_equal(storage["q"].numpy(), VALUES[:-1])


def test_what_leaves_has_been_read_where_torch_gives_addresses_away(
    storage: TrajectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iltools_datasets.torchrl.storage.ADDRESSES_ARE_GUARDED", False)
    for found in (storage["q"], storage[:]["q"], storage.get(slice(None))["q"]):
        assert type(found) is torch.Tensor
        np.testing.assert_array_equal(found.numpy(), VALUES[:-1])
        assert found.data_ptr()


@pytest.mark.skipif(not ADDRESSES_ARE_GUARDED, reason="this torch heeds no error where C asks for an address")
@pytest.mark.faults("column without memory")
def test_ways_in_c_meet_an_error_and_not_null(column: StoreColumn) -> None:
    try:
        capsule = torch._C._to_dlpack(column)
    except RuntimeError as error:
        assert "no memory of its own" in str(error)  # noqa: PT017
    else:  # torch 2.7 takes a view first, which reads the column
        np.testing.assert_array_equal(torch._C._from_dlpack(capsule).numpy(), VALUES[:-1])
    other = torch.zeros(6, 3)
    other.data = column
    with pytest.raises(RuntimeError, match="no memory of its own"):
        other.sum()


@pytest.mark.faults("column without memory")
def test_a_whole_buffer_goes_to_shared_memory(storage: TrajectoryStorage) -> None:
    shared = TensorDictReplayBuffer(storage=storage, batch_size=2)[:].share_memory_()
    np.testing.assert_array_equal(shared["q"].numpy(), VALUES[:-1])
    assert not storage["q"].is_shared()


_SWEEP = """
import sys, warnings
import numpy as np, torch
from iltools_datasets import TrajectoryStore
from iltools_datasets.torchrl import TrajectoryStorage

warnings.simplefilter("ignore")
storage = TrajectoryStorage(TrajectoryStore.open(sys.argv[1]))
RANDOM = {"multinomial", "bernoulli", "new", "new_empty"}

def outcome(tensor, name, arguments):
    try:
        found = getattr(tensor, name)
        return found(*arguments) if callable(found) else found
    except Exception as error:
        return error

def numbers(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone().numpy()
    return value if isinstance(value, np.ndarray | list | float | int) else None

for name in sorted(name for name in dir(torch.Tensor) if not name.startswith("_") and name not in RANDOM):
    for arguments in ((), (1,), (torch.ones(3),), (lambda value: value,)):
        print(name, arguments, flush=True)
        column, plain = storage["q"].detach(), storage["q"].load()
        found, expected = outcome(column, name, arguments), outcome(plain, name, arguments)
        if isinstance(found, Exception) or isinstance(expected, Exception):
            continue
        try:
            expected = numbers(expected)
        except Exception:
            continue
        if expected is not None:
            np.testing.assert_array_equal(numbers(found), expected)
        np.testing.assert_array_equal(storage["q"].numpy(), storage.get(torch.arange(6))["q"].numpy())
print("end")
"""


@pytest.mark.faults("column without memory")
def test_no_method_of_a_tensor_crashes_or_differs(tmp_path: Path) -> None:
    """Every method, with none and with some arguments: what it gives for a plain tensor, or an exception."""
    process = subprocess.run(
        [sys.executable, "-c", _SWEEP, build(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.stdout.endswith("end\n"), (process.stdout[-100:], process.stderr[-500:], process.returncode)
