"""Where a recording lies: within a store's directory, or in a temporary one of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iltools_datasets.errors import ArgumentError, StoreExistsError, StoreNotFoundError
from iltools_datasets.store.builder import StoreBuilder

_RECORDING = ".recording"


class Place:
    """A directory for a recording. Within a store's, `builder` holds its build lock and builds it in the end."""

    def __init__(self, directory: str | os.PathLike[str] | None, overwrite: bool, resume: bool) -> None:
        self.builder: StoreBuilder | None = None
        if directory is None:
            if resume:
                raise ArgumentError("resume=True needs the directory of the recording")
            self.directory = Path(tempfile.mkdtemp(prefix="iltools-recording-"))
            self._remove: Callable[[], Any] = weakref.finalize(self, _remove_own, self.directory, os.getpid())
            self.recording = self.directory
            return
        self.directory = Path(directory)
        self.recording = self.directory / _RECORDING
        there = self.recording.exists()
        if resume and not there:
            raise StoreNotFoundError(f"{self.directory}: no unfinished recording is here")
        if there and not resume and not overwrite:
            raise StoreExistsError(f"{self.directory}: an unfinished recording is here; resume=True goes on with it")
        self.builder = StoreBuilder(self.directory, overwrite=overwrite)
        self._remove = weakref.finalize(self, StoreBuilder.abort, self.builder)
        if there and not resume:
            shutil.rmtree(self.recording)

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the journal."""
        return sum(file.stat().st_size for file in self.recording.rglob("*") if file.is_file())

    def drop_recording(self) -> None:
        """Remove what was recorded; the place stays."""
        shutil.rmtree(self.recording / "journal", ignore_errors=True)
        (self.recording / "recording.json").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the recording, and the lock."""
        shutil.rmtree(self.recording, ignore_errors=True)
        self._remove()


def _remove_own(directory: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(directory, ignore_errors=True)
