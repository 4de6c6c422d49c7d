"""What a streamer promises to its taker: order, fixed shapes, errors in their place, and no hang."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs the jax extra")
import jax.numpy as jnp  # noqa: E402
import jax_cases  # noqa: E402, F401  # asks for several devices
from iltools_datasets.errors import (  # noqa: E402
    SchemaError,
    StateError,
    StreamEndedError,
    StreamError,
    StreamTimeoutError,
)
from iltools_datasets.jax_stream import DoubleBufferStreamer  # noqa: E402

pytestmark = pytest.mark.jax


class Counter:
    """Windows that hold their number."""

    def __init__(self, last: int | None = None) -> None:
        self.count = 0
        self.last = last

    def __call__(self) -> dict[str, Any]:
        if self.count == self.last:
            raise StopIteration
        self.count += 1
        return {"a": np.full((2, 3), self.count - 1, np.float32), "b": {"c": np.full(2, self.count - 1)}}


class Rewindable(Counter):
    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state["count"] < 0:
            raise StateError("count is negative")
        self.count = state["count"]


class Blocked:
    """Blocks in its second call until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.blocks = threading.Event()
        self.let_go = threading.Event()

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        if self.calls == 2:
            self.blocks.set()
            self.let_go.wait()
        return {"a": np.zeros(2)}


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    source = Blocked()
    yield source
    source.let_go.set()


class Cancellable(Blocked):
    def cancel(self) -> None:
        self.let_go.set()


def numbers(streamer: DoubleBufferStreamer, count: int) -> list[float]:
    return [float(streamer.next_window()["a"][0, 0]) for _ in range(count)]


def sequence(*windows: Any) -> Callable[[], Any]:
    """Return, one after the other, windows; raise those that are errors."""
    left = iter(windows)

    def fetch() -> Any:
        window = next(left)
        if isinstance(window, BaseException):
            raise window
        return window

    return fetch


class TestWindows:
    def test_come_in_order_with_their_structure(self) -> None:
        with DoubleBufferStreamer(Counter()) as streamer:
            for n in range(20):
                window = streamer.next_window()
                assert window["a"].shape == (2, 3)
                assert isinstance(window["a"], jax.Array)
                np.testing.assert_array_equal(window["a"], n)
                np.testing.assert_array_equal(window["b"]["c"], n)

    def test_are_made_ahead_and_no_further_than_depth(self) -> None:
        source = Counter()
        called = threading.Semaphore(0)

        def fetch() -> Any:
            window = source()
            called.release()
            return window

        with DoubleBufferStreamer(fetch, depth=3) as streamer:
            for _ in range(3):
                assert called.acquire(timeout=30)
            assert not called.acquire(blocking=False)
            assert source.count == 3
            streamer.next_window()
            assert called.acquire(timeout=30)
            assert source.count == 4

    def test_go_where_they_are_sent(self) -> None:
        device = jax.devices()[-1]
        with DoubleBufferStreamer(Counter(), device) as streamer:
            assert streamer.next_window()["a"].devices() == {device}

    def test_default_device_of_the_starting_thread_counts(self) -> None:
        device = jax.devices()[-1]
        with jax.default_device(device), DoubleBufferStreamer(Counter()) as streamer:
            window = streamer.next_window()
        assert window["a"].devices() == {device}
        assert not window["a"].committed

    def test_floats_are_cast_and_others_are_not(self) -> None:
        with DoubleBufferStreamer(lambda: {"x": np.full(2, 0.1), "n": np.arange(2)}, dtype=jnp.bfloat16) as streamer:
            window = streamer.next_window()
        assert window["x"].dtype == jnp.bfloat16
        assert window["n"].dtype == jnp.int32
        np.testing.assert_array_equal(window["x"], np.full(2, 0.1).astype(jnp.bfloat16))

    def test_64_bits_if_jax_has_them(self) -> None:
        with jax.enable_x64(True), DoubleBufferStreamer(lambda: {"n": np.array([2**40]), "x": np.ones(1)}) as streamer:
            window = streamer.next_window()
            assert window["n"].dtype == np.int64
            assert window["x"].dtype == np.float64
            assert int(window["n"][0]) == 2**40

    @pytest.mark.parametrize(
        "array",
        [
            np.asfortranarray(np.arange(12.0, dtype=np.float32).reshape(3, 4)),
            np.arange(24, dtype=np.int32)[::2],
            np.arange(8, dtype=np.int16)[1:],
            np.array([True, False]),
            np.zeros((0, 3), np.float32),
            np.zeros((3, 0), np.float32),
            np.float32(2.5),
            np.arange(3, dtype=">f4"),
        ],
        ids=["fortran", "strided", "unaligned", "bool", "empty", "no width", "scalar", "big-endian"],
    )
    @pytest.mark.parametrize("leased", [False, True])
    def test_any_array_arrives_unchanged(self, array: np.ndarray, leased: bool) -> None:
        def fetch() -> Any:
            return {"x": array}

        fetch.leases_buffers = leased  # type: ignore[attr-defined]
        with DoubleBufferStreamer(fetch) as streamer:
            window = streamer.next_window()
        np.testing.assert_array_equal(window["x"], array)
        assert window["x"].shape == array.shape

    def test_iteration_ends_with_the_source(self) -> None:
        streamer = DoubleBufferStreamer(Counter(last=7))
        assert [int(window["a"][0, 0]) for window in streamer] == list(range(7))
        with pytest.raises(StreamEndedError):
            streamer.next_window()
        assert list(streamer) == []
        assert streamer.stop()

    def test_several_takers_share_the_windows(self) -> None:
        taken: list[float] = []
        with DoubleBufferStreamer(Counter(last=200)) as streamer:

            def take() -> None:
                taken.extend(float(window["a"][0, 0]) for window in streamer)

            threads = [threading.Thread(target=take) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert sorted(taken) == list(range(200))

    def test_statistics(self) -> None:
        with DoubleBufferStreamer(Counter(), depth=3) as streamer:
            numbers(streamer, 5)
            stats = streamer.stats
        assert (stats.depth, stats.delivered) == (3, 5)
        assert 0 < stats.longest_wait <= stats.waited
        assert min(stats.fetching, stats.putting) > 0
        assert 0 <= stats.num_ready <= 3


class TestErrors:
    def test_an_error_arrives_after_the_windows_before_it(self) -> None:
        error = OSError("disk on fire")
        with DoubleBufferStreamer(sequence({"a": np.zeros(2)}, {"a": np.ones(2)}, error)) as streamer:
            assert [float(streamer.next_window()["a"][0]) for _ in range(2)] == [0, 1]
            with pytest.raises(OSError, match="on fire") as raised:
                streamer.next_window()
            assert raised.value is error
            with pytest.raises(StreamError, match="on fire") as later:
                streamer.next_window()
            assert later.value.__cause__ is error

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
    def test_even_one_that_ends_threads(self, error: BaseException) -> None:
        with DoubleBufferStreamer(sequence(error)) as streamer, pytest.raises(type(error)):
            streamer.next_window()

    def test_after_an_error_it_can_be_started_again(self) -> None:
        with DoubleBufferStreamer(sequence({"a": np.zeros(2)}, OSError("gone"), {"a": np.ones(2)})) as streamer:
            streamer.next_window()
            with pytest.raises(OSError, match="gone"):
                streamer.next_window()
            streamer.start()
            assert float(streamer.next_window()["a"][0]) == 1

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            ({"a": np.zeros((2, 4), np.float32)}, r"window 1: a: expected float32 \[2, 3\].*found float32 \[2, 4\]"),
            ({"a": np.zeros((2, 3), np.int32)}, r"window 1: a: expected float32.*found int32"),
            ({"b": np.zeros((2, 3), np.float32)}, r"window 1: expected the keys \['a'\], found \['b'\]"),
            ({}, r"window 1: expected the keys"),
            ([np.zeros((2, 3), np.float32)], r"window 1: expected the keys"),
        ],
    )
    def test_windows_that_change(self, second: Any, message: str) -> None:
        with DoubleBufferStreamer(sequence({"a": np.zeros((2, 3), np.float32)}, second)) as streamer:
            streamer.next_window()
            with pytest.raises(SchemaError, match=message):
                streamer.next_window()

    def test_containers_that_change(self) -> None:
        with DoubleBufferStreamer(sequence((np.zeros(2),), [np.zeros(2)])) as streamer:
            streamer.next_window()
            with pytest.raises(SchemaError, match="containers"):
                streamer.next_window()

    @pytest.mark.parametrize(
        ("window", "message"),
        [
            ({}, "holds no arrays"),
            (None, "holds no arrays"),
            ({"a": np.array([object()])}, "window 0: a: expected numbers"),
            ({"a": np.array(["text"])}, "a"),
            ({"a": np.zeros(2), ("next", "a"): np.zeros(2)}, "window 0: no pytree"),
            ({"a": np.array([2**31])}, "a: 2147483648 does not fit int32"),
            ({"a": np.array([1e300])}, "a: a value of float64 does not fit float32"),
        ],
    )
    def test_windows_no_device_can_hold(self, window: Any, message: str) -> None:
        with DoubleBufferStreamer(lambda: window) as streamer, pytest.raises(SchemaError, match=message):
            streamer.next_window()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"depth": 0},
            {"dtype": np.int32},
            {"layout": "rows"},
            {"device": "cpu", "layout": "pmap"},
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(SchemaError):
            DoubleBufferStreamer(Counter(), **arguments)

    def test_what_cannot_be_called(self) -> None:
        with pytest.raises(SchemaError, match="callable"):
            DoubleBufferStreamer({"a": 1})  # type: ignore[arg-type]


class TestStopping:
    def test_before_start_and_after_stop(self) -> None:
        streamer = DoubleBufferStreamer(Counter())
        with pytest.raises(StreamError, match="not been started"):
            streamer.next_window()
        assert streamer.stop()
        streamer.start()
        streamer.start()
        streamer.next_window()
        assert streamer.stop()
        assert streamer.stop()
        for _ in range(2):
            with pytest.raises(StreamError, match="stopped"):
                streamer.next_window()
        streamer.start()
        assert streamer.next_window()["a"].shape == (2, 3)
        streamer.stop()

    def test_with_a_full_queue(self) -> None:
        called = threading.Semaphore(0)

        def fetch() -> Any:
            called.release()
            return {"a": np.zeros(2)}

        streamer = DoubleBufferStreamer(fetch)
        streamer.start()
        for _ in range(2):
            assert called.acquire(timeout=30)
        assert streamer.stop()
        assert not any(thread.name == "iltools-windows" for thread in threading.enumerate())

    def test_a_blocked_source_is_left_behind(self, blocked: Blocked) -> None:
        streamer = DoubleBufferStreamer(blocked)
        streamer.start()
        streamer.next_window()
        assert blocked.blocks.wait(30)
        assert not streamer.stop(timeout=0.05)
        with pytest.raises(StreamError, match="stopped"):
            streamer.next_window()
        with pytest.raises(StreamError, match="still in the call"):
            streamer.start()
        blocked.let_go.set()
        assert streamer.stop()
        streamer.start()
        assert streamer.next_window()["a"].shape == (2,)
        assert streamer.stop()

    def test_a_source_that_can_be_cancelled_is(self) -> None:
        source = Cancellable()
        streamer = DoubleBufferStreamer(source)
        streamer.start()
        assert source.blocks.wait(30)
        assert streamer.stop(timeout=30)

    def test_a_blocked_source_is_an_error_in_time(self, blocked: Blocked) -> None:
        with DoubleBufferStreamer(blocked, timeout=0.05) as streamer:
            streamer.next_window(timeout=30)
            with pytest.raises(StreamTimeoutError, match=r"0\.05 s"):
                streamer.next_window()
            blocked.let_go.set()
            assert streamer.next_window(timeout=30)["a"].shape == (2,)

    def test_a_taker_that_waits_is_woken(self, blocked: Blocked) -> None:
        streamer = DoubleBufferStreamer(blocked, timeout=None)
        streamer.start()
        streamer.next_window()
        outcome: list[BaseException] = []

        def wait() -> None:
            try:
                streamer.next_window()
            except BaseException as error:
                outcome.append(error)

        taker = threading.Thread(target=wait)
        taker.start()
        assert blocked.blocks.wait(30)
        streamer.stop(timeout=0)
        taker.join(30)
        assert isinstance(outcome[0], StreamError)

    def test_the_source_may_stop_its_streamer(self) -> None:
        def fetch() -> Any:
            streamer.stop()
            return {"a": np.zeros(2)}

        streamer = DoubleBufferStreamer(fetch)
        streamer.start()
        with pytest.raises(StreamError):
            streamer.next_window(timeout=30)
        assert streamer.stop()

    def test_a_forgotten_streamer_ends_its_thread(self) -> None:
        streamer = DoubleBufferStreamer(Counter())
        streamer.start()
        streamer.next_window()
        thread = next(thread for thread in threading.enumerate() if thread.name == "iltools-windows")
        gone = weakref.ref(streamer)
        del streamer
        gc.collect()
        assert gone() is None
        thread.join(30)
        assert not thread.is_alive()

    def test_what_was_made_and_not_taken_is_released(self) -> None:
        made: list[weakref.ref[np.ndarray]] = []

        def fetch() -> Any:
            array = np.zeros(4096, np.float32)
            made.append(weakref.ref(array))
            return {"a": array}

        streamer = DoubleBufferStreamer(fetch)
        streamer.start()
        streamer.next_window()
        streamer.stop()
        gc.collect()
        assert all(array() is None for array in made)


class TestState:
    def test_is_that_of_the_last_window_taken(self) -> None:
        with DoubleBufferStreamer(Rewindable(), depth=4) as streamer:
            assert streamer.state_dict() == {"source": {"count": 0}}
            numbers(streamer, 3)
            assert streamer.state_dict() == {"source": {"count": 3}}
            state = streamer.state_dict()
            ahead = numbers(streamer, 5)
        source = Rewindable()
        with DoubleBufferStreamer(source) as resumed:
            numbers(resumed, 1)
            resumed.load_state_dict(state)
            assert numbers(resumed, 5) == ahead
        fresh = DoubleBufferStreamer(Rewindable())
        fresh.load_state_dict(state)
        assert fresh.state_dict() == state
        fresh.start()
        assert numbers(fresh, 5) == ahead
        fresh.stop()

    def test_stop_loses_nothing(self) -> None:
        source = Rewindable()
        streamer = DoubleBufferStreamer(source, depth=4)
        seen = []
        for _ in range(5):
            streamer.start()
            seen += numbers(streamer, 3)
            streamer.stop()
            assert source.count == len(seen)
        assert seen == list(range(15))

    def test_a_change_shows_in_the_next_window(self) -> None:
        with DoubleBufferStreamer(Rewindable(), depth=4) as streamer:
            assert numbers(streamer, 3) == [0, 1, 2]
            with streamer.rewind() as source:
                assert source.count == 3
                source.count = 100
            assert numbers(streamer, 3) == [100, 101, 102]
        with streamer.rewind() as source:
            source.count = 7
        streamer.start()
        assert numbers(streamer, 2) == [7, 8]
        streamer.stop()

    def test_a_refused_state_changes_nothing(self) -> None:
        with DoubleBufferStreamer(Rewindable()) as streamer:
            numbers(streamer, 2)
            for state in ({"source": {"count": -1}}, {}, {"source": {}, "more": 1}, [1]):
                with pytest.raises(StateError):
                    streamer.load_state_dict(state)  # type: ignore[arg-type]
            assert numbers(streamer, 2) == [2, 3]

    def test_a_source_without_state_says_so(self) -> None:
        with DoubleBufferStreamer(Counter()) as streamer:
            with pytest.raises(StreamError, match="no state"):
                streamer.state_dict()
            with pytest.raises(StreamError, match="cannot be rewound"), streamer.rewind():
                pass
