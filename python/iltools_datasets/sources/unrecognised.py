"""Files of no known format, which must not vanish from an export without a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.csv_table import read_table
from iltools_datasets.sources.formats.npz import Npz
from iltools_datasets.sources.kinds import kind_of
from iltools_datasets.sources.protocol import Recording, Source, SourceFile
from iltools_datasets.sources.walk import below, has_ending

_MEMBERS = {
    "motion-npz": {"joint_pos", "joint_vel", "body_pos_w", "body_quat_w"},
    "amp-npz": {"dof_positions", "dof_velocities", "body_positions", "body_rotations"},
    "trajopt": {"qpos", "qvel"},
}
"""What the npz formats cannot do without, to say which of it a file lacks."""
_MOST_NAMED = 3


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
    """Say what a path is, what is wrong with it, or what is in it; with what to do where that is known."""
    kind = kind_of(path)
    if kind is not None:
        return f"{path}: {kind}"
    if path.is_dir():
        return f"{path}: {_what_is_in(path)}"
    if has_ending(path, (".npz",)):
        return _describe_npz(path)
    if has_ending(path, (".csv",)):
        try:
            columns = read_table(path).values.shape[1]
        except SourceError as error:
            return str(error)
        return f"{path}: a table of {columns} columns; a robot has 7 of its root (xyz, quaternion) and one per joint"
    return f"{path}: no known format"


def describe_passed_over(root: Path, paths: Iterable[Path]) -> list[str]:
    """Return a line for each kind of file in a directory that was not taken for anything."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault("/" if path.is_dir() else path.suffix.lower(), []).append(path)
    lines, unknown = [], []
    for ending, found in groups.items():
        kind = kind_of(found[0])
        if kind is None:
            unknown += found
        else:
            lines.append(f"{root}: passed over {_counted(found, ending)}: {_short(found[0], root)} {kind}")
    if unknown:
        lines.append(f"{root}: passed over {_counted(unknown, '')} of no known format")
    return lines


def _counted(paths: list[Path], ending: str) -> str:
    what = "director" + ("y" if len(paths) == 1 else "ies") if ending == "/" else f"file{'s' * (len(paths) > 1)}"
    names = ", ".join(sorted(path.name for path in paths)[:_MOST_NAMED])
    more = ", ..." if len(paths) > _MOST_NAMED else ""
    return f"{len(paths)} {'' if ending in ('', '/') else ending + ' '}{what} ({names}{more})"


def _short(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _what_is_in(path: Path) -> str:
    lines = describe_passed_over(path, below(path, lambda entry: entry != path and kind_of(entry) is not None))
    found = "; ".join(line.removeprefix(f"{path}: passed over ") for line in lines)
    return f"nothing of a known format: {found}" if found else "nothing of a known format: it holds no files"


def _describe_npz(path: Path) -> str:
    try:
        with Npz(path) as npz:
            members, pickled = sorted(npz.arrays), npz.unreadable
    except SourceError as error:
        return str(error)
    if not members:
        what = f"every member is a pickled object ({', '.join(pickled[:4])}), and pickles are never read"
        return f"{path}: {what}; save plain arrays instead" if pickled else f"{path}: an npz without a member"
    nearest = max(_MEMBERS, key=lambda name: len(_MEMBERS[name] & set(members)) / len(_MEMBERS[name]))
    missing = sorted(_MEMBERS[nearest] - set(members))
    hint = f"; it is most like {nearest}, which also needs {', '.join(missing)}" if len(missing) <= 2 else ""
    return f"{path}: no known format has these members: {members}{hint}"
