"""Collectors that are killed, or whose disk is full: every step that was returned for is there, bit for bit."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_tools import SUPPORT, TESTS, compile_failing_calls

pytest.importorskip("torch", reason="needs the torch extra")

CODE = """
import sys
from pathlib import Path
import kill_collecting as k
print(*sorted({codes}), sep="\\n")
"""


def preloaded(tmp_path: Path, codes: str) -> list[str]:
    """Run in a process of its own, with calls that fail on purpose."""
    library = compile_failing_calls(tmp_path)
    (tmp_path / "place").mkdir(exist_ok=True)
    process = subprocess.run(
        [sys.executable, "-c", CODE.format(codes=codes), str(tmp_path / "place")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "PYTHONPATH": os.pathsep.join(map(str, (TESTS / "faults", SUPPORT))),
        },
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.faults
def test_killed_while_collecting(tmp_path: Path) -> None:
    # Which call is the n-th depends on two threads: more children until one was killed where the journal is written.
    points: set[str] = set()
    for seed in range(7, 13):
        points.update(preloaded(tmp_path, f"k.run(24, {seed}, Path(sys.argv[1]), kills_per_store=12)"))
        if any(point.startswith("write /*/journal/") for point in points):
            break
    assert len(points) > 5
    assert any(point.startswith("write /*/journal/") for point in points)


@pytest.mark.faults
def test_a_full_disk_while_collecting(tmp_path: Path) -> None:
    wanted = ("write /*/journal/", "write /*/transitions/")
    points = preloaded(tmp_path, f"k.fail_each(Path(sys.argv[1]) / 'store', {errno.ENOSPC}, {wanted})")
    for kind in wanted:
        assert any(point.startswith(kind) for point in points), kind
