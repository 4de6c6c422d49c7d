"""One world for all tests that only read it: 200 clips, 6,500 bins of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from iltools_datasets import TrajectoryStore
from tracking_cases import BINS, time_store


@pytest.fixture(scope="session")
def world_store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    durations = [float(5 + 55 * k // 99) for k in range(100)] * 2
    durations[-1] += BINS - sum(durations)
    return time_store(tmp_path_factory.mktemp("world") / "store", durations)


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """Clips of 4, 2.6, 0.1 and 7.4 seconds: the third is too short for steps of 0.2 s."""
    return time_store(tmp_path_factory.mktemp("small") / "store", [4.0, 2.6, 0.1, 7.4])


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch in one thread: its small operations wait for the others wherever these have no core of their own."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
