"""Everything that is published is on disk before it is visible, and its name afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_tools import TESTS, WATCHDOG_SECONDS, compile_failing_calls
from sync_order import WRITERS, Disk

NEEDS = {
    "replay builder": "torchrl",
    "replay builder, laid out anew": "torchrl",
    "checkpoint of a buffer": "torchrl",
    "staged store": "fsspec",
    "images of a camera": "pyarrow av PIL",
}
"""What a writer needs besides; those that need the same share a process, for it is the import that takes long."""


@pytest.mark.faults("order of syncs")
@pytest.mark.parametrize("needs", sorted({NEEDS.get(writer, "") for writer in WRITERS}))
def test_data_then_names_then_the_rename_then_its_directory(tmp_path: Path, needs: str) -> None:
    for module in needs.split():
        pytest.importorskip(module, reason="needs an extra of the package")
    writers = [writer for writer in WRITERS if NEEDS.get(writer, "") == needs]
    process = subprocess.run(
        [sys.executable, Path(__file__).with_name("sync_order.py"), tmp_path, *writers],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_SECONDS,
        check=False,
        env={
            **os.environ,
            "LD_PRELOAD": str(compile_failing_calls(tmp_path)),
            "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS / "support", TESTS / "lerobot"))),
        },
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert list(found) == writers
    for writer, results in found.items():
        for result in results:
            assert result.pop("renames") >= 1, writer
            assert result == {"early": [], "never synced": [], "not on disk": []}, writer


GOOD = ["create /f.new", "write /f.new", "fsync /f.new", "rename /f <- /f.new", "fsync "]


def test_the_model_itself() -> None:
    disk = Disk("/f")
    disk.replay(GOOD)
    assert (disk.found, disk.bytes, disk.names, disk.renames) == ([], set(), set(), 1)
    for left_out in (2, 4):
        disk = Disk("/f")
        disk.replay(call for number, call in enumerate(GOOD) if number != left_out)
        assert disk.found or disk.names
    disk = Disk("/d")
    disk.replay(["mkdir /d.new", "create /d.new/f", "fsync /d.new/f", "rename /d <- /d.new", "fsync "])
    assert disk.found == ["name /d.new/f"]
    disk = Disk("/d")
    disk.replay(["mkdir /x", "create /x/f", "sync ", "rename /d <-> /x"])
    assert (disk.found, disk.names) == ([], {"/d", "/x"})
