"""Files of no known format, which must not vanish from an export without a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.npz import Npz
from iltools_datasets.sources.protocol import Recording, Source, SourceFile


class UnrecognisedSource(Source):
    """One file that cannot be read; it has no format and is in no registry."""

    format = "unknown"
    summary = "a file of no known format"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return False

    def files(self) -> list[SourceFile]:
        return [SourceFile(self.path, self.path.name)]

    def read(self, file: SourceFile) -> Iterator[Recording]:
        raise SourceError(describe_unrecognised(file.path))


def describe_unrecognised(path: Path) -> str:
    """Say what is wrong with a file, or what is in it."""
    if path.suffix == ".npz" and path.is_file():
        try:
            with Npz(path) as npz:
                return f"{path}: no known format has these members: {sorted(npz.arrays)}"
        except SourceError as error:
            return str(error)
    return f"{path}: no known format"
