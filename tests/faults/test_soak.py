"""The long run in short, without a leak that a short run could show."""

from __future__ import annotations

from pathlib import Path

from fault_tools import run_python

CODE = """
import sys
from pathlib import Path
import soak
usual, largest = soak.run(30_000, Path(sys.argv[1]), print)
assert soak.within_bounds(usual, largest), (usual, largest)
"""


def test_thirty_thousand_batches(tmp_path: Path) -> None:
    process = run_python(CODE, tmp_path / "store")
    assert process.returncode == 0, process.stderr
