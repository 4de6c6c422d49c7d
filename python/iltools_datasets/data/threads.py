"""Threads that make batches in turn, which arrive in the order in which they were asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from iltools_datasets._base.prefetch import Prefetcher

Job = TypeVar("Job")
Item = TypeVar("Item")


@dataclass(slots=True)
class _Round(Generic[Job]):
    """Jobs, of which worker w does w, w + count, ...; and the next one of each worker."""

    jobs: Sequence[Job]
    next_of: list[int]


@dataclass(slots=True)
class _Outcome(Generic[Job, Item]):
    """What came of a job."""

    of: _Round[Job]
    item: Item | None = None
    error: BaseException | None = None


class ThreadWorkers(Generic[Job, Item]):
    """`count` threads, which stay between rounds of jobs and never hold more than `ahead` results each.

    Args:
        work: does a job; called from all threads.
        count: number of threads.
        ahead: results of each that are ready or in the making, at most.
    """

    def __init__(self, work: Callable[[Job], Item], count: int, ahead: int) -> None:
        self._desk = _Desk(work, count)
        self._taken = 0
        self._prefetchers = [
            Prefetcher(partial(self._desk.next_outcome, worker), ahead, f"iltools-batches-{worker}")
            for worker in range(count)
        ]

    def begin(self, jobs: Sequence[Job]) -> None:
        """Begin a round; what is left of the one before is dropped."""
        self._desk.begin(jobs)
        self._taken = 0
        for prefetcher in self._prefetchers:
            prefetcher.drop_ready()

    def take(self) -> Item:
        """Return what came of the next job, waiting for it. Raises what the job raised, and then goes on to the next.

        Raises:
            StreamError: stopped meanwhile, or forked.
        """
        prefetcher, current = self._prefetchers[self._taken % len(self._prefetchers)], self._desk.round
        outcome = prefetcher.take()
        while outcome.of is not current:
            outcome = prefetcher.take()
        self._taken += 1
        if outcome.error is not None:
            raise outcome.error
        return outcome.item  # type: ignore[return-value]

    def request_stop(self) -> None:
        """Tell the threads to end after the job they are at; drop what was made. Returns at once."""
        for prefetcher in self._prefetchers:
            prefetcher.request_stop()
        self._desk.close()

    def join(self, timeout: float) -> bool:
        """Wait for the threads' end, up to `timeout` seconds each; return whether it came."""
        return all(prefetcher.join(timeout) for prefetcher in self._prefetchers)


@dataclass(slots=True)
class _Desk(Generic[Job, Item]):
    """Where the threads get their jobs. They hold it, and not the `ThreadWorkers`, which may be forgotten."""

    work: Callable[[Job], Item]
    count: int
    round: _Round[Job] = field(init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    def __post_init__(self) -> None:
        self.round = _Round([], [])
        self.begin([])

    def begin(self, jobs: Sequence[Job]) -> None:
        with self._changed:
            self.round = _Round(jobs, list(range(self.count)))
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def next_outcome(self, worker: int) -> _Outcome[Job, Item]:
        """Do a worker's next job, waiting for one. What it raises is an outcome, too: the thread goes on."""
        current, job = self._wait_for_job(worker)
        try:
            return _Outcome(current, self.work(job))
        except BaseException as error:
            return _Outcome(current, error=error)

    def _wait_for_job(self, worker: int) -> tuple[_Round[Job], Any]:
        with self._changed:
            while not self._closed:
                current = self.round
                number = current.next_of[worker]
                if number < len(current.jobs):
                    current.next_of[worker] += self.count
                    return current, current.jobs[number]
                self._changed.wait()
        raise StopIteration
