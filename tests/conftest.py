"""What all tests share: where the real data lies, and what Python may take for a package. Helpers are in `support`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent

# Before torch is loaded, here or in a process that a test begins. Its threads wait for each other by spinning: where
# other processes have the cores too, a roll-out of 0.2 s takes 12 s.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class NoFolderIsAPackage(PathFinder):
    """Does not take `tests/jax` for JAX where that is not installed: to Python any folder on its path is a package."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = super().find_spec(fullname, path, target)
        is_folder = spec is not None and spec.origin is None and list(spec.submodule_search_locations or ())
        return None if is_folder and path is None and (TESTS / fullname).is_dir() else spec


sys.meta_path = [NoFolderIsAPackage if finder is PathFinder else finder for finder in sys.meta_path]

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("default")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it skip where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests with JAX last: it starts threads, and other tests fork."""
    items.sort(key=lambda item: item.get_closest_marker("jax") is not None)
