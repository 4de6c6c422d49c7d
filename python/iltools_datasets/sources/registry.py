"""Which formats there are, by name and by the look of a file."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from iltools_datasets.archive.schema import natural_key
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.sources.protocol import Source
from iltools_datasets.sources.unrecognised import UnrecognisedSource, describe_unrecognised

ENTRY_POINT_GROUP = "iltools_datasets.sources"
_PACKAGE = "iltools_datasets.sources.formats"
_BUILT_IN = {
    "lerobot": f"{_PACKAGE}.lerobot:LeRobotSource",
    "flat-zarr": f"{_PACKAGE}.flat_zarr:FlatZarrSource",
    "unitree-csv": f"{_PACKAGE}.unitree_csv:UnitreeCsvSource",
    "trajopt": f"{_PACKAGE}.trajopt_npz:TrajoptSource",
    "loco-mujoco": f"{_PACKAGE}.loco_mujoco_npz:LocoMujocoSource",
    "loco-mujoco-0.4": f"{_PACKAGE}.loco_mujoco_legacy_npz:LocoMujocoLegacySource",
    "motion-npz": f"{_PACKAGE}.motion_npz:MotionTrackingSource",
    "amp-npz": f"{_PACKAGE}.amp_npz:AmpSource",
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
    found = next((each for each, _ in _scan(Path(path)) if each is not UnrecognisedSource), None)
    if found is None:
        raise _unrecognised(Path(path))
    return found


def open_source(path: Path | str, format: str = "auto", **options: Any) -> Source:
    """Return a source for the path; `options` go to the class of its format, which is looked for with "auto"."""
    found = recognise(path) if format == "auto" else source_class(format)
    return found(path, **options)


def open_sources(
    paths: Iterable[Path | str],
    format: str = "auto",
    **options: Any,
) -> list[Source]:
    """Return the sources for several paths, of one format or, with "auto", of whatever formats they have.

    A directory whose recognised files are all of one format is one source; of several, each file is a source of its
    own. A file of no known format that was named, or that lies in a directory and ends like one of a known format, is
    a source that cannot be read: exporting it is an error, or with `keep_going` a failure in the report. Other files in
    a directory are passed over. Each source takes the options that its format has; options that are None count as not
    given.

    Raises:
        SourceNotFoundError: there is nothing at a path.
        SourceError: nothing at all is recognised, or none of the formats has one of the options.
    """
    given = {name: value for name, value in options.items() if value is not None}
    opened: list[tuple[type[Source], Path]] = []
    for path in map(Path, paths):
        opened += [(source_class(format), path)] if format != "auto" else _sources_at(path)
    known = [found for found, _ in opened if found is not UnrecognisedSource]
    if not known:
        raise _unrecognised(opened[0][1] if opened else Path())
    for name in given:
        if not any(name in _options(found) for found in known):
            formats = ", ".join(sorted({found.format for found in known}))
            raise SourceError(f"no option {name!r} for the formats {formats}")
    return [
        found(path, **{name: value for name, value in given.items() if name in _options(found)})
        for found, path in opened
    ]


def _sources_at(path: Path) -> list[tuple[type[Source], Path]]:
    found = list(_scan(path))
    classes = {each for each, _ in found if each is not UnrecognisedSource}
    if len(classes) != 1 or not path.is_dir():
        return found or [(UnrecognisedSource, path)]
    # One format: its source finds its files in the directory itself, those that are damaged too.
    (only,) = classes
    others = [(each, below) for each, below in found if each is not only and not below.name.endswith(only.suffixes)]
    return [(only, path), *others]


def _scan(path: Path) -> Iterator[tuple[type[Source], Path]]:
    if not path.exists():
        raise SourceNotFoundError(f"{path}: no such file or directory")
    classes = [source_class(name) for name in source_formats()]
    endings = tuple({suffix for each in classes for suffix in each.suffixes})
    waiting = [path]
    while waiting:
        candidate = waiting.pop()
        found = next((each for each in classes if each.recognises(candidate)), None)
        if found is not None:
            yield found, candidate
        elif candidate.is_dir():
            if not _is_zarr(candidate):
                waiting += sorted(candidate.iterdir(), key=lambda below: natural_key(below.name), reverse=True)
        elif candidate == path or candidate.name.endswith(endings):
            yield UnrecognisedSource, candidate


def _is_zarr(path: Path) -> bool:
    return (path / "zarr.json").is_file() or (path / ".zgroup").is_file()


@cache
def _options(found: type[Source]) -> frozenset[str]:
    return frozenset(inspect.signature(found).parameters) - {"path"}


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _unrecognised(path: Path) -> SourceError:
    """Return the error for a path of no known format: what is wrong with it, if that can be told."""
    return SourceError(f"{describe_unrecognised(path)}; known formats are {', '.join(source_formats())}")
