"""Freed batches are kept for the next ones, and given back to the system when somebody says so."""

import subprocess
import sys

import pytest

CODE = """
import numpy as np
from iltools_datasets import release_memory
from iltools_datasets import _core

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) // 1024

rows = np.ones((1 << 16, 64), np.float32)
index = np.arange(1 << 18) % len(rows)
before = anonymous()
(batch,) = _core.gather([rows], index)
held = anonymous()
del batch
kept = anonymous()
release_memory()
print(held - before, kept - before, anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_freed_batches_are_kept_until_they_are_released() -> None:
    outcome = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    held, kept, released = map(int, outcome.stdout.split())
    assert held >= 60
    assert kept >= 60
    assert released < 8
