"""Where a recording lies: in a store that grows, or in a temporary directory of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iltools_datasets import _core
from iltools_datasets._base.files import Maker, bytes_below
from iltools_datasets.errors import ArgumentError, IltoolsError, StoreExistsError, StoreNotFoundError
from iltools_datasets.store.trajectory_store import TrajectoryStore

PUBLISH_SECONDS = 5.0
"""What is over is published at the latest after so long, or after so many bytes of columns."""
PUBLISH_BYTES = 256 << 20


class Place:
    """A directory for a recording, and of the store that grows out of it unless it is a temporary one."""

    def __init__(
        self, directory: str | os.PathLike[str] | None, overwrite: bool, resume: bool, attributes: str
    ) -> None:
        self._attributes = attributes
        self._writer: _core.StoreWriter | None = None
        self._release: Callable[[], Any]
        self.grows = directory is not None
        """Whether there is a store all along."""
        if directory is None:
            if resume:
                raise ArgumentError("resume=True needs the directory of the recording")
            self.directory = Path(tempfile.mkdtemp(prefix="iltools-recording-"))
            self._release = weakref.finalize(self, Maker().remove_tree, self.directory)
            return
        self.directory = Path(directory)
        if not resume:
            self._take(overwrite)

    def _take(self, overwrite: bool) -> None:
        try:
            self._writer = _core.StoreWriter(str(self.directory), overwrite, self._attributes)
        except StoreExistsError as error:
            if self._grows_already():
                raise StoreExistsError(
                    f"{self.directory}: an unfinished recording is here; resume=True goes on with it, overwrite=True "
                    "replaces it"
                ) from error
            raise
        self._release = weakref.finalize(self, _core.StoreWriter.abort, self._writer)

    def _grows_already(self) -> bool:
        try:
            return TrajectoryStore.open(self.directory).is_growing
        except IltoolsError:  # a damaged store is there, too
            return False

    def begin(self, layout: str) -> _core.Recorder:
        """Begin a recording here."""
        if self._writer is None:
            return _core.Recorder.begin(str(self.directory / "journal"), layout)
        recorder = _core.Recorder.grow(self._writer, layout, PUBLISH_SECONDS, PUBLISH_BYTES)
        # What is published stays, whoever forgets the collector; the recorder's thread has the lock, and lets go of it.
        if isinstance(self._release, weakref.finalize):
            self._release.detach()
        self._writer, self._release = None, lambda: None
        return recorder

    def unfinished_layout(self) -> str:
        """Return the layout of the recording that is here and not finished; nothing is changed.

        Raises `StoreNotFoundError` if there is none.
        """
        nothing = f"{self.directory}: no unfinished recording is here"
        try:
            store = TrajectoryStore.open(self.directory)
        except StoreNotFoundError as error:
            raise StoreNotFoundError(nothing) from error
        layout = store.data_dir / "journal" / "layout.json"
        if not store.is_growing or not layout.exists():
            raise StoreNotFoundError(f"{nothing}: the store is finished")
        return layout.read_text()

    def resume(self, has_attributes: bool) -> _core.Recorder:
        """Go on with the recording that is here."""
        attributes = self._attributes if has_attributes else None
        self._release = lambda: None
        return _core.Recorder.resume(str(self.directory), attributes, PUBLISH_SECONDS, PUBLISH_BYTES)

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of all files: the journal's, and those of the store."""
        return bytes_below(self.directory)

    def clear(self, recorder: _core.Recorder | None) -> None:
        """Remove what was recorded; the place stays."""
        if not self.grows:
            shutil.rmtree(self.directory / "journal", ignore_errors=True)
        elif recorder is not None:
            recorder.discard()
            self._take(overwrite=False)

    def remove(self) -> None:
        """Let go of the place, and remove what is no store in it."""
        self._release()
