"""Trajectory optimisation results: one `.npz` per trajectory with `qpos`, `qvel` and the action."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from iltools_datasets.archive.schema import natural_key
from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, Source, SourceFile

ACTION_KEYS = ("action", "actions")
_EE_POINTS = 5


class TrajoptSource(Source):
    """`qpos [T, nq]`, `qvel [T, nv]`, optional `action` or `actions`, `ee_pos [T, 5, 3]`, `rewards`, `dt`.

    Values and dtypes are kept; `actions` is called `action` in the archive. A flat `ee_pos [T, 15]` becomes
    `[T, 5, 3]`. Of a padded file only the first `true_length` states are read. Quaternions inside `qpos` stay as they
    are, in whatever order the file has them (Digit's root quaternion at `qpos[3:7]` is xyzw): `quaternions` and
    `quaternion_order` say it for the attributes.

    Args:
        path: one file, a directory of files, or a directory with a sub-directory per motion.
        motion: without it each sub-directory is a motion, and files directly in `path` are the motion "default". With
            it that sub-directory alone is read, or, if there is none of the name, the files in `path` get the name.
        quaternions: columns of `qpos` at which quaternions begin; they matter for resampling only.
        quaternion_order: "wxyz" or "xyzw", the order inside those columns.
    """

    format = "trajopt"
    summary = "trajectory optimisation npz: qpos, qvel, optional action(s), ee_pos"
    suffixes = (".npz",)

    def __init__(
        self,
        path: Path | str,
        *,
        motion: str | None = None,
        quaternions: Sequence[int] | None = None,
        quaternion_order: Literal["wxyz", "xyzw"] = "wxyz",
    ) -> None:
        super().__init__(path, motion=motion)
        if quaternion_order not in ("wxyz", "xyzw"):
            raise SourceError(f"quaternion_order must be 'wxyz' or 'xyzw', got {quaternion_order!r}")
        self.quaternions = None if quaternions is None else tuple(quaternions)
        self.quaternion_order: Literal["wxyz", "xyzw"] = quaternion_order

    @classmethod
    def recognises(cls, path: Path) -> bool:
        names = member_names(path)
        return {"qpos", "qvel"} <= names and "split_points" not in names

    def files(self) -> list[SourceFile]:
        if self.path.is_file():
            return [SourceFile(self.path, self.motion or "default")]
        motions = sorted(
            (path for path in self.path.iterdir() if path.is_dir()), key=lambda path: natural_key(path.name)
        )
        if self.motion is not None and (self.path / self.motion).is_dir():
            found = _npz_in(self.path / self.motion, self.motion)
        elif self.motion is not None:
            found = _npz_in(self.path, self.motion)
        else:
            found = _npz_in(self.path, "default")
            for motion in motions:
                found += _npz_in(motion, motion.name)
        if not found:
            raise SourceError(f"{self.path}: no .npz files in it or in its sub-directories")
        return found

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        with Npz(file.path) as npz:
            yield self._recording(npz)

    def _recording(self, npz: Npz) -> Recording:
        npz.require(("qpos", "qvel"))
        actions = [key for key in ACTION_KEYS if key in npz.arrays]
        if len(actions) > 1:
            raise SourceError(f"{npz.path}: has both 'action' and 'actions'")
        total, states = _matrix_rows(npz, "qpos"), true_length(npz)
        arrays = read_states(npz)
        if actions:
            arrays["action"] = _read_steps(npz, actions[0], total, states)
        if "rewards" in npz.arrays:
            arrays["rewards"] = _read_steps(npz, "rewards", total, states)
        dt = npz.rate("dt") if "dt" in npz.arrays else None
        known = {"qpos", "qvel", "ee_pos", "rewards", "dt", "true_length", *ACTION_KEYS}
        self.notes += [f"{npz.path}: left out {key!r}" for key in sorted({*npz.arrays, *npz.unreadable} - known)]
        return Recording(
            arrays=arrays,
            fps=None if dt is None else 1.0 / dt,
            quaternions=None if self.quaternions is None else {"qpos": self.quaternions},
            quaternion_order=self.quaternion_order,
            velocities={"qvel": "as in the file"},
            attributes={} if dt is None else {"dt": dt},
        )


def _npz_in(directory: Path, motion: str) -> list[SourceFile]:
    paths = sorted(directory.glob("*.npz"), key=lambda path: natural_key(path.name))
    return [SourceFile(path, motion) for path in paths]


def _matrix_rows(npz: Npz, key: str) -> int:
    spec = npz.arrays[key]
    if len(spec.shape) != 2 or spec.dtype.kind not in "biuf":
        raise SourceError(f"{npz.path}: {key!r} should be numbers [T, width], found {spec.dtype} {list(spec.shape)}")
    return spec.shape[0]


def true_length(npz: Npz) -> int:
    """Return the number of states; SourceError unless `qpos` and `qvel` are matrices of as many rows or more."""
    npz.require(("qpos", "qvel"))
    total = _matrix_rows(npz, "qpos")
    if (rows := _matrix_rows(npz, "qvel")) != total:
        raise SourceError(f"{npz.path}: 'qvel' has {rows} rows, expected {total} like 'qpos'")
    if "true_length" not in npz.arrays:
        return total
    length = npz.number("true_length")
    if not 1 <= length <= total or length != int(length):
        raise SourceError(f"{npz.path}: true_length is {length:g}, qpos has {total} rows")
    return int(length)


def read_states(npz: Npz) -> dict[str, NDArray[Any]]:
    """Return `qpos`, `qvel` and, if there, `ee_pos [T, 5, 3]` of a file, without the padding after its last state."""
    states = true_length(npz)
    arrays = {key: npz.read(key)[:states] for key in ("qpos", "qvel")}
    if "ee_pos" in npz.arrays:
        arrays["ee_pos"] = _read_end_effectors(npz, npz.arrays["qpos"].shape[0])[:states]
    return arrays


def _read_steps(npz: Npz, key: str, total: int, states: int) -> NDArray[Any]:
    rows = npz.arrays[key].shape[0] if len(npz.arrays[key].shape) == 1 else _matrix_rows(npz, key)
    if rows not in (total, total - 1):
        raise SourceError(f"{npz.path}: {key!r} has {rows} rows, expected {total} or {total - 1} like 'qpos'")
    return npz.read(key)[: states - (total - rows)]


def _read_end_effectors(npz: Npz, total: int) -> NDArray[Any]:
    shape = npz.arrays["ee_pos"].shape
    if shape not in ((total, _EE_POINTS, 3), (total, 3 * _EE_POINTS)):
        raise SourceError(f"{npz.path}: 'ee_pos' is {list(shape)}, expected [{total}, 5, 3] or [{total}, 15]")
    return npz.read("ee_pos").reshape(total, _EE_POINTS, 3)
