"""Trajectory optimisation results: one `.npz` per trajectory with `qpos`, `qvel` and the action."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integers
from iltools_datasets.archive.schema import natural_key
from iltools_datasets.errors import SourceError
from iltools_datasets.motion.orders import ORDERS
from iltools_datasets.sources.formats.further import further_arrays
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import Names, ToldSource, checked_names
from iltools_datasets.sources.walk import below, has_ending

ACTION_KEYS = ("action", "actions")
_MAYBE_ACTIONS = ("ctrl", "control", "controls", "acts", "act", "u", "tau", "torque", "torques")
_NAMES: tuple[Literal["joint_names", "body_names"], ...] = ("joint_names", "body_names")
_EE_POINTS = 5


class TrajoptSource(ToldSource):
    """`qpos [T, nq]`, `qvel [T, nv]`, optional `action` or `actions`, `ee_pos [T, 5, 3]`, `rewards`, `dt`.

    Values and dtypes are kept; `actions` is called `action` in the archive. A flat `ee_pos [T, 15]` becomes
    `[T, 5, 3]`. Of a padded file only the first `true_length` states are read. Further members with a row of numbers
    per state keep their names. Quaternions inside `qpos` stay as they are, in whatever order the file has them (Digit's
    root quaternion at `qpos[3:7]` is xyzw): `quaternions` and `quaternion_order` say it for the attributes.

    Args:
        path: one file, a directory of files, or a directory with a sub-directory per motion.
        motion: without it each directory below `path` that holds files is a motion, and files directly in `path` are
            the motion "default". With it that sub-directory alone is read, or, if there is none of the name, the files
            in `path` get the name.
        fps, joint_names, body_names, skip: as `ToldSource` takes them.
        quaternions: columns of `qpos` at which quaternions begin; they matter for resampling only.
        quaternion_order: "wxyz" or "xyzw", the order inside those columns.
        action: the member that holds the action, where it is neither `action` nor `actions`.
    """

    format = "trajopt"
    summary = "trajectory optimisation npz: qpos, qvel, optional action(s), ee_pos"
    suffixes = (".npz",)

    def __init__(
        self,
        path: Path | str,
        *,
        motion: str | None = None,
        fps: float | None = None,
        quaternions: Sequence[int] | None = None,
        quaternion_order: Literal["wxyz", "xyzw"] = "wxyz",
        joint_names: Names | None = None,
        body_names: Names | None = None,
        skip: Names = (),
        action: str | None = None,
    ) -> None:
        if quaternion_order not in ORDERS:
            raise SourceError(f"option quaternion_order: must be 'wxyz' or 'xyzw', got {quaternion_order!r}")
        super().__init__(
            path,
            motion=motion,
            fps=fps,
            quaternion_order=quaternion_order,
            joint_names=joint_names,
            body_names=body_names,
            skip=skip,
        )
        self.quaternions = None if quaternions is None else _columns(quaternions)
        self.action = None if action is None else checked_names("action", [action])[0]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        names = member_names(path)
        return {"qpos", "qvel"} <= names and "split_points" not in names

    def files(self) -> list[SourceFile]:
        if self.path.is_file():
            return [SourceFile(self.path, self.motion or "default")]
        named = None if self.motion is None else self.path / self.motion
        root = named if named is not None and named.is_dir() else self.path
        paths = [path for path in below(root, note=self.note) if has_ending(path, self.suffixes)]
        paths.sort(key=lambda path: [natural_key(part) for part in path.relative_to(root).parts])
        paths.sort(key=lambda path: path.parent != root)  # what lies directly in it comes first
        if self.motion is not None and root == self.path:
            deeper = [path for path in paths if path.parent != root]
            paths = [path for path in paths if path.parent == root]
            for path in deeper:
                self.about(path.parent, f"passed over: motion={self.motion} names the files directly in {root}")
        if not paths:
            raise SourceError(f"{self.path}: no .npz files in it or in its sub-directories")
        return [SourceFile(path, self.motion or _motion_of(path, root)) for path in paths]

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        with Npz(file.path, self.skip) as npz:
            yield self._recording(npz)

    def _recording(self, npz: Npz) -> Recording:
        npz.require(("qpos", "qvel"))
        action = self._action(npz)
        total, states = _matrix_rows(npz, "qpos"), true_length(npz)
        arrays = read_states(npz)
        if action is not None:
            arrays["action"] = _read_steps(npz, action, total, states)
        if "rewards" in npz.arrays:
            arrays["rewards"] = _read_steps(npz, "rewards", total, states)
        known = {"qpos", "qvel", "ee_pos", "rewards", "true_length", action, *ACTION_KEYS, *_NAMES}
        further = further_arrays(self, npz, total, {key for key in known if key is not None})
        arrays |= {key: array[:states] for key, array in further.items()}
        fps = self.rate_in(npz)
        says_dt = self.fps is None and not npz.is_empty("dt")
        attributes: dict[str, Any] = {"dt": npz.rate("dt")} if says_dt else {}
        for what in _NAMES:
            if (found := self.names(npz.path, what, npz.names(what))) is not None:
                attributes[what] = found
        assert self.quaternion_order in ORDERS
        return Recording(
            arrays=arrays,
            fps=fps,
            quaternions=None if self.quaternions is None else {"qpos": self.quaternions},
            quaternion_order=self.quaternion_order,
            velocities={"qvel": "as in the file"},
            attributes=attributes,
        )

    def _action(self, npz: Npz) -> str | None:
        """Return the member that holds the action, None where there is none."""
        if self.action is not None:
            npz.require((self.action,))
            return self.action
        found = [key for key in ACTION_KEYS if key in npz.arrays]
        if len(found) > 1:
            raise SourceError(f"{npz.path}: has both 'action' and 'actions'; pass action=action or skip=action")
        if not found:
            for key in _MAYBE_ACTIONS:
                if key in npz.arrays:
                    raise SourceError(
                        f"{npz.path}: has qpos and qvel, but neither 'action' nor 'actions'; {key!r} may be it: pass "
                        f"action={key}, or skip={key} to do without an action"
                    )
        return found[0] if found else None


def _motion_of(path: Path, root: Path) -> str:
    return "default" if path.parent == root else path.parent.name


def _columns(value: Any) -> tuple[int, ...]:
    columns = [value] if isinstance(value, int) else value
    if isinstance(columns, str | bytes) or not isinstance(columns, Iterable):
        raise SourceError(f"option quaternions: expected columns, found {value!r:.40}")
    errors: dict[str, Any] = {"other": SourceError, "outside": SourceError}
    return tuple(checked_integers("option quaternions", list(columns), low=0, **errors).tolist())


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
