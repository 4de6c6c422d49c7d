"""Motion in pickles: of GMR, TWIST, PHC, ASAP, PBHC, OmniH2O, ProtoMotions, poselib. Nothing of them is ever run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.held import Held, as_numbers
from iltools_datasets.sources.formats.pickled_file import ENDINGS, read_pickled_file, wrapping_of
from iltools_datasets.sources.formats.retargeted import is_body_model, is_retargeted, read_retargeted
from iltools_datasets.sources.formats.simulated_bodies import (
    is_proto_library,
    is_proto_motion,
    is_skeleton_motion,
    read_proto_library,
    read_proto_motion,
    read_skeleton_motion,
)
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource
from iltools_datasets.sources.walk import below

Reader = Callable[[ToldSource, Path, Mapping[str, Any]], Iterator[Recording]]

_HEAD = 1 << 16
_GIVEAWAYS = (
    *((b"root_pos", b"root_rot"), (b"root_rot", b"dof_pos"), (b"root_trans_offset", b"pose_aa")),
    *((b"root_trans_offset", b"dof"), (b"rigid_body_pos", b"rigid_body_rot"), (b"SkeletonMotion",)),
)
"""Words of which all are at the beginning or the end of a damaged file that was meant for this source."""


class MotionPickleSource(ToldSource):
    """A pickle of `pickle`, `joblib` (plain, or packed by zlib, gzip, bzip2 or xz), `numpy.save` or `torch.save`.

    It is read as data: nothing it names is imported or called, whatever the list of `_base.pickled_data` lacks ends the
    reading, and no size is believed. Told by its keys:

    - root and joints, one clip (`root_pos`, `root_rot`, `dof_pos`: GMR, TWIST) or many (`{name: {root_trans_offset,
      root_rot, dof, ...}}`: PHC, ASAP, PBHC, OmniH2O): `qpos`, `qvel` as `unitree-csv` has them, further arrays with a
      row per state under their names;
    - ProtoMotions (`rigid_body_pos`, ...; libraries `gts`, `grs`, ...): the keys of `motion-npz`;
    - poselib (`rotation`, `root_translation`): its own keys;
    - `qpos` and further arrays: as they are, quaternions untouched.

    Quaternions are xyzw in all of these, unless told otherwise; a file whose motion speaks against it is refused.
    """

    format = "motion-pkl"
    summary = "retargeted motion in pickles (GMR, TWIST, PHC, ASAP, PBHC, OmniH2O), poselib npy, ProtoMotions .motion"
    suffixes = ENDINGS
    owns_suffixes = False
    usual_order = "xyzw"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if wrapping_of(path) is None:
            return False
        status = path.stat()
        return _is_motion(path, status.st_size, status.st_mtime_ns)

    def _below(self) -> list[Path]:
        return [path for path in below(self.path, note=self.note) if self.recognises(path)]

    def count(self, file: SourceFile) -> int:
        held = read_pickled_file(file.path)
        reader = _reader_of(held)
        if reader is _many_clips:
            return len(held)
        return super().count(file) if reader in (None, read_proto_library) else 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        held = read_pickled_file(file.path)
        reader = _reader_of(held)
        if reader is None:
            raise SourceError(f"{file.path}: holds data, but no known arrangement of motion: {describe_held(held)}")
        yield from reader(self, file.path, held)


def describe_held(held: Any) -> str:
    """Say in a few words what a pickle holds that is not known."""
    if isinstance(held, Mapping) and held:
        return f"a dictionary with {', '.join(map(repr, list(held)[:8]))}{', ...' if len(held) > 8 else ''}"
    array = as_numbers(held)
    return f"{array.dtype} {list(array.shape)}" if array is not None else f"{held!r:.40}"


@lru_cache(maxsize=1024)
def _is_motion(path: Path, size: int, changed: int) -> bool:
    try:
        return _reader_of(read_pickled_file(path)) is not None
    except SourceError:
        with path.open("rb") as file:
            content = file.read(_HEAD)
            file.seek(max(0, size - _HEAD))
            content += file.read(_HEAD)
    return any(all(word in content for word in words) for words in _GIVEAWAYS)


def _reader_of(held: Any) -> Reader | None:
    if not isinstance(held, Mapping) or not held:
        return None
    keys: Iterable[str] = [key for key in held if isinstance(key, str)]
    if is_retargeted(keys) or is_body_model(keys):
        return _one_clip
    if all(isinstance(clip, Mapping) and (is_retargeted(clip) or is_body_model(clip)) for clip in held.values()):
        return _many_clips
    if is_proto_motion(keys):
        return _proto_motion
    if is_proto_library(keys):
        return read_proto_library
    if is_skeleton_motion(keys):
        return _skeleton_motion
    array = as_numbers(held.get("qpos"))
    return _states if array is not None and array.ndim == 2 else None


def _one_clip(source: ToldSource, path: Path, held: Mapping[str, Any]) -> Iterator[Recording]:
    yield from read_retargeted(source, path, {None: Held(str(path), held, source.skip)})


def _many_clips(source: ToldSource, path: Path, held: Mapping[str, Any]) -> Iterator[Recording]:
    yield from read_retargeted(
        source, path, {str(name): Held(f"{path}: clip {name!r}", clip, source.skip) for name, clip in held.items()}
    )


def _proto_motion(source: ToldSource, path: Path, held: Mapping[str, Any]) -> Iterator[Recording]:
    yield read_proto_motion(source, path, Held(str(path), held, source.skip))


def _skeleton_motion(source: ToldSource, path: Path, held: Mapping[str, Any]) -> Iterator[Recording]:
    yield read_skeleton_motion(source, path, held)


def _states(source: ToldSource, path: Path, held: Mapping[str, Any]) -> Iterator[Recording]:
    clip = Held(str(path), held, source.skip)
    arrays = clip.rows(len(clip.arrays["qpos"]), ())
    more = clip.attributes(arrays)
    clip.say_what_is_left(source, path, {*arrays, *more})
    more |= source.all_names(path, clip.names("joint_names"), clip.names("body_names"))
    yield Recording(
        arrays,
        fps=source.rate_of(path, clip.stated_rate),
        quaternions=None,
        velocities={"qvel": "as in the file"},
        attributes=more,
    )
