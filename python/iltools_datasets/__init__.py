"""Expert motion for imitation learning, from raw files to batches at the speed of memory.

Importing this package loads neither torch nor jax; names are resolved on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iltools_datasets.segments import EnvAssignment, Segment, Segments
    from iltools_datasets.trajectory_store import StoreBuilder, TrajectoryStore

_HOMES = {
    "EnvAssignment": "segments",
    "Segment": "segments",
    "Segments": "segments",
    "StoreBuilder": "trajectory_store",
    "TrajectoryStore": "trajectory_store",
}

__all__ = ["EnvAssignment", "Segment", "Segments", "StoreBuilder", "TrajectoryStore", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from iltools_datasets._core import __version__

        return __version__
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
