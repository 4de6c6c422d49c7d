"""Each test has a cache of its own; the tests of LeRobot data are skipped where the extra `data` is missing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


def _is_missing(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return True
    return False


MISSING = [name for name in ("pyarrow", "av") if _is_missing(name)]


class _Skipped(pytest.Module):
    """A file that is not imported, as its helpers write parquet and video."""

    def collect(self) -> Any:
        pytest.skip(f"needs the extra data: there is no {' and no '.join(MISSING)}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    # Here, not above: what a conftest raises ends the run where its folder is named on the command line.
    return _Skipped.from_parent(parent, path=module_path) if MISSING else None


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ILTOOLS_CACHE", str(path))
    return path
