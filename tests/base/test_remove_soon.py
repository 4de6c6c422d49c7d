"""Removing what somebody waits for: little of it here, the rest by a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from iltools_datasets._base.files import remove_soon


def tree(path: Path) -> Path:
    for number in range(40):
        directory = path / f"{number % 4}" / f"{number}"
        directory.mkdir(parents=True)
        (directory / "file").write_text("x")
    return path


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_all_of_it_goes_and_nothing_else(tmp_path: Path, seconds: float) -> None:
    other, path = tree(tmp_path / "other"), tree(tmp_path / "path")
    (path / "0" / "link").symlink_to(other)
    remove_soon(path, seconds)
    assert seconds == 0.0 or not path.exists()
    deadline = time.monotonic() + 30
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not path.exists()
    assert len(list(other.rglob("file"))) == 40
