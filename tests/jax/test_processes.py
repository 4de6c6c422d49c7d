"""Streams at the end of the interpreter and across a fork, each in a process of its own with a watchdog."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax", reason="needs the jax extra")

pytestmark = pytest.mark.jax

PREAMBLE = """
import sys, threading
import numpy as np
from iltools_datasets.jax_stream import DoubleBufferStreamer
from iltools_datasets.errors import StreamError
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], capture_output=True, text=True, timeout=90, check=False
    )


@pytest.mark.parametrize(
    "script",
    [
        "s = DoubleBufferStreamer(lambda: {'a': np.zeros(2)}); s.start(); s.next_window()",
        "s = DoubleBufferStreamer(lambda: {'a': np.zeros((512, 512))}, depth=64); s.start(); s.next_window()",
        "s = DoubleBufferStreamer(lambda: threading.Event().wait()); s.start()",
        "DoubleBufferStreamer(lambda: {'a': np.zeros(2)}).start()",
        "s = iter(DoubleBufferStreamer(lambda: {'a': np.zeros(2)})); next(s); sys.exit(0)",
    ],
    ids=["full queue", "busy putting", "blocked source", "forgotten", "sys.exit"],
)
def test_the_interpreter_ends(script: str) -> None:
    done = run(script)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_of_the_main_thread_is_what_is_shown() -> None:
    done = run(
        "s = DoubleBufferStreamer(lambda: {'a': np.zeros(2)}); s.start(); s.next_window(); raise OSError('mine')"
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("OSError: mine")


def test_ctrl_c_while_waiting() -> None:
    done = run("""
import os, signal
blocks = threading.Event()
def fetch():
    blocks.set()
    threading.Event().wait()
s = DoubleBufferStreamer(fetch, timeout=None)
s.start()
def interrupt():
    blocks.wait()
    os.kill(os.getpid(), signal.SIGINT)
try:
    threading.Thread(target=interrupt).start()
    s.next_window()
except KeyboardInterrupt:
    print('interrupted')
print(s.stop(timeout=0))
""")
    assert (done.returncode, done.stdout.split()) == (0, ["interrupted", "False"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told() -> None:
    done = run("""
import os, warnings
warnings.simplefilter('ignore')
s = DoubleBufferStreamer(lambda: {'a': np.zeros(2)})
s.start(); s.next_window()
if (child := os.fork()) == 0:
    try:
        s.next_window()
    except StreamError as error:
        s.stop()
        os._exit(7 if 'fork' in str(error) else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), s.next_window()['a'].shape)
s.stop()
""")
    assert (done.returncode, done.stdout.strip()) == (0, "7 (2,)")


def test_without_jax_it_says_what_to_install() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['jax'] = None\n"
            "from iltools_datasets.windows.source import WindowSource\n"
            "import iltools_datasets.jax_stream",
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'iltools-datasets[jax]'" in done.stderr.splitlines()[-1]
