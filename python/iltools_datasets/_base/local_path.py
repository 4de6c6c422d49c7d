"""A path of this machine, told from a URL: a directory called `s3:` is nobody's wish."""

from __future__ import annotations

import os
import re
from pathlib import Path

from iltools_datasets.errors import ArgumentError

# One slash is enough: `Path` makes one of two.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_FILE = re.compile(r"file:/+")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is the URL of something that is not on this machine."""
    text = os.fspath(path)
    return "://" in text and not _FILE.match(text)


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the path; that of a `file://` URL without the scheme. Raises ArgumentError for any other URL."""
    text = os.fspath(path)
    if _FILE.match(text):
        return Path(_FILE.sub("/", text, count=1))
    if _URL.match(text):
        scheme = text.partition(":")[0]
        raise ArgumentError(
            f"{text}: expected a directory or file of this machine, found a URL of {scheme}; work on a local path and "
            f"copy it there as it is, recursively (archives can be read from object storage and written there)"
        )
    return Path(path)
