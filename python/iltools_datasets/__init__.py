"""Expert motion for imitation learning, from raw files to batches at the speed of memory.

Importing this package loads neither torch nor jax; names are resolved on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iltools_datasets._base.worker_processes import use_one_thread_in_workers

if TYPE_CHECKING:
    from iltools_datasets._core import num_threads, set_num_threads
    from iltools_datasets.store.builder import StoreBuilder
    from iltools_datasets.store.maintenance import Damage, repair_store, verify_store
    from iltools_datasets.store.segments import EnvAssignment, Segment, Segments
    from iltools_datasets.store.trajectory_store import TrajectoryStore

_HOMES = {
    "Damage": "store.maintenance",
    "EnvAssignment": "store.segments",
    "Segment": "store.segments",
    "Segments": "store.segments",
    "StoreBuilder": "store.builder",
    "TrajectoryStore": "store.trajectory_store",
    "num_threads": "_core",
    "repair_store": "store.maintenance",
    "set_num_threads": "_core",
    "verify_store": "store.maintenance",
}

__all__ = [
    "Damage",
    "EnvAssignment",
    "Segment",
    "Segments",
    "StoreBuilder",
    "TrajectoryStore",
    "__version__",
    "num_threads",
    "repair_store",
    "set_num_threads",
    "verify_store",
]

use_one_thread_in_workers()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from iltools_datasets._core import __version__

        return __version__
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
