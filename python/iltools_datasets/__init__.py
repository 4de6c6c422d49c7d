"""Expert motion for imitation learning, from raw files to batches at the speed of memory.

Importing this package loads neither torch nor jax; names are resolved on first use.
"""

from typing import TYPE_CHECKING

from iltools_datasets._base.native import require_native

require_native()  # before what needs either

from iltools_datasets._base.lazy_names import names_on_first_use  # noqa: E402
from iltools_datasets._base.worker_processes import use_one_thread_in_workers  # noqa: E402

if TYPE_CHECKING:
    from iltools_datasets._core import __version__, num_threads, release_memory, set_num_threads
    from iltools_datasets.ingest.add_clips import add_clips
    from iltools_datasets.ingest.from_archive import build_store
    from iltools_datasets.jax.device_store import DeviceStore
    from iltools_datasets.store.builder import StoreBuilder
    from iltools_datasets.store.maintenance import Damage, repair_store, verify_store
    from iltools_datasets.store.segments import EnvAssignment, Segment, Segments
    from iltools_datasets.store.trajectory_store import TrajectoryStore
    from iltools_datasets.windows.source import WindowSource

_HOMES = {
    "Damage": "store.maintenance",
    "DeviceStore": "jax.device_store",
    "EnvAssignment": "store.segments",
    "Segment": "store.segments",
    "Segments": "store.segments",
    "StoreBuilder": "store.builder",
    "TrajectoryStore": "store.trajectory_store",
    "WindowSource": "windows.source",
    "__version__": "_core",
    "add_clips": "ingest.add_clips",
    "build_store": "ingest.from_archive",
    "num_threads": "_core",
    "release_memory": "_core",
    "repair_store": "store.maintenance",
    "set_num_threads": "_core",
    "verify_store": "store.maintenance",
}

__all__ = [
    "Damage",
    "DeviceStore",
    "EnvAssignment",
    "Segment",
    "Segments",
    "StoreBuilder",
    "TrajectoryStore",
    "WindowSource",
    "__version__",
    "add_clips",
    "build_store",
    "num_threads",
    "release_memory",
    "repair_store",
    "set_num_threads",
    "verify_store",
]

use_one_thread_in_workers()

__getattr__, __dir__ = names_on_first_use(__name__, _HOMES)
