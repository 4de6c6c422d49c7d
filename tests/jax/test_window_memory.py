"""No window changes after it was delivered, whatever its source does with its arrays; and nothing is copied in vain."""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs the jax extra")

from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets._base.aligned import aligned_empty  # noqa: E402
from iltools_datasets.jax_stream import DoubleBufferStreamer  # noqa: E402
from iltools_datasets.windows.source import WindowSource  # noqa: E402
from jax_cases import clips_fixture, columns_fixture, store_fixture  # noqa: E402, F401
from racing import count_wrong  # noqa: E402

pytestmark = pytest.mark.jax

NUM_ENVS, WINDOW, NUM_WINDOWS = 16, 8, 10_000


def source_of(store: TrajectoryStore) -> WindowSource:
    count = store.num_trajectories
    return WindowSource(store, ["qpos", "action"], WINDOW, [e % count for e in range(NUM_ENVS)], range(NUM_ENVS))


@pytest.fixture
def expected(store: TrajectoryStore, columns: dict[str, np.ndarray]) -> Callable[[int], dict[str, np.ndarray]]:
    """Window n as plain indexing into the columns finds it."""
    traj = np.arange(NUM_ENVS) % store.num_trajectories
    start, length = store.segments.start[traj, None], store.segments.length[traj, None]

    def window(n: int) -> dict[str, np.ndarray]:
        # Wrapped once before, as an env is put within its trajectory; that changes nothing of what it passes.
        rows = start + (np.arange(NUM_ENVS)[:, None] + n * WINDOW + np.arange(WINDOW)) % length
        return {key: columns[key][rows] for key in ("qpos", "action")}

    return window


class ReusesItsArrays:
    """A callable as the documentation shows it, that hands out the same aligned arrays each time."""

    def __init__(self, source: WindowSource) -> None:
        self._source = source
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(self) -> dict[str, np.ndarray]:
        for key, values in self._source().items():
            if key not in self._arrays:
                self._arrays[key] = aligned_empty(values.shape, values.dtype)
            self._arrays[key][:] = values
        return self._arrays


class PromisesInVain(ReusesItsArrays):
    """The same, but it says that it does not."""

    leases_buffers = True


@contextmanager
def naive_double_buffer(fetch: Callable[[], dict[str, np.ndarray]]) -> Iterator[Callable[[], Any]]:
    """A double buffer as it is usually written: two staging buffers in turn, behind a queue of two, blocked on."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=2)
    stop = threading.Event()
    staging: list[dict[str, np.ndarray]] = [{}, {}]

    def produce() -> None:
        turn = 0
        while not stop.is_set():
            buffers = staging[turn % 2]
            turn += 1
            for key, values in fetch().items():
                if key not in buffers:
                    buffers[key] = aligned_empty(values.shape, values.dtype)
                buffers[key][:] = values
            window = jax.block_until_ready(jax.device_put(buffers))
            while not stop.is_set():
                try:
                    ready.put(window, timeout=0.05)
                    break
                except queue.Full:
                    continue

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield ready.get
    finally:
        stop.set()
        thread.join()


class TestRacingConsumer:
    @pytest.mark.parametrize("wrap", [lambda source: source, ReusesItsArrays], ids=["leased", "reused"])
    def test_ten_thousand_windows_are_right(
        self,
        store: TrajectoryStore,
        expected: Callable[[int], dict[str, np.ndarray]],
        wrap: Callable[[WindowSource], Callable[[], Any]],
    ) -> None:
        with DoubleBufferStreamer(wrap(source_of(store))) as streamer:
            assert count_wrong(streamer.next_window, expected, NUM_WINDOWS) == 0

    def test_the_harness_sees_a_source_that_breaks_its_promise(
        self, store: TrajectoryStore, expected: Callable[[int], dict[str, np.ndarray]]
    ) -> None:
        with DoubleBufferStreamer(PromisesInVain(source_of(store))) as streamer:
            assert count_wrong(streamer.next_window, expected, 500) > 0

    def test_the_harness_sees_a_naive_double_buffer(
        self, store: TrajectoryStore, expected: Callable[[int], dict[str, np.ndarray]]
    ) -> None:
        with naive_double_buffer(source_of(store)) as next_window:
            assert count_wrong(next_window, expected, 500) > 0


class TestCopies:
    def test_leased_windows_are_not_copied(self, store: TrajectoryStore) -> None:
        source = source_of(store)
        addresses: list[int] = []

        class Watched:
            leases_buffers = True

            def __call__(self) -> Any:
                window = source()
                addresses.append(window["qpos"].ctypes.data)
                return window

        with DoubleBufferStreamer(Watched()) as streamer:
            windows = [streamer.next_window() for _ in range(4)]
        assert [window["qpos"].unsafe_buffer_pointer() for window in windows] == addresses[:4]

    def test_a_step_may_donate_its_window(
        self, store: TrajectoryStore, expected: Callable[[int], dict[str, np.ndarray]]
    ) -> None:
        negated = jax.jit(lambda window: jax.tree.map(lambda array: -array, window), donate_argnums=0)
        with DoubleBufferStreamer(source_of(store)) as streamer:
            kept = [negated(streamer.next_window()) for _ in range(100)]
        for n, window in enumerate(kept):
            np.testing.assert_array_equal(window["qpos"], -expected(n)["qpos"])

    def test_memory_is_used_again_when_windows_are_gone(self, store: TrajectoryStore) -> None:
        seen = set()
        with DoubleBufferStreamer(source_of(store)) as streamer:
            for _ in range(200):
                seen.add(streamer.next_window()["qpos"].unsafe_buffer_pointer())
        assert len(seen) < 30

    def test_a_gather_never_writes_over_a_live_device_array(self, store: TrajectoryStore) -> None:
        array = jax.device_put(store.gather(np.arange(20), ["qpos"])["qpos"])
        before = np.array(array, copy=True)
        for _ in range(50):
            store.gather(np.arange(20, 40), ["qpos"])
        np.testing.assert_array_equal(np.asarray(array), before)


def test_memory_stays_bounded_over_a_hundred_thousand_windows(store: TrajectoryStore) -> None:
    source = WindowSource(store, ["qpos"], 4, [0, 1, 4, 5])
    kept = []
    with DoubleBufferStreamer(source) as streamer:
        for n in range(100_000):
            window = streamer.next_window()
            if n % 1000 == 0:
                kept = [*kept[-7:], window]
            if n == 10_000:
                gc.collect()
                before = anonymous_bytes()
        assert anonymous_bytes() - before < 8 << 20
    assert streamer.stats.delivered == 100_000


def anonymous_bytes() -> int:
    """This process's resident memory that no file backs."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc to see the memory of this process")
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024
