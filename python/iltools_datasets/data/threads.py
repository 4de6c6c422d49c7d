"""Threads that make batches in turn, which arrive in the order in which they were asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from iltools_datasets._base.prefetch import Prefetcher
from iltools_datasets.errors import StreamError

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
    number: int
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
        self._prefetchers = [
            Prefetcher(partial(self._desk.next_outcome, worker), ahead, f"iltools-batches-{worker}")
            for worker in range(count)
        ]

    def begin(self, jobs: Sequence[Job]) -> None:
        """Begin a round; what is left of the one before is dropped."""
        current = self._desk.begin(jobs)
        for prefetcher in self._prefetchers:
            # The threads are at work on this round already.
            prefetcher.drop_ready(lambda outcome: outcome.of is not current)

    def take(self, number: int) -> Item:
        """Return what came of job `number` of the round, waiting for it; each is taken once, in their order.

        Raises:
            StreamError: stopped meanwhile, or forked; or this one was taken before, and lost to an interrupt.
            Exception: whatever the job raised.
        """
        prefetcher, current = self._prefetchers[number % len(self._prefetchers)], self._desk.round
        outcome = prefetcher.take()
        while outcome.of is not current:
            outcome = prefetcher.take()
        if outcome.number != number:
            raise StreamError("a batch was lost when the loop was interrupted; iterate again")
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

    def begin(self, jobs: Sequence[Job]) -> _Round[Job]:
        with self._changed:
            self.round = current = _Round(jobs, list(range(self.count)))
            self._changed.notify_all()
        return current

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def next_outcome(self, worker: int) -> _Outcome[Job, Item]:
        """Do a worker's next job, waiting for one. What it raises is an outcome, too: the thread goes on."""
        while True:
            current, number, job = self._wait_for_job(worker)
            try:
                outcome: _Outcome[Job, Item] = _Outcome(current, number, self.work(job))
            except BaseException as error:
                outcome = _Outcome(current, number, error=error)
            if current is self.round:  # nobody waits for what was begun before
                return outcome

    def _wait_for_job(self, worker: int) -> tuple[_Round[Job], int, Any]:
        with self._changed:
            while not self._closed:
                current = self.round
                number = current.next_of[worker]
                if number < len(current.jobs):
                    current.next_of[worker] += self.count
                    return current, number, current.jobs[number]
                self._changed.wait()
        raise StopIteration
