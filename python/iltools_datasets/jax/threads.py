"""What a thread needs that puts arrays on a device for another one: that one's settings, and an end before JAX's."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax

from iltools_datasets._base.prefetch import join_ending

_JOIN_AT_EXIT_SECONDS = 1.0


class ThreadSettings(NamedTuple):
    """JAX's settings that hold for one thread and decide where and how arrays are put."""

    device: Any
    enable_x64: bool

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Let this thread put as the one that they were taken from."""
        with jax.default_device(self.device), jax.enable_x64(self.enable_x64):
            yield


def thread_settings() -> ThreadSettings:
    """Return the settings of the calling thread."""
    return ThreadSettings(jax.config.jax_default_device, jax.config.jax_enable_x64)


class Stoppable(Protocol):
    """Something with threads of its own."""

    def request_stop(self) -> None:
        """Tell the threads to end, without waiting for it."""

    def join(self, timeout: float) -> bool:
        """Wait for their end."""


_running: weakref.WeakSet[Stoppable] = weakref.WeakSet()


def stop_at_exit(running: Stoppable) -> None:
    """End these threads before the interpreter does, if they are still there then."""
    _running.add(running)


@atexit.register  # after JAX's own, hence run before it: no thread may put while JAX shuts down
def _stop_all() -> None:
    stoppables = list(_running)
    for stoppable in stoppables:
        stoppable.request_stop()
    for stoppable in stoppables:
        stoppable.join(_JOIN_AT_EXIT_SECONDS)
    # Nobody is left who would wait for forgotten ones; a thread that is in JAX when the interpreter goes aborts it.
    join_ending(_JOIN_AT_EXIT_SECONDS)
