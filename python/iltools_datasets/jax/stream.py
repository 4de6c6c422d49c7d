"""Windows on the device before the step asks for them."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.prefetch import Prefetcher
from iltools_datasets.errors import SchemaError, StateError, StreamEndedError, StreamError

try:
    import jax
    from jax.sharding import Sharding
except ImportError as error:
    raise missing_extra("jax", "iltools_datasets.jax_stream") from error

from iltools_datasets.jax.placement import Layout, Placement
from iltools_datasets.jax.threads import stop_at_exit, thread_settings

__all__ = ["DoubleBufferStreamer", "StreamStats"]

_JOIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What a streamer has done since it was made; times in seconds."""

    depth: int
    """Windows that are ready or in the making, at most."""
    num_ready: int
    """Windows that could be taken now without a wait."""
    delivered: int
    """Windows taken."""
    waited: float
    """Time that takers spent waiting."""
    longest_wait: float
    """Longest of these waits; usually the first."""
    fetching: float
    """Time the source took for the windows delivered."""
    putting: float
    """Time their way to the device took, as far as it is not left to the device itself."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A window on the device, and how its source stood when it had been made."""

    window: Any
    source_state: Any
    fetching: float
    putting: float


class DoubleBufferStreamer:
    """Calls `window_fn` in a thread and puts its windows on the device, while the step computes on an earlier one.

    Args:
        window_fn: returns the next window, a dict or another pytree of numpy arrays, each `[num_envs, ...]`. Structure,
            shapes and dtypes must stay those of the first window, so that a jitted step is compiled once. It runs in
            another thread, one call at a time. StopIteration ends the stream.
        device: where windows go; None = JAX's default device.
        sharding: instead of a device, how the first axis is spread over several.
        depth: windows that are ready or in the making at any time, at most; the taker holds others in addition.
        dtype: floating dtype for all floating arrays; None = as they come.
        layout: `"global"` for jit, `"pmap"` for arrays `[D, num_envs / D, ...]` as pmap takes them.
        timeout: seconds that `next_window` waits before `StreamTimeoutError`; None = as long as it takes.

    What `window_fn` may do besides:
        It may use its arrays again: they are copied before its next call. If it has an attribute `leases_buffers` that
        is True, it promises never to write to an array it returned, and nothing is copied that the device can use as
        it is (on CPU, C-contiguous arrays that begin at a multiple of 64 bytes).
        With an attribute `num_envs` the constructor can tell whether the batch can be spread over the devices. With
        `state_dict()` and `load_state_dict(state)` the stream can be saved and rewound, and `stop` rewinds it to what
        was taken; without them, windows that were made and not taken are lost then. `cancel()` is called by `stop`
        to get a blocked call to return.

    Raises:
        SchemaError: bad arguments, or `num_envs` cannot be spread evenly over the devices.

    Examples:
        >>> source = WindowSource(TrajectoryStore.open("walks"), ["qpos"], 8, env_to_traj=[0, 1, 2])
        >>> with DoubleBufferStreamer(source) as streamer:
        ...     for _ in range(2):
        ...         print(streamer.next_window()["qpos"].shape)
        (3, 8, 7)
        (3, 8, 7)
    """

    def __init__(
        self,
        window_fn: Callable[[], Any],
        device: jax.Device | None = None,
        *,
        sharding: Sharding | None = None,
        depth: int = 2,
        dtype: DTypeLike | None = None,
        layout: Layout = "global",
        timeout: float | None = 60.0,
    ) -> None:
        if not callable(window_fn):
            raise SchemaError(f"window_fn must be callable, found {type(window_fn).__name__}")
        if depth < 1:
            raise SchemaError(f"depth is {depth}; at least one window must be in the making")
        placement = Placement(device, sharding, layout, dtype)
        num_envs = getattr(window_fn, "num_envs", None)
        if num_envs is not None:
            placement.check("num_envs", (num_envs,))
        self.depth = depth
        self.timeout = timeout
        self._source = window_fn
        self._can_rewind = all(callable(getattr(window_fn, name, None)) for name in ("state_dict", "load_state_dict"))
        self._maker = _WindowMaker(window_fn, placement, self._can_rewind)
        self._prefetcher: Prefetcher[_Made] | None = None
        self._control = threading.RLock()
        self._taking = threading.RLock()
        self._taken_state: Any = None
        self._settled = True
        self._delivered = 0
        self._waited = self._longest_wait = self._fetching = self._putting = 0.0

    def start(self) -> None:
        """Begin to make windows; does nothing while running.

        Raises:
            StreamError: stopped before, and the source has still not returned from the call it was in.
        """
        with self._control:
            if self._prefetcher is not None and self._prefetcher.is_open:
                return
            if not self._settle(_JOIN_SECONDS):
                raise StreamError("the source is still in the call during which the stream was stopped")
            if self._can_rewind:
                self._taken_state = self._source.state_dict()  # type: ignore[attr-defined]
            self._prefetcher = Prefetcher(self._maker, self.depth, "iltools-windows", thread_settings().hold)
            stop_at_exit(self._prefetcher)
            # The thread must not keep a forgotten streamer alive, nor outlive it.
            self._forgotten = weakref.finalize(self, self._prefetcher.request_stop)
            self._forgotten.atexit = False
            self._settled = False

    def next_window(self, timeout: float | None = None) -> Any:
        """Return the next window, as `window_fn` returned it but with device arrays.

        The device may not have finished with it yet; a computation on it waits by itself.

        Args:
            timeout: seconds to wait; None = that of the constructor.

        Raises:
            StreamError: not started, or stopped.
            StreamTimeoutError: no window came in time. The next call may get it.
            StreamEndedError: the source raised StopIteration.
            SchemaError: keys, shapes or dtypes differ from the first window's, or cannot be put on the devices.
            Exception: whatever the source raised, after the windows it had returned before. Later calls raise
                `StreamError`, until `start` is called.
        """
        prefetcher = self._prefetcher
        if prefetcher is None:
            raise StreamError("the stream has not been started; call start() or use it in a with statement")
        with self._taking:
            began = time.perf_counter()
            try:
                made = prefetcher.take(self.timeout if timeout is None else timeout)
            finally:
                waited = time.perf_counter() - began
                self._waited += waited
                self._longest_wait = max(self._longest_wait, waited)
            self._taken_state = made.source_state
            self._delivered += 1
            self._fetching += made.fetching
            self._putting += made.putting
        return made.window

    def stop(self, timeout: float = _JOIN_SECONDS) -> bool:
        """Stop making windows and drop those that were not taken; `start` begins again.

        A source that can be rewound then stands where the last window taken left it. Whoever waits for a window gets
        `StreamError`.

        Args:
            timeout: seconds to wait for the source to return from the call it is in.

        Returns:
            Whether it did. If not, its thread is left behind and can do no harm; `start` refuses while it is there.
        """
        with self._control:
            return self._settle(timeout)

    @contextlib.contextmanager
    def rewind(self) -> Iterator[Any]:
        """Give the source, standing behind the last window taken, to be changed; the next window will show it.

        Windows that were made ahead are dropped. A change made to the source outside of this only shows in windows
        that have not been made yet.

        Raises:
            StreamError: the source cannot be rewound, or does not return from the call it is in.

        Examples:
            >>> source = WindowSource(TrajectoryStore.open("walks"), ["qpos"], 8, env_to_traj=[0, 1, 2])
            >>> streamer = DoubleBufferStreamer(source)
            >>> with streamer.rewind() as source:
            ...     source.update_references(env_to_traj={1: 0}, env_to_step={1: 20})
            >>> source.env_steps
            array([ 0, 20,  0])
        """
        if not self._can_rewind:
            raise StreamError("the source cannot be rewound: it needs state_dict() and load_state_dict(state)")
        with self._control:
            was_running = self._prefetcher is not None and self._prefetcher.is_open
            if not self.stop():
                raise StreamError("the source does not return from the call it is in")
            try:
                yield self._source
            finally:
                if was_running:
                    self.start()

    def state_dict(self) -> dict[str, Any]:
        """Return how the source stood after the last window that was taken, however many were made ahead.

        Raises `StreamError` if the source has no state.
        """
        if not self._can_rewind:
            raise StreamError("the source has no state to save: it needs state_dict() and load_state_dict(state)")
        with self._taking:
            return {"source": self._source.state_dict() if self._settled else self._taken_state}  # type: ignore[attr-defined]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; a running stream keeps running, and its next window is the one after it.

        Raises `StateError` if this is no such state or the source refuses it; nothing has changed then.
        """
        if not isinstance(state, Mapping) or set(state) != {"source"}:
            raise StateError("expected the state of a DoubleBufferStreamer, a mapping with the key 'source'")
        with self.rewind() as source:
            source.load_state_dict(state["source"])

    @property
    def stats(self) -> StreamStats:
        """Counts and times since the streamer was made."""
        prefetcher = self._prefetcher
        return StreamStats(
            depth=self.depth,
            num_ready=0 if prefetcher is None else prefetcher.num_ready,
            delivered=self._delivered,
            waited=self._waited,
            longest_wait=self._longest_wait,
            fetching=self._fetching,
            putting=self._putting,
        )

    def _settle(self, timeout: float) -> bool:
        """End the thread and put the source back; return whether the thread has ended."""
        prefetcher = self._prefetcher
        if prefetcher is None or self._settled:
            return True
        # Flag, wake, cancel, join: in another order one of them waits for ever.
        prefetcher.request_stop()
        cancel = getattr(self._source, "cancel", None)
        if prefetcher.is_working and callable(cancel):
            cancel()
        if not prefetcher.join(timeout):
            return False
        if self._can_rewind:
            with self._taking:
                self._source.load_state_dict(self._taken_state)  # type: ignore[attr-defined]
        self._forgotten.detach()
        self._settled = True
        return True

    def __iter__(self) -> Iterator[Any]:
        if self._prefetcher is None:
            self.start()
        return self

    def __next__(self) -> Any:
        try:
            return self.next_window()
        except StreamEndedError:
            raise StopIteration from None

    def __enter__(self) -> DoubleBufferStreamer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _WindowMaker:
    """Makes one window: fetches it, checks that it looks as the first one did, puts it on the device."""

    def __init__(self, window_fn: Callable[[], Any], placement: Placement, keep_state: bool) -> None:
        self._window_fn = window_fn
        self._placement = placement
        self._keep_state = keep_state
        self._leased = getattr(window_fn, "leases_buffers", False) is True
        self._structure: Any = None
        self._specs: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        self._names: list[str] = []
        self._made = 0

    def __call__(self) -> _Made:
        began = time.perf_counter()
        window = self._window_fn()
        state = self._window_fn.state_dict() if self._keep_state else None  # type: ignore[attr-defined]
        fetched = time.perf_counter()
        try:
            leaves, structure = jax.tree_util.tree_flatten(window)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"window {self._made}: no pytree: {error}") from error
        arrays = [np.asarray(leaf) for leaf in leaves]
        specs = [(array.shape, array.dtype) for array in arrays]
        if self._structure is None:
            self._learn(window, structure, arrays)
        elif structure != self._structure or specs != self._specs:
            self._complain(window, specs)
        on_device = self._placement.put(self._names, arrays, self._leased)
        self._made += 1
        return _Made(
            jax.tree_util.tree_unflatten(structure, on_device), state, fetched - began, time.perf_counter() - fetched
        )

    def _learn(self, window: Any, structure: Any, arrays: list[NDArray[Any]]) -> None:
        names = _leaf_names(window)
        if not names:
            raise SchemaError("window 0 holds no arrays")
        for name, array in zip(names, arrays, strict=True):
            if array.dtype.hasobject:
                raise SchemaError(f"window 0: {name}: expected numbers, found dtype {array.dtype}")
            self._placement.check(name, array.shape)
        self._structure, self._names = structure, names
        self._specs = [(array.shape, array.dtype) for array in arrays]

    def _complain(self, window: Any, specs: list[tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        found = dict(zip(_leaf_names(window), specs, strict=True))
        expected = dict(zip(self._names, self._specs, strict=True))
        if found.keys() != expected.keys():
            raise SchemaError(f"window {self._made}: expected the keys {list(expected)}, found {list(found)}")
        for name, (shape, dtype) in expected.items():
            if found[name] != (shape, dtype):
                raise SchemaError(
                    f"window {self._made}: {name}: expected {dtype} {list(shape)} as in the first window, "
                    f"found {found[name][1]} {list(found[name][0])}"
                )
        raise SchemaError(f"window {self._made}: expected the containers of the first window, {self._structure}")


def _leaf_names(window: Any) -> list[str]:
    paths = jax.tree_util.tree_flatten_with_path(window)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") or "window" for path, _ in paths]
