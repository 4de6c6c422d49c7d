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


@pytest.mark.faults("order of syncs")
@pytest.mark.parametrize("writer", WRITERS)
def test_data_then_names_then_the_rename_then_its_directory(tmp_path: Path, writer: str) -> None:
    if "replay" in writer or "checkpoint" in writer:
        pytest.importorskip("torchrl", reason="needs the torch extra")
    if "staged" in writer:
        pytest.importorskip("fsspec", reason="needs fsspec")
    if "images" in writer:
        for name in ("pyarrow", "av", "PIL"):
            pytest.importorskip(name, reason="needs the extra data")
    process = subprocess.run(
        [sys.executable, Path(__file__).with_name("sync_order.py"), writer, tmp_path],
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
    for result in json.loads(process.stdout):
        assert result.pop("renames") >= 1
        assert result == {"early": [], "never synced": [], "not on disk": []}


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
