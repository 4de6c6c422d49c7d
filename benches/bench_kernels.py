"""The Rust kernels by themselves: against the ceiling of the machine, and in instructions."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from iltools_datasets import TrajectoryStore
from race import Row, figure, show

ROOT = Path(__file__).resolve().parent.parent

INSTRUCTIONS_PER_ROW = {"gather": 530, "shuffle": 100, "slices": 65, "cursors": 12}
"""What each kernel may take per row on x86-64; a change that needs more has to say why and raise it here."""


def cargo(*arguments: str) -> str:
    if shutil.which("cargo") is None:
        pytest.skip("needs cargo")
    return subprocess.run(["cargo", *arguments], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_gather_against_the_ceiling(record: Any, store: TrajectoryStore) -> None:
    output = cargo("bench", "-q", "-p", "iltools-core", "--bench", "ceiling", "--", str(store.path.resolve()))
    for line in output.splitlines():
        found = json.loads(line)
        row = Row(
            f"native gather ÷ the ceiling's loop, {found['batch']}",
            "two threads",
            show(found["ours"]),
            show(found["ceiling"]),
            found["ratio"],
            found["low"],
            found["high"],
            0.85,
        )
        if found["batch"] >= 4096:
            record(row)


@pytest.mark.parametrize("kernel", INSTRUCTIONS_PER_ROW)
def test_instructions(record: Any, kernel: str, tmp_path: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("needs valgrind")
    cargo("build", "-q", "--release", "-p", "iltools-core", "--example", "kernels")
    binary = ROOT / "target" / "release" / "examples" / "kernels"

    def instructions(times: int) -> int:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={tmp_path / 'out'}", binary, kernel, str(times)],
            capture_output=True,
            text=True,
            check=True,
        )
        (line,) = [line for line in done.stderr.splitlines() if "Collected" in line]
        return int(line.split(":")[1])

    # The difference of two runs is the kernel alone, without what starts and ends the program.
    per_row = (instructions(30) - instructions(10)) / 20 / 1024
    limit = INSTRUCTIONS_PER_ROW[kernel]
    record(figure(f"{kernel}: instructions per row", "callgrind", [per_row], limit, "instr"))
    assert per_row <= limit, f"{kernel} takes {per_row:.1f} instructions per row, at most {limit} are allowed"
