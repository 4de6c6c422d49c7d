"""Serial gathers in worker processes: eight workers with a thread per core each would only get in each other's way."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import sys

__all__ = ["use_one_thread_in_workers"]


class _Workers:
    def use_one_thread(self) -> None:
        from iltools_datasets import _core

        _core.set_num_threads(1)


# Kept alive here: multiprocessing holds it weakly.
_workers = _Workers()


def use_one_thread_in_workers() -> None:
    """Make 1 the default number of threads in every process that multiprocessing starts, by fork, spawn or forkserver.

    The workers of torch's DataLoader are such processes. A process made by a plain `os.fork()` keeps its parent's
    default.
    """
    multiprocessing.util.register_after_fork(_workers, _Workers.use_one_thread)
    # A spawned process may import this before it knows its parent, but its command line says what it is.
    if multiprocessing.parent_process() is not None or "--multiprocessing-fork" in sys.orig_argv:
        _workers.use_one_thread()
