"""What the fault tests share: processes of their own, snapshots of directories, and calls that fail on purpose."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from enum import IntEnum
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SUPPORT = TESTS / "support"
WATCHDOG_SECONDS = 120


def run_python(
    code: str, *arguments: object, prefix: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, with `tests` on its path; a deadlock ends with TimeoutExpired."""
    return subprocess.run(
        [*prefix, sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SUPPORT, TESTS / "faults"))), **environment},
    )


def last_line(process: subprocess.CompletedProcess[str]) -> str:
    """Return the line in which Python says what was raised."""
    return process.stderr.strip().rpartition("\n")[2]


OPEN_AND_READ = """
import sys
import numpy as np
from iltools_datasets import TrajectoryStore
store = TrajectoryStore.open(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "mmap")
store.gather(np.arange(len(store)))
"""


def snapshot(directory: Path) -> dict[str, tuple[int, str]]:
    """Return mode and content of everything below a directory."""

    def state(path: Path) -> tuple[int, str]:
        content = b"" if path.is_dir() else path.read_bytes()
        return path.lstat().st_mode, hashlib.sha256(content).hexdigest()

    return {str(path.relative_to(directory)): state(path) for path in sorted(directory.rglob("*"))}


class Mode(IntEnum):
    """What happens at the chosen call."""

    COUNT = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    KILL_TORN = 3
    FAIL = 4


def compile_failing_calls(directory: Path) -> Path:
    """Compile the library that lets calls fail, or skip the test where that is impossible."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("fail points need Linux and a C compiler")
    library = directory / "failing_calls.so"
    source = Path(__file__).with_name("failing_calls.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def arm(directory: Path, at: int, mode: Mode, *, error: int = 0, report_fd: int = -1) -> None:
    """In a process with the library preloaded: choose what happens at the `at`-th call that changes `directory`."""
    ctypes.CDLL(None).faults_arm(
        os.fsencode(directory), ctypes.c_long(at), ctypes.c_int(mode), ctypes.c_int(error), ctypes.c_int(report_fd)
    )
