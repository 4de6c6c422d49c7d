"""Several archives as one, without copying the chunks that can be shared."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from iltools_datasets.archive.place import Location, as_path_or_url
from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.archive.schema import Trajectory, natural_key
from iltools_datasets.archive.writer import ArchiveWriter
from iltools_datasets.errors import ArchiveChangedError, ArgumentError, DuplicateTrajectoryError, SchemaError

_TOLD = ("joint_names", "body_names", "quaternion_order", "rows")
"""What clips of one data set say alike, where they say it."""

Part = tuple[ArchiveReader, Trajectory]


@dataclass(frozen=True, slots=True)
class Combined:
    """What became of the parts: how many clips and states there are, the bytes that lie on the disk once for a part and
    the whole, and the motions that had to be written again."""

    path: str
    parts: tuple[str, ...]
    num_clips: int
    num_states: int
    shared_bytes: int
    rewritten: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, ready for JSON."""
        return asdict(self)


def combine_archives(parts: Sequence[Location], path: Location, overwrite: bool = False) -> Combined:
    """Join archives of one schema into one that has the clips of all.

    Chunks of archives that this package wrote into a directory are hard links in the new one: nobody writes to such a
    file again (an archive is replaced as a whole, by another directory), so neither archive can change the other, and
    each may be removed by itself. Where the file system has no links, or it is another one, they are copied. Clips of
    other archives, which anybody may write to, are written again.

    Args:
        parts: two archives or more.
        path: the new archive.
        overwrite: replace an archive that is there.

    Raises:
        ArgumentError: fewer than two parts.
        SourceNotFoundError, SourceError: a part is missing, or is no archive.
        DuplicateTrajectoryError: a part is given twice, or a clip is in two of them.
        SchemaError: a clip has other keys, dtypes, widths, names or order of quaternions than the first one.
        ArchiveExistsError: as `ArchiveWriter`.
        ArchiveChangedError: a part was replaced meanwhile. Nothing is left of the new archive then.
    """
    if len(parts) < 2:
        raise ArgumentError(f"expected at least two archives to join, found {len(parts)}")
    _refuse_doubles(parts)
    with ExitStack() as opened:
        return _combine([opened.enter_context(ArchiveReader(part)) for part in parts], path, overwrite)


def _combine(readers: Sequence[ArchiveReader], path: Location, overwrite: bool) -> Combined:
    clips = [(reader, clip) for reader in readers for clip in reader.trajectories]
    _refuse_twins(clips)
    for part in clips:
        _check_schema(part, clips[0])
    groups: dict[tuple[ArchiveReader, str], list[Trajectory]] = defaultdict(list)
    for reader, clip in clips:
        groups[reader, reader.group_of(clip)].append(clip)
    shared, rewritten = 0, set()
    layout: Literal["nested", "packed"] = "packed" if any(reader.is_packed for reader in readers) else "nested"
    with ArchiveWriter(path, overwrite, layout=layout, metadata=_metadata(readers)) as writer:
        lent = [place for place in groups if place[0].lends_files]
        # Packs last: each gets a name that no motion has.
        for reader, group in sorted(lent, key=lambda place: groups[place][0].path != place[1]):
            shared += writer.take_over(reader, group, groups[reader, group])
        for reader in readers:
            if not reader.lends_files:
                for clip, arrays in reader.stream():
                    writer.add(clip.dataset_source, clip.motion, clip.name, arrays, clip.attributes)
                rewritten |= {task.name for task in reader.tasks}
        for reader in readers:
            if not reader.is_current:
                raise ArchiveChangedError(f"{reader.path}: was replaced meanwhile; try again")
    return Combined(
        path=str(path),
        parts=tuple(str(reader.path) for reader in readers),
        num_clips=len(clips),
        num_states=sum(clip.num_states for _, clip in clips),
        shared_bytes=shared,
        rewritten=tuple(sorted(rewritten, key=natural_key)),
    )


def _refuse_doubles(parts: Sequence[Location]) -> None:
    seen: dict[object, Location] = {}
    for part in parts:
        place: object = as_path_or_url(part) if isinstance(part, str | os.PathLike) else part
        if isinstance(place, Path):
            place = place.resolve()
        if place in seen:
            raise DuplicateTrajectoryError(f"{part}: is given twice" + (f", as {seen[place]}" if part != place else ""))
        seen[place] = part


def _refuse_twins(clips: Sequence[Part]) -> None:
    seen: dict[str, Part] = {}
    for reader, clip in clips:
        other, twin = seen.setdefault(clip.path.casefold(), (reader, clip))
        if twin is not clip:
            raise DuplicateTrajectoryError(f"trajectory {clip.path}: is in {other.path} and in {reader.path}")


def _check_schema(part: Part, first: Part) -> None:
    (reader, clip), (other, like) = part, first
    where, like_first = f"{reader.path}: trajectory {clip.path}", f"as in {other.path}: {like.path}"
    if clip.misfit is not None:
        raise SchemaError(f"{where}: {clip.misfit}")
    if odd := sorted(clip.keys.keys() ^ like.keys.keys()):
        expected = sorted(like.keys)
        raise SchemaError(f"{where}: expected keys {expected} {like_first}, found {sorted(clip.keys)} (see {odd[0]!r})")
    for key, spec in clip.keys.items():
        expected_spec = like.keys[key]
        if (spec.dtype, spec.shape[1:]) != (expected_spec.dtype, expected_spec.shape[1:]):
            raise SchemaError(
                f"{where}: key {key!r}: expected {expected_spec.dtype} {list(expected_spec.shape[1:])} {like_first}, "
                f"found {spec.dtype} {list(spec.shape[1:])}"
            )
    for name in _TOLD:
        told, expected_told = clip.attributes.get(name), like.attributes.get(name)
        if told is not None and expected_told is not None and told != expected_told:
            raise SchemaError(f"{where}: {name} is {told!r}, expected {expected_told!r} {like_first}")


def _metadata(readers: Sequence[ArchiveReader]) -> dict[str, Any] | None:
    described = [reader.metadata for reader in readers]
    if all(each == described[0] for each in described):
        return described[0]
    return {"parts": [{"path": str(reader.path), "metadata": reader.metadata} for reader in readers]}
