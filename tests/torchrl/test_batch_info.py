"""What is beside the rows of a batch: of its shape and on its device, whatever the sampler or a transform gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as peer  # noqa: E402
from iltools_datasets import StoreBuilder, TrajectoryStore  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from iltools_datasets.replay_manager import ExpertReplayManager  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402

ROWS, SIZE = 40, 6


def rows(*shape: int) -> Any:
    return TensorDict({"obs": torch.arange(ROWS * 100).reshape(ROWS, 100)[:, : max(shape, default=1)]}, [ROWS, *shape])


def pair(data: Any, **options: Any) -> list[Any]:
    """TorchRL's buffer and ours over the same rows."""
    made = []
    for module in (peer, ours):
        given = {key: value() if isinstance(value, Lazily) else value for key, value in options.items()}
        rb = module.TensorDictReplayBuffer(storage=module.LazyTensorStorage(ROWS), batch_size=SIZE, **given)
        rb.extend(data.clone())
        made.append(rb)
    return made


class Lazily:
    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __call__(self) -> Any:
        return self.make()


class Given(peer.RandomSampler):  # type: ignore[misc]
    """A sampler whose index and entries are somebody's."""

    def __init__(self, index: Any, info: dict[Any, Any]) -> None:
        super().__init__()
        self.index, self.info = index, info

    def sample(self, storage: Any, batch_size: int) -> tuple[Any, dict[Any, Any]]:
        return self.index, dict(self.info)


@pytest.mark.parametrize("index", [np.arange(SIZE), list(range(SIZE)), range(SIZE), torch.arange(SIZE)], ids=type)
@pytest.mark.parametrize(
    "info",
    [
        {},
        {"w": [1.0] * SIZE},
        {"w": np.ones(SIZE, np.float32), ("a", "b"): torch.ones(SIZE, 2)},
        {"w": 3.0},
        {"w": np.float64(3.0)},
        {"w": torch.tensor(True)},
    ],
    ids=str,
)
def test_anybodys_index_and_entries_become_tensors(index: Any, info: dict[Any, Any]) -> None:
    outcomes = []
    for rb in pair(rows(), sampler=Lazily(lambda: Given(index, info))):
        try:
            batch = rb.sample()
            outcomes.append({key: batch.get(key) for key in batch.keys(True, True)})
        except Exception as error:
            outcomes.append(type(error))
    theirs, found = outcomes
    if isinstance(theirs, type):
        assert found is theirs
        return
    assert found.keys() == theirs.keys()
    for key, value in theirs.items():
        assert type(found[key]) is torch.Tensor
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_rows_that_are_trajectories(shape: tuple[int, ...]) -> None:
    data = TensorDict({"obs": torch.randn(ROWS, *shape, 2)}, [ROWS, *shape])
    torch.manual_seed(0)
    theirs = pair(data)[0].sample()
    batch = pair(data)[1].sample()
    assert batch["index"].shape == theirs["index"].shape == (SIZE, *shape)
    first = batch["index"].reshape(SIZE, -1)[:, 0]
    assert torch.equal(batch["index"].reshape(SIZE, -1), first[:, None].expand(SIZE, np.prod(shape)))
    assert torch.equal(batch["obs"], data["obs"][first])
    assert batch.reshape(-1)["index"].shape == (SIZE * np.prod(shape),)
    for step in batch.unbind(1):
        assert torch.equal(step["index"].reshape(SIZE, -1)[:, 0], first)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_index_is_where_the_batch_is(tmp_path: Path, device: str) -> None:
    for rb in pair(rows(), transform=lambda data: data.to(device)):
        batch = rb.sample()
        assert batch.device == batch["index"].device == torch.device(device)
    mgr = ExpertReplayManager.load(build_store(tmp_path / "store", make_clips([12, 9])))
    mgr.set_device_transform(device)
    assert mgr.buffer.sample()["index"].device == torch.device(device)


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (lambda data: data[: SIZE // 2], False),
        (lambda data: torch.cat([data, data]), False),
        (lambda data: data.reshape(2, SIZE // 2), False),
        (lambda data: data.reshape(SIZE, 1), True),
        (lambda data: data.reshape(SIZE, 1).expand(SIZE, 3), True),
        (lambda data: data.lock_(), True),
    ],
    ids=["fewer", "more", "split", "a dimension", "repeated", "locked"],
)
def test_a_transform_that_changes_the_shape(change: Any, fits: bool) -> None:
    theirs, rb = pair(rows(), transform=change)
    if not fits:
        for each in (theirs, rb):
            with pytest.raises(RuntimeError, match="probably"):
                each.sample()
        return
    batch, other = rb.sample(), theirs.sample()
    assert batch["index"].shape == other["index"].shape
    assert batch.is_locked == other.is_locked
    assert torch.equal(batch["index"].reshape(SIZE, -1)[:, 0], batch["obs"].reshape(SIZE, -1)[:, 0] // 100)


def test_a_batch_that_is_none_is_told() -> None:
    for rb in pair(rows(), transform=lambda data: data["obs"]):
        with pytest.raises((RuntimeError, AttributeError)):
            rb.sample()


@pytest.mark.faults("column called index")
@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize(
    "make", [lambda: ours.SamplerWithoutReplacement(seed=1), peer.SamplerWithoutReplacement], ids=["ours", "TorchRL's"]
)
def test_a_column_called_index_stays(tmp_path: Path, make: Any, prefetch: int | None) -> None:
    column = np.linspace(0, 1, 11, dtype=np.float32)[:, None]
    with StoreBuilder(tmp_path) as build:
        build.add(0, 0, states={"index": column, "row": np.arange(11)})
    rb = ours.TensorDictReplayBuffer(
        storage=ours.TrajectoryStorage(TrajectoryStore.open(tmp_path)), sampler=make(), batch_size=4, prefetch=prefetch
    )
    for _ in range(3):
        batch, info = rb.sample(return_info=True)
        assert torch.equal(batch["index"], torch.from_numpy(column)[batch["row"]])
        assert torch.equal(torch.as_tensor(info["index"]), batch["row"])
