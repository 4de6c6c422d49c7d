"""Files replaced whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from iltools_datasets.errors import StateError


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of the one at `path` when the block ends well; an error leaves the old one.

    A kill leaves the old file or the new one, and after a crash of the machine it is one of them, too. The directory is
    made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    maker = os.getpid()
    temporary = path.with_name(f".{path.name}.{maker}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        # A forked child that leaves the block by an exception has no part in its parent's file.
        if os.getpid() == maker:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file at `path` in one step; its directory is made if it is missing."""
    with replaced_file(path) as file:
        file.write(json.dumps(content).encode())


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a crash of the machine."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """Return the content of a file written by `write_json`; `StateError` if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StateError(f"{path}: there is no saved state") from error
    except ValueError as error:
        raise StateError(f"{path}: damaged saved state: {error}") from error
