"""Raw files of object storage, on this machine for as long as they are read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iltools_datasets._base.local_path import is_url, local_path
from iltools_datasets._base.object_storage import RemoteDirectory
from iltools_datasets.errors import IltoolsError, SourceNotFoundError


@dataclass(slots=True)
class Fetched:
    """Where files lie on this machine, and the URL of each copy."""

    places: list[Path] = field(default_factory=list)
    urls: dict[Path, str] = field(default_factory=dict)

    def in_urls(self, message: str) -> str:
        """Return a message with copies called by their URLs."""
        for copy, url in self.urls.items():
            message = message.replace(str(copy), url)
        return message


@contextmanager
def fetched(paths: Sequence[str | Path], options: Mapping[str, Any] | None = None) -> Iterator[Fetched]:
    """Yield paths of this machine; what lies at a URL is copied for the time being, under the last part of its name.

    An error that names a file of such a copy names its URL.

    Raises:
        SourceNotFoundError: there is nothing at a URL.
        StorageError: it cannot be read; ArgumentError and MissingExtraError as `RemoteDirectory`.
    """
    with tempfile.TemporaryDirectory(prefix="iltools-raw-") as scratch:
        found = Fetched()
        for number, path in enumerate(paths):
            if not is_url(path):
                found.places.append(local_path(path))
                continue
            remote, files, name = files_at(str(path), options)
            into = Path(scratch) / str(number) / remote.url.rpartition("/")[2]
            remote.fetch(files, into)
            found.places.append(into / name)
            found.urls[into] = remote.url
        try:
            yield found
        except IltoolsError as error:
            message = found.in_urls(str(error))
            if message == str(error):
                raise
            raise type(error)(message) from error


def files_at(place: str, options: Mapping[str, Any] | None = None) -> tuple[RemoteDirectory, dict[str, int], str]:
    """Return a directory, bytes by name of the files in it that are meant, and "", or the name of the only one.

    Raises as `fetched` does.
    """
    remote = RemoteDirectory(place, options)
    size = remote.size_of_file()
    if size is not None:
        parent, _, name = remote.url.rpartition("/")
        return RemoteDirectory(parent, options), {name: size}, name
    files = remote.sizes()
    if not files:
        raise SourceNotFoundError(f"{place}: no such file or directory")
    return remote, files, ""
