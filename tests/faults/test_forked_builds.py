"""What a forked copy of a process that builds does to the build: nothing."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fault_tools import TESTS, WATCHDOG_SECONDS
from forked_builds import ENDINGS
from iltools_datasets import StoreBuilder, TrajectoryStore
from stores import build_store, make_clips


@pytest.mark.faults("forked child ends")
@pytest.mark.parametrize("what", ["store", "spool", "archive", "bucket", "checkpoint", "file"])
def test_a_child_that_ends_leaves_what_its_parent_builds(tmp_path: Path, what: str) -> None:
    if what in ("spool", "checkpoint"):
        pytest.importorskip("torchrl", reason="needs the torch extra")
    process = subprocess.run(
        [sys.executable, Path(__file__).with_name("forked_builds.py"), what, tmp_path],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS / 'support'}"},
    )
    built = "".join(f"{ending}: built\n" for ending in ENDINGS)
    assert (process.returncode, process.stdout) == (0, built), process.stderr
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["made"] * len(ENDINGS)


@pytest.mark.faults("forked child lives on")
@pytest.mark.parametrize("end", ["publish", "abort"])
def test_the_place_is_free_though_a_worker_was_forked_during_the_build(tmp_path: Path, end: str) -> None:
    path = build_store(tmp_path / "store", make_clips([4]))
    builder = StoreBuilder(path, overwrite=True)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        builder.add(0, 0, {"x": pool.apply(np.zeros, ((5, 2),))})
        getattr(builder, end)()
        build_store(path, make_clips([9]), overwrite=True)
        assert pool.apply(len, ((1, 2),)) == 2
    assert len(TrajectoryStore.open(path)) == 8
