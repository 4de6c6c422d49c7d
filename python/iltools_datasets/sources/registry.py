"""Which formats there are, by name and by the look of a file."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from iltools_datasets.archive.schema import natural_key
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.sources.protocol import Source

ENTRY_POINT_GROUP = "iltools_datasets.sources"
_PACKAGE = "iltools_datasets.sources"
_BUILT_IN = {
    "flat-zarr": f"{_PACKAGE}.flat_zarr:FlatZarrSource",
    "unitree-csv": f"{_PACKAGE}.unitree_csv:UnitreeCsvSource",
}


def source_formats() -> list[str]:
    """Return the names of all formats: the built-in ones, then those of installed third-party packages."""
    return [*_BUILT_IN, *sorted(_third_party().keys() - _BUILT_IN.keys())]


def source_class(name: str) -> type[Source]:
    """Return the source class of a format; SourceError names the formats there are."""
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found: Any = getattr(import_module(module), attribute)
    elif name in _third_party():
        found = _third_party()[name].load()
    else:
        raise SourceError(f"no source format {name!r}; there are {', '.join(source_formats())}")
    if not (isinstance(found, type) and issubclass(found, Source)):
        raise SourceError(f"source format {name!r}: {found!r} is not a subclass of {Source.__module__}.Source")
    return found


def recognise(path: Path | str) -> type[Source]:
    """Return the source class whose format the file has, or, for a directory, the first recognised file below it.

    Raises SourceNotFoundError if there is nothing at the path and SourceError if no format fits.
    """
    path = Path(path)
    if not path.exists():
        raise SourceNotFoundError(f"{path}: no such file or directory")
    classes = [source_class(name) for name in source_formats()]
    candidates = [path]
    if path.is_dir():
        candidates += sorted(path.rglob("*"), key=lambda below: [natural_key(part) for part in below.parts])
    for candidate in candidates:
        for found in classes:
            if found.recognises(candidate):
                return found
    raise SourceError(f"{path}: no known format; there are {', '.join(source_formats())}")


def open_source(path: Path | str, format: str = "auto", **options: Any) -> Source:
    """Return a source for the path; `options` go to the class of its format, which is looked for with "auto"."""
    found = recognise(path) if format == "auto" else source_class(format)
    return found(path, **options)


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
