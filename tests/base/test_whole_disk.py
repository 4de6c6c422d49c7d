"""What is done to whole trees: their bytes are counted, and they are brought to disk."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from iltools_datasets._base import files


def test_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    for number in range(40):
        place = tmp_path / f"{number % 3}" / f"{number % 5}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}").write_bytes(bytes(number))
    (tmp_path / "linked").symlink_to(tmp_path / "0")  # a directory: nothing of it counts twice
    (tmp_path / "again").symlink_to(tmp_path / "1" / "1" / "1")  # a file of one byte
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    assert files.bytes_below(tmp_path) == sum(range(40)) + 1
    assert files.bytes_below(tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("script", "calls"), [("exit 0", 0), ("exit 1", 1), (None, 1)], ids=["it works", "it fails", "there is none"]
)
def test_the_disk_is_waited_for_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, calls: int
) -> None:
    if script is not None:
        command = tmp_path / "sync"
        command.write_text(f"#!/bin/sh\necho called >> {tmp_path}/said\n{script}\n")
        command.chmod(0o755)
    here = []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "sync", lambda: here.append("sync"))
    files._sync_all()
    assert len(here) == calls
    assert (tmp_path / "said").exists() == (script is not None)


def test_a_process_that_is_not_told_how_its_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    here = []
    monkeypatch.setattr(os, "sync", lambda: here.append("sync"))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        files._sync_all()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert here == ["sync"]
