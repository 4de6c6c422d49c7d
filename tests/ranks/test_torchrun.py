"""Real processes under `torchrun` (gloo): one epoch between them, and on with another number of processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets import TrajectoryStore  # noqa: E402
from stores import build_store, make_clips  # noqa: E402

if not torch.distributed.is_available():
    pytest.skip("torch was built without torch.distributed", allow_module_level=True)

pytestmark = pytest.mark.slow

LENGTHS = [40, 7, 90, 33, 2, 61]

TOTAL = sum(LENGTHS) - len(LENGTHS)


@pytest.fixture(scope="module", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("torchrun") / "store", make_clips(LENGTHS))


def torchrun(world_size: int, store: Path, out: Path, *arguments: object) -> list[dict[str, Any]]:
    """What each rank wrote; processes that hang are killed."""
    out.mkdir()
    script = Path(__file__).with_name("train.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    command = [sys.executable, *launch, str(script), str(store), str(out), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(world_size)]


def in_order(launches: list[list[dict[str, Any]]], kind: str) -> list[int]:
    """All that was drawn, step by step, rank by rank."""
    return [
        row
        for results in launches
        for step in zip(*(result[kind]["drawn"] for result in results), strict=True)
        for batch in step
        for row in batch
    ]


def test_an_epoch_begun_by_two_goes_on_with_three_and_ends_with_two(store: Path, tmp_path: Path) -> None:
    names = ("first", "second", "third")
    first, second, third = (tmp_path / name for name in names)
    launches = [
        torchrun(2, store, first, 16, 2),
        torchrun(3, store, second, 10, 2, first / "rank1.json"),
        torchrun(2, store, third, 14, 0, second / "rank2.json"),
    ]
    for results in launches:
        assert len({result["seed"] for result in results}) == 1
        for kind in ("transitions", "windows", "manager"):
            assert len({json.dumps(result[kind]["state"]) for result in results}) == 1
            assert len({len(result[kind]["drawn"]) for result in results}) == 1

    assert sorted(in_order(launches, "transitions")) == list(range(TOTAL))
    segments = TrajectoryStore.open(store).segments
    begins = [
        row
        for start, count in zip(segments.start, segments.length, strict=True)
        for row in range(start, start + count - 1)
    ]
    assert sorted(in_order(launches, "windows")[::2]) == begins
    # Exact batches: the epoch's end and the next one's start in one.
    order = in_order(launches, "manager")
    assert len(order) == 2 * 2 * 16 + 2 * 3 * 10 + 6 * 2 * 14
    assert sorted(order[:TOTAL]) == list(range(TOTAL))
    assert len(set(order[TOTAL:])) == len(order) - TOTAL > 0
