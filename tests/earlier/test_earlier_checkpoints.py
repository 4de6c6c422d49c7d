"""Checkpoints that earlier code saved go on in today's code exactly as they went on in the earlier code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import record  # noqa: E402
from iltools_datasets import TrajectoryStore, verify_store  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402

pytestmark = pytest.mark.torch

SAVED = Path(__file__).parent / "saved"
STATES: dict[str, dict[str, Any]] = json.loads((SAVED / "states.json").read_text())


@pytest.fixture(scope="module", name="place")
def place_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: nothing here writes into what was recorded, and a store that was moved is the same store."""
    return Path(shutil.copytree(SAVED, tmp_path_factory.mktemp("earlier") / "saved"))


@pytest.fixture(scope="module", name="store")
def store_fixture(place: Path) -> TrajectoryStore:
    return TrajectoryStore.open(place / "store")


def test_everything_that_was_recorded_is_tried() -> None:
    kinds = {
        "samplers": record.SAMPLERS,
        "buffers": record.BUFFERS,
        "managers": record.MANAGERS,
        "windows": record.WINDOWS,
    }
    assert {kind: set(found) for kind, found in STATES.items()} == {kind: set(made) for kind, made in kinds.items()}


def test_the_store_is_whole_and_is_built_the_same_today(store: TrajectoryStore, tmp_path: Path) -> None:
    assert verify_store(store.path) == []
    record.build_store(tmp_path / "store")
    today = TrajectoryStore.open(tmp_path / "store")
    assert today.keys == store.keys
    index = np.arange(len(store))
    for (key, old), new in zip(store.gather(index).items(), today.gather(index).values(), strict=True):
        np.testing.assert_array_equal(old, new, err_msg=str(key))
    old_files, new_files = (
        {file.name: file.read_bytes() for kind in ("memmap", "i64") for file in found.path.rglob(f"*.{kind}")}
        for found in (store, today)
    )
    assert len(old_files) == 4
    assert old_files == new_files


@pytest.mark.parametrize("name", record.SAMPLERS)
def test_samplers(store: TrajectoryStore, name: str) -> None:
    saved, storage = STATES["samplers"][name], ours.TrajectoryStorage(store)
    resumed, fresh = record.SAMPLERS[name](store), record.SAMPLERS[name](store)
    resumed.load_state_dict(saved["state"])
    expected = known_of(saved["after"], resumed)
    assert known_of(record.sampled(resumed, storage, record.AFTER), resumed) == expected
    record.sampled(fresh, storage, record.BEFORE)
    drawn = known_of(record.sampled(fresh, storage, record.AFTER), fresh)
    assert drawn == expected, "the random stream is another one"


def known_of(batches: list[Any], sampler: Any) -> list[Any]:
    """The samplers with exact batches did not say then where their epochs end."""
    says_nothing = isinstance(sampler, ours.EpochUniformSampler)
    return [[index, None if says_nothing else ran_out] for index, ran_out in batches]


@pytest.mark.parametrize("name", record.BUFFERS)
def test_buffers(store: TrajectoryStore, place: Path, name: str) -> None:
    buffer = record.BUFFERS[name](store)
    buffer.loads(place / "buffers" / record.directory_of(name))
    assert [record.rows(buffer.sample()["index"]) for _ in range(8)] == STATES["buffers"][name]["after"]


@pytest.mark.parametrize("name", record.MANAGERS)
def test_managers(store: TrajectoryStore, name: str) -> None:
    manager = record.MANAGERS[name](store)
    manager.load_state_dict(STATES["managers"][name]["state"])
    drawn = [record.rows(manager.buffer.sample()["index"]) for _ in range(8)]
    assert drawn == STATES["managers"][name]["after"]


@pytest.mark.parametrize("name", record.WINDOWS)
def test_windows(store: TrajectoryStore, name: str) -> None:
    source = record.WINDOWS[name](store)
    source.load_state_dict(STATES["windows"][name]["state"])
    assert [record.plain(source()) for _ in range(3)] == STATES["windows"][name]["after"]
