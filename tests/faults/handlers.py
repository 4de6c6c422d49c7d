"""A signal handler that calls a method of the builder in the middle of another call. Run by test_signal_handlers.py.

    python handlers.py METHOD THREAD DIRECTORY

The handler runs in the main thread, which is in `add` itself, or waits for another thread's. Prints what each call
raised.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
from iltools_datasets import StoreBuilder

ROWS = np.zeros((1 << 9, 1 << 20), np.uint8)
"""512 MiB that take no memory as long as nobody writes to them."""


def signal_once_it_writes(path: Path) -> None:
    """Send SIGALRM to this process when the column has begun to grow."""
    pause = threading.Event()
    while not any(file.stat().st_size for file in path.rglob("x.memmap")):
        pause.wait(0.001)
    os.kill(os.getpid(), signal.SIGALRM)


def say(*words: str) -> None:
    """Print a line whole: two threads have something to say, and `print` writes word by word."""
    os.write(1, (" ".join(words) + "\n").encode())


def main() -> None:
    """Call `add` for half a gibibyte, and the method from a handler in the middle of it."""
    method, thread, path = sys.argv[1], sys.argv[2], Path(sys.argv[3]) / "store"
    builder = StoreBuilder(path)
    calls = {
        "abort": builder.abort,
        "publish": builder.publish,
        "add": lambda: builder.add(0, 1, {"x": ROWS[:3]}),
        "adopt": lambda: builder.adopt(path / "spool"),
        "leave": lambda: builder.__exit__(ValueError, ValueError(), None),
    }

    def outcome(call: str) -> None:
        try:
            (builder.add(0, 0, {"x": ROWS}) if call == "long" else calls[call]())
        except Exception as error:
            say(call, type(error).__name__, str(error).removeprefix(f"{path}: "))
        else:
            say(call, "returned")

    def handler(*_: object) -> None:
        outcome(method)
        if method in ("abort", "leave"):
            say("there" if path.exists() else "gone")

    signal.signal(signal.SIGALRM, handler)
    threading.Thread(target=signal_once_it_writes, args=(path,), daemon=True).start()
    if thread == "same":
        outcome("long")
    else:
        working = threading.Thread(target=outcome, args=("long",))
        working.start()
        working.join()
    builder.abort()
    assert not path.exists()


if __name__ == "__main__":
    main()
