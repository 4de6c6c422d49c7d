"""A thread that makes things ahead of whoever takes them, a bounded number of them, and that can always be stopped."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from iltools_datasets.errors import StreamEndedError, StreamError, StreamTimeoutError

Item = TypeVar("Item")

_LONGEST_SLEEP = 0.5  # s; a sleeper looks around at least this often, so a thread that was killed hangs nobody


class _Failure:
    """What ended the thread, in its place behind the last thing made."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_ending: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Threads that were told to stop, whoever forgot them meanwhile."""


def join_ending(timeout: float) -> None:
    """Wait, up to `timeout` seconds each, for the threads that were told to stop and are at their last job."""
    for thread in list(_ending):
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(timeout)


class Prefetcher(Generic[Item]):
    """Calls `make` in a daemon thread, at most `depth` results ahead of `take`.

    Whatever `make` raises arrives in its place, after everything made before it, and ends the thread; StopIteration
    arrives as `StreamEndedError`. Runs once: what was stopped stays stopped.

    Args:
        make: makes the next thing; called by the thread only.
        depth: number of things that are ready or in the making, at most.
        name: name of the thread.
        surroundings: context manager the thread works in.
    """

    def __init__(
        self,
        make: Callable[[], Item],
        depth: int,
        name: str,
        surroundings: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._make = make
        self._depth = depth
        self._surroundings = surroundings
        self._ready: deque[Item | _Failure] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def num_ready(self) -> int:
        """How many things could be taken without a wait."""
        return len(self._ready)

    @property
    def is_working(self) -> bool:
        """Whether the thread is still there: between `request_stop` and the end of the call of `make` it is in."""
        return self._pid == os.getpid() and self._thread.is_alive()

    @property
    def is_open(self) -> bool:
        """Whether something may still be taken: neither stopped nor through with an error or the source's end."""
        return not self._stopped and self._error is None and self._pid == os.getpid()

    def take(self, timeout: float | None = None) -> Item:
        """Return the next thing, waiting for it up to `timeout` seconds (None: as long as it takes).

        Raises:
            StreamTimeoutError: nothing came in time; the thread goes on, and so may the caller.
            StreamEndedError: the source has no more.
            StreamError: stopped, meanwhile or before, or an earlier call raised, or this process was forked.
            BaseException: whatever `make` raised.
        """
        if self._pid != os.getpid():
            raise StreamError("the stream was started in another process, before a fork; stop() and start() it here")
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._wait_for_something(deadline, timeout)
            item = self._ready.popleft()
            if isinstance(item, _Failure):
                self._error = item.error
            self._changed.notify_all()
        if not isinstance(item, _Failure):
            return item
        if isinstance(item.error, StopIteration):
            raise StreamEndedError("the source has no more windows") from None
        raise item.error

    def _wait_for_something(self, deadline: float | None, timeout: float | None) -> None:
        while not self._ready or self._stopped:
            if self._stopped:
                raise StreamError("the stream is stopped; start() it again")
            if isinstance(self._error, StopIteration):
                raise StreamEndedError("the source has no more windows")
            if self._error is not None:
                raise StreamError(f"the stream stopped at an error: {self._error!r}") from self._error
            left = _LONGEST_SLEEP if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise StreamTimeoutError(f"the source made no window within {timeout:g} s")
            if not self._thread.is_alive():
                raise StreamError("the thread that makes windows is gone")
            self._changed.wait(min(left, _LONGEST_SLEEP))

    def drop_ready(self, is_stale: Callable[[Item], bool]) -> None:
        """Drop what was made, was not taken and is stale; the thread goes on, and what it is making now still comes."""
        with self._changed:
            self._ready = deque(item for item in self._ready if isinstance(item, _Failure) or not is_stale(item))
            self._changed.notify_all()

    def request_stop(self) -> None:
        """Tell the thread and everybody who waits for it to stop; drop what was made. Returns at once."""
        self._stopped = True
        if self._pid != os.getpid():
            return  # the fork may have copied the lock while the thread, which is not here, held it
        with self._changed:
            self._ready.clear()
            self._changed.notify_all()
        _ending.add(self._thread)

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end after `request_stop`; return whether it came. A source may block for ever."""
        if not self.is_working:
            return True
        if self._thread is threading.current_thread():
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with self._surroundings():
                while self._wait_for_room():
                    self._hand_over(self._make())
        except BaseException as error:
            self._hand_over(_Failure(error))

    def _wait_for_room(self) -> bool:
        with self._changed:
            while len(self._ready) >= self._depth and not self._stopped:
                self._changed.wait(_LONGEST_SLEEP)
            return not self._stopped

    def _hand_over(self, item: Item | _Failure) -> None:
        with self._changed:
            if not self._stopped:
                self._ready.append(item)
                self._changed.notify_all()
