"""Each test has a cache of its own; a test of LeRobot data needs the extra `data`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra data")
pytest.importorskip("av", reason="needs the extra data")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ILTOOLS_CACHE", str(path))
    return path
