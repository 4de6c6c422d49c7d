"""LocoMuJoCo 0.4 trajectory files: one array per joint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.clips import SPLIT_POINTS, clip_ranges, read_split_points
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, Source, SourceFile
from iltools_datasets.sources.told import Names, checked_names, checked_rate

DEFAULT_FREQUENCY = 500.0
"""The rate of the package's humanoid recordings, which no file of it states."""

_POSITION, _VELOCITY = "q_", "dq_"


class LocoMujocoLegacySource(Source):
    """`q_<joint> [S]` and `dq_<joint> [S]`, optional `split_points`, further `[S, ...]` arrays.

    The joints' arrays become the columns of `qpos [T, joints]` and `qvel [T, joints]` in the order of the file, which
    `joint_names` gives; the root is six such joints, there is no quaternion. Further arrays with a row per state keep
    their names. Values and dtypes are kept.

    Args:
        path: a file or a directory of files.
        motion: one name for all files; by default each file is a motion of its own.
        frequency, fps: states per second, by either name.
        skip: members to leave out, a list, or names joined by commas.
    """

    format = "loco-mujoco-0.4"
    summary = "LocoMuJoCo 0.4 npz: q_<joint>, dq_<joint>, optional split_points"
    suffixes = (".npz",)

    def __init__(
        self,
        path: Path | str,
        *,
        motion: str | None = None,
        frequency: float = DEFAULT_FREQUENCY,
        fps: float | None = None,
        skip: Names = (),
    ) -> None:
        super().__init__(path, motion=motion)
        self.frequency = checked_rate("frequency", frequency) if fps is None else checked_rate("fps", fps)
        self.skip = frozenset(checked_names("skip", skip))

    @property
    def dataset_source(self) -> str:
        return "loco_mujoco"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        names = member_names(path)
        joints = {name.removeprefix(_POSITION) for name in names if name.startswith(_POSITION)}
        return bool(joints) and all(_VELOCITY + joint in names for joint in joints)

    def count(self, file: SourceFile) -> int:
        with Npz(file.path, self.skip) as npz:
            _, states = _joints(npz)
            return len(read_split_points(npz, states)) - 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        with Npz(file.path, self.skip) as npz:
            joints, states = _joints(npz)
            points = read_split_points(npz, states)
            arrays = {
                key: np.stack([npz.read(prefix + joint) for joint in joints], axis=1)
                for key, prefix in (("qpos", _POSITION), ("qvel", _VELOCITY))
            }
            for key, spec in npz.arrays.items():
                if key.startswith((_POSITION, _VELOCITY)) or key == SPLIT_POINTS:
                    continue
                if spec.shape[:1] == (states,) and spec.dtype.kind in "biuf":
                    arrays[key] = npz.read(key)
                else:
                    self.about(npz.path, f"left out {key!r}, {spec.dtype} {list(spec.shape)}")
            for key in npz.unreadable:
                self.about(npz.path, f"left out {key!r}, a pickled object")
        for first, end in clip_ranges(points):
            yield Recording(
                arrays={key: array[first:end].copy() for key, array in arrays.items()},
                fps=self.frequency,
                velocities={"qvel": "as in the file"},
                attributes={"joint_names": joints},
            )


def _joints(npz: Npz) -> tuple[list[str], int]:
    joints = [key.removeprefix(_POSITION) for key in npz.arrays if key.startswith(_POSITION)]
    moving = {key.removeprefix(_VELOCITY) for key in npz.arrays if key.startswith(_VELOCITY)}
    if not joints:
        raise SourceError(f"{npz.path}: no member q_<joint>, there are {sorted(npz.arrays)}")
    if set(joints) != moving:
        raise SourceError(f"{npz.path}: joints with q_ but no dq_ or the reverse: {sorted(moving ^ set(joints))}")
    first = npz.arrays[_POSITION + joints[0]]
    for prefix in (_POSITION, _VELOCITY):
        for joint in joints:
            spec = npz.arrays[prefix + joint]
            if spec.shape != first.shape or len(spec.shape) != 1 or spec.dtype.kind not in "iuf":
                raise SourceError(
                    f"{npz.path}: {prefix + joint!r} is {spec.dtype} {list(spec.shape)}, "
                    f"expected {list(first.shape)} like {_POSITION + joints[0]!r}"
                )
    return joints, first.shape[0]
