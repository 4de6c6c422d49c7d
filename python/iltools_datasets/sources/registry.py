"""Which formats there are, by name and by the look of a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.sources.kinds import is_data_set, kind_of
from iltools_datasets.sources.protocol import Source
from iltools_datasets.sources.unrecognised import UnrecognisedSource, describe_passed_over, describe_unrecognised
from iltools_datasets.sources.walk import below, has_ending

ENTRY_POINT_GROUP = "iltools_datasets.sources"
_PACKAGE = "iltools_datasets.sources.formats"
_BUILT_IN = {
    "flat-zarr": f"{_PACKAGE}.flat_zarr:FlatZarrSource",
    "unitree-csv": f"{_PACKAGE}.unitree_csv:UnitreeCsvSource",
    "trajopt": f"{_PACKAGE}.trajopt_npz:TrajoptSource",
    "loco-mujoco": f"{_PACKAGE}.loco_mujoco_npz:LocoMujocoSource",
    "loco-mujoco-0.4": f"{_PACKAGE}.loco_mujoco_legacy_npz:LocoMujocoLegacySource",
    "motion-npz": f"{_PACKAGE}.motion_npz:MotionTrackingSource",
    "amp-npz": f"{_PACKAGE}.amp_npz:AmpSource",
    "expert-npy": f"{_PACKAGE}.expert_rollouts:ExpertRolloutSource",
    "lerobot": f"{_PACKAGE}.lerobot:LeRobotSource",
    "retargeted-npz": f"{_PACKAGE}.retargeted_npz:RetargetedNpzSource",
    "smpl-npz": f"{_PACKAGE}.smpl_npz:SmplSource",
    "episode-npz": f"{_PACKAGE}.episode_npz:EpisodeNpzSource",
    "motion-json": f"{_PACKAGE}.motion_json:MotionJsonSource",
    "state-npy": f"{_PACKAGE}.state_npy:StateNpySource",
    "motion-pkl": f"{_PACKAGE}.motion_pickle:MotionPickleSource",
    "hdf5-demos": f"{_PACKAGE}.hdf5_demos:Hdf5DemosSource",
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
    found = next((each for each, _ in _scan(Path(path)) if each is not None), None)
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

    The files of one format in a directory are one source. A file of no known format that was named, or that lies in a
    directory and ends like one of a known format, is a source that cannot be read: exporting it is an error, or with
    `keep_going` a failure in the report. Other files in a directory are passed over, with a note that says what they
    are. Each source takes the options that its format has; options that are None count as not given.

    Raises:
        SourceNotFoundError: there is nothing at a path.
        SourceError: nothing at all is recognised, an option has a value that cannot be one, or none of the formats has
            it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    opened: list[_Place] = []
    notes: list[str] = []
    for path in map(Path, paths):
        opened += [_Place(source_class(format), path)] if format != "auto" else _places_at(path, notes)
    known = [place.found for place in opened if place.found is not UnrecognisedSource]
    if not known:
        raise _unrecognised(opened[0].path if opened else Path())
    for name in given:
        if not any(name in _options(found) for found in known):
            formats = ", ".join(sorted({found.format for found in known}))
            raise SourceError(f"no option {name!r} for the formats {formats}; {_list_options(known)}")
    sources = []
    for place in opened:
        taken = {name: value for name, value in given.items() if name in _options(place.found)}
        source = place.found(place.path, **taken)
        source.only = place.only
        sources.append(source)
    next(source for source in sources if not isinstance(source, UnrecognisedSource)).notes += notes
    return sources


@dataclass(frozen=True, slots=True)
class _Place:
    found: type[Source]
    path: Path
    only: frozenset[Path] | None = None


def _places_at(path: Path, notes: list[str]) -> list[_Place]:
    """Return the sources at a path and below it; add a line to the notes for what is passed over."""
    by_class: dict[type[Source], list[Path]] = {}
    passed: list[Path] = []
    for found, candidate in _scan(path, notes.append):
        if found is not None:
            by_class.setdefault(found, []).append(candidate)
        elif candidate == path or is_claimed(candidate):
            by_class.setdefault(UnrecognisedSource, []).append(candidate)
        else:
            passed.append(candidate)
    notes += describe_passed_over(path, passed)
    places: list[_Place] = []
    for found, candidates in by_class.items():
        if candidates == [path]:
            places.append(_Place(found, path))
        elif found.format in _BUILT_IN:
            places.append(_Place(found, path, frozenset(candidates)))
        elif found is not UnrecognisedSource and len(by_class) == 1:
            places.append(_Place(found, path))  # its own way of finding files in a directory counts
        else:
            places += [_Place(found, candidate) for candidate in candidates]
    return places or [_Place(UnrecognisedSource, path)]


def is_claimed(path: Path) -> bool:
    """Tell whether a file ends like one of a known format, so that it is a damaged one if none recognises it."""
    return has_ending(path, _claimed_endings()) and not path.is_dir()


@cache
def _claimed_endings() -> tuple[str, ...]:
    return tuple({ending for each in _classes() if each.owns_suffixes for ending in each.suffixes})


def _scan(path: Path, note: Callable[[str], None] = lambda _: None) -> Iterator[tuple[type[Source] | None, Path]]:
    """Yield files, and directories that are one thing, at or below a path, with the format that each has, or None."""
    if not path.exists():
        raise SourceNotFoundError(f"{path}: no such file or directory")
    classes = _classes()

    def format_of(candidate: Path) -> type[Source] | None:
        return next((each for each in classes if each.recognises(candidate)), None)

    def is_one(candidate: Path) -> bool:
        return _is_zarr(candidate) or is_data_set(candidate) or format_of(candidate) is not None

    for candidate in below(path, is_one, note):
        yield format_of(candidate), candidate


def _classes() -> list[type[Source]]:
    return [source_class(name) for name in source_formats()]


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def _list_options(classes: Iterable[type[Source]]) -> str:
    names = sorted(set().union(*(_options(found) for found in classes)) - {"motion"})
    return f"there are {', '.join(names)}"


@cache
def _options(found: type[Source]) -> frozenset[str]:
    return frozenset(inspect.signature(found).parameters) - {"path"}


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _unrecognised(path: Path) -> SourceError:
    """Return the error for a path of no known format: what it is, or what is wrong with it, if that can be told."""
    known = "" if kind_of(path) is not None else f"; known formats are {', '.join(source_formats())}"
    return SourceError(f"{describe_unrecognised(path)}{known}")
