"""TorchRL's prioritized samplers over our storages, beside TorchRL's own, with two dimensions and with checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as peer  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from iltools_datasets.errors import StateError  # noqa: E402
from tensordict import TensorDict  # noqa: E402

ROWS, SIZE = 40, 6

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def build(module: Any, storage: str = "LazyTensorStorage", dims: int = 1, prefetch: int | None = None) -> Any:
    try:
        sampler = peer.PrioritizedSampler(ROWS, 0.7, 0.5)
    except RuntimeError as error:
        pytest.skip(f"TorchRL's native part does not load here: {error}")
    return module.TensorDictReplayBuffer(
        storage=getattr(module, storage)(ROWS, ndim=dims),
        sampler=sampler,
        batch_size=SIZE,
        priority_key="td_error",
        prefetch=prefetch,
        generator=torch.Generator().manual_seed(5),
    )


def filled(rb: Any, dims: int = 1) -> Any:
    shape = (ROWS,) if dims == 1 else (ROWS // 5, 5)
    rb.extend(TensorDict({"t": torch.arange(ROWS).reshape(shape), "td_error": torch.ones(shape)}, shape))
    return rb


def raise_priority(rb: Any, batch: Any) -> None:
    batch["td_error"] = torch.where(batch["t"] == batch["t"][0], 1e9, 1e-6)
    rb.update_tensordict_priority(batch)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("storage", ["LazyTensorStorage", "LazyMemmapStorage"])
def test_batches_and_weights_are_torchrls(storage: str, dims: int) -> None:
    drawn = []
    for module in (peer, ours):
        rb = filled(build(module, storage, dims), dims)
        batches = []
        for _ in range(4):
            batch = rb.sample()
            batches.append((batch["t"].tolist(), batch["priority_weight"].tolist(), batch["index"].tolist()))
            raise_priority(rb, batch)
        drawn.append(batches)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("prefetch", [None, 1])
def test_priorities_decide_what_is_drawn(dims: int, prefetch: int | None) -> None:
    rb = filled(build(ours, dims=dims, prefetch=prefetch), dims)
    batch = rb.sample()
    raise_priority(rb, batch)
    if prefetch:
        rb.sample()  # had been made ahead
    assert (rb.sample()["t"] == batch["t"][0]).all()


@pytest.mark.parametrize("way", ["directory", "state_dict", "TorchRL's directory"])
def test_priorities_are_saved_with_the_rest(way: str, tmp_path: Path) -> None:
    rb = filled(build(peer if "TorchRL" in way else ours))
    raise_priority(rb, batch := rb.sample())
    again = build(ours)
    if way == "state_dict":
        again.load_state_dict(rb.state_dict())
    else:
        rb.dumps(tmp_path)
        again.loads(tmp_path)
    assert (again.sample()["t"] == batch["t"][0]).all()


def test_a_failed_load_keeps_the_priorities() -> None:
    rb = filled(build(ours))
    good = rb.state_dict()
    raise_priority(rb, batch := rb.sample())
    for part in ("_writer", "_sampler", "_storage"):
        with pytest.raises(StateError):
            rb.load_state_dict({**good, part: {"_alpha": 0.5}})
        assert (rb.sample()["t"] == batch["t"][0]).all()
        assert rb.sampler._alpha == 0.7
