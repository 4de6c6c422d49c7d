"""A store's specs: those of an env that would give its transitions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets import StoreBuilder, TrajectoryStore  # noqa: E402
from iltools_datasets.torchrl import TrajectoryStorage  # noqa: E402
from torchrl.data import Bounded, Categorical, Composite, Unbounded  # noqa: E402
from torchrl_cases import storage_fixture, store_fixture  # noqa: E402, F401

pytestmark = pytest.mark.torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "offline_rl_torchrl.py"


def leaves(specs: Composite) -> dict[Any, Any]:
    return {key: specs[key] for key in specs.keys(True, True)}


@pytest.mark.parametrize("bounds", [False, True])
def test_each_transition_is_in_them(storage: TrajectoryStorage, bounds: bool) -> None:
    specs, rows = storage.specs(bounds=bounds), storage[:]
    assert specs.shape == ()
    assert set(leaves(specs)) == set(rows.keys(True, True))
    for key, spec in leaves(specs).items():
        assert (spec.shape, spec.dtype, spec.device) == (rows[key].shape[1:], rows[key].dtype, rows[key].device)
    assert all(specs.is_in(storage[number]) for number in range(len(storage)))
    assert specs.expand(len(storage)).is_in(storage.get(torch.arange(len(storage))))
    drawn = specs.rand((4,))
    assert drawn.shape == (4,)
    assert specs.expand(4).is_in(drawn)


def test_bounds_are_those_of_the_data(storage: TrajectoryStorage) -> None:
    specs = storage.specs(bounds=True)
    actions = storage[:]["action"].clone()
    assert isinstance(specs["action"], Bounded)
    assert torch.equal(specs["action"].space.low, actions.min(0).values)
    assert torch.equal(specs["action"].space.high, actions.max(0).values)
    beyond = actions.max(0).values + 1
    assert not specs["action"].is_in(beyond)
    assert storage.specs()["action"].is_in(beyond)
    both = torch.cat([storage[:]["observation"].clone(), storage[:]["next", "observation"].clone()])
    for key in ("observation", ("next", "observation")):
        assert torch.equal(specs[key].space.low, both.min(0).values)


def test_kinds_of_numbers(tmp_path: Path) -> None:
    rows = {
        "flag": np.arange(4)[:, None] > 1,
        "byte": np.arange(4, dtype=np.uint8),
        "count": np.arange(4, dtype=np.int64),
        "wide": np.arange(4, dtype=np.uint64),
        "hole": np.array([1, np.nan, 2, 3], np.float32),
        "phase": np.ones((4, 1), np.complex64),
    }
    with StoreBuilder(tmp_path / "store") as builder:
        builder.add(0, 0, {}, rows)
    storage = TrajectoryStorage(TrajectoryStore.open(tmp_path / "store"))
    specs = leaves(storage.specs(bounds=True))
    assert set(specs) == set(rows) - {"phase"}
    assert isinstance(specs["flag"], Categorical)
    assert specs["flag"].n == 2
    assert {name for name, spec in specs.items() if isinstance(spec, Bounded)} == {"byte", "count"}
    assert {name for name, spec in specs.items() if isinstance(spec, Unbounded)} == {"wide", "hole"}
    assert all(storage.specs(bounds=True).is_in(storage[number]) for number in range(4))


def test_the_example_learns_under_them(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(EXAMPLE), "--clips", "12", "--epochs", "4", "--steps", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall(r"^(BC|IQL): loss (\S+) to (\S+), mean reward (\S+)$", done.stdout, flags=re.MULTILINE)
    assert [name for name, *_ in found] == ["BC", "IQL"]
    for _, first, last, reward in found:
        assert float(last) < float(first)
        assert -1 <= float(reward) <= 1
