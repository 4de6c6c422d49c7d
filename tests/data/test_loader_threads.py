"""Threads that work off rounds of jobs: each result once and in its place, however often a round is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from iltools_datasets.data.threads import ThreadWorkers, _Desk
from iltools_datasets.errors import StreamError


@pytest.mark.parametrize(("count", "ahead"), [(1, 1), (2, 1), (2, 3), (5, 2)])
def test_rounds_that_are_left_anywhere(count: int, ahead: int) -> None:
    """A result of one round never comes in another, and none is lost: threads are at work while rounds change."""
    rng = np.random.default_rng(0)
    workers: ThreadWorkers[tuple[int, int], tuple[int, int]] = ThreadWorkers(lambda job: job, count, ahead)
    try:
        for turn in range(3000):
            jobs = [(turn, number) for number in range(int(rng.integers(0, 12)))]
            workers.begin(jobs)
            for number in range(int(rng.integers(0, len(jobs) + 1))):
                assert workers.take(number) == jobs[number]
    finally:
        workers.request_stop()
        assert workers.join(10)


def test_results_that_are_there_before_the_rest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads may be through with jobs of a round while what is left of the one before is being dropped."""
    begin = _Desk.begin

    def begin_and_wait(desk: Any, jobs: Sequence[int]) -> Any:
        current = begin(desk, jobs)
        deadline = time.monotonic() + 20
        while jobs and not all(one.num_ready for one in workers._prefetchers) and time.monotonic() < deadline:
            pass
        return current

    workers: ThreadWorkers[int, int] = ThreadWorkers(lambda job: job, 2, 2)
    monkeypatch.setattr(_Desk, "begin", begin_and_wait)
    try:
        for turn in range(20):
            jobs = range(10 * turn, 10 * turn + 8)
            workers.begin(jobs)
            assert [workers.take(number) for number in range(5)] == list(jobs)[:5]
    finally:
        workers.request_stop()
        assert workers.join(10)


def test_a_result_that_was_lost_is_told() -> None:
    """As where an interrupt comes between taking a result and counting it."""
    workers: ThreadWorkers[int, int] = ThreadWorkers(lambda job: job, 2, 2)
    try:
        workers.begin(range(8))
        assert [workers.take(number) for number in range(3)] == [0, 1, 2]
        with pytest.raises(StreamError, match="a batch was lost when the loop was interrupted"):
            workers.take(2)
        workers.begin(range(8))
        assert [workers.take(number) for number in range(8)] == list(range(8))
    finally:
        workers.request_stop()
        assert workers.join(10)


def test_stopping_while_somebody_waits() -> None:
    goes_on, works = threading.Event(), threading.Event()

    def work(job: int) -> int:
        works.set()
        goes_on.wait()
        return job

    workers: ThreadWorkers[int, int] = ThreadWorkers(work, 2, 1)
    workers.begin(range(4))
    assert works.wait(10)
    stopper = threading.Thread(target=workers.request_stop)
    stopper.start()
    with pytest.raises(StreamError, match="stopped"):
        workers.take(0)
    stopper.join()
    goes_on.set()
    assert workers.join(10)
