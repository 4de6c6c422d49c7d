"""What a forked child must not go on with: locks that another thread held, and threads that are not there."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewed(Protocol):
    """Holds locks or threads."""

    def renew(self) -> None:
        """Replace the locks, forget the threads and whatever they were in the middle of."""


_living: weakref.WeakSet[Renewed] = weakref.WeakSet()


def renew_in_child(thing: Renewed) -> None:
    """Have `thing.renew()` called in every child that is forked from now on, as long as the thing lives.

    The child calls it before anything else, so no method of the thing has to ask which process it is in.
    """
    _living.add(thing)


def _renew_all() -> None:
    for thing in list(_living):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
