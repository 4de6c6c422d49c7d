"""Where the bodies of a clip are over time, and which hang together: what is drawn in three dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.cli.looked_at import ClipInfo, Opened
from iltools_datasets.errors import MissingKeyError, SourceError, SourceNotFoundError
from iltools_datasets.motion.kinds import POSE_KEYS

if TYPE_CHECKING:
    import mujoco

_BODIES = tuple(positions for positions, _ in POSE_KEYS)
_JOINTS = ("qpos", "joint_pos", "dof_positions")
_ROOT_COLUMNS = 7
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Bodies:
    """A clip's bodies in the world.

    Attributes:
        clip: which clip.
        names: of the bodies, [B]; their numbers where nobody names them.
        positions: metres, float32 [T, B, 3], z up; NaN where the clip has none.
        links: pairs of bodies that hang together, as indices; none where no tree is known.
        notes: what is not known, or was left as it is.
    """

    clip: ClipInfo
    names: list[str]
    positions: NDArray[np.float32]
    links: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def bodies_of(opened: Opened, position: int, model_path: Path | None = None) -> Bodies:
    """Return the bodies of a clip.

    Positions of bodies are taken as they are; a model then only says which hang together. Without such positions the
    model's kinematics makes them of the joints, so it is needed.

    Args:
        opened: what holds the clip.
        position: of the clip.
        model_path: a MuJoCo model (MJCF or URDF), or None.

    Raises:
        MissingKeyError: the clip has neither bodies nor joints, or joints alone and there is no model.
        SourceNotFoundError, SourceError: the model cannot be read, or lacks a joint of the clip.
        MissingExtraError: MuJoCo is not installed.
    """
    clip = opened.clips[position]
    model = None if model_path is None else _model(model_path)
    told = opened.attributes(position)
    for _, rows in _arrays(opened, position, _BODIES):
        if rows.ndim == 3 and rows.shape[2] == 3:
            return _stored(clip, rows, told.get("body_names"), model, model_path)
    if model is None or model_path is None:
        raise MissingKeyError(
            f"{opened.path}: {clip.path} has no positions of bodies ({', '.join(_BODIES)}, [T, B, 3]); pass the "
            "robot's model with --mjcf, which makes them of the joints"
        )
    for key, rows in _arrays(opened, position, _JOINTS):
        if rows.ndim == 2:
            return _computed(clip, rows.astype(np.float64), told, model, f"{model_path}: {clip.path} {key}")
    raise MissingKeyError(f"{opened.path}: {clip.path} has neither bodies nor joints ({', '.join(_JOINTS)}) to draw")


def _arrays(opened: Opened, position: int, keys: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield those of the keys that a clip has, with their arrays."""
    for key in keys:
        if key in opened.keys:
            try:
                rows = opened.read(position, [key])[key]
            except MissingKeyError:  # other clips have it
                continue
            yield key, rows


def _model(path: Path) -> mujoco.MjModel:
    try:
        import mujoco
    except ImportError as error:
        raise missing_extra("viz", "a MuJoCo model") from error
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file, expected a MuJoCo model")
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise SourceError(f"{path}: expected a MuJoCo model: {' '.join(str(error).split())}") from error


def _stored(
    clip: ClipInfo, rows: NDArray[Any], told: Any, model: mujoco.MjModel | None, model_path: Path | None
) -> Bodies:
    """Return bodies that were recorded, with the links of a model's bodies of the same names."""
    count = rows.shape[1]
    named = isinstance(told, Sequence) and len(told) == count
    names = [str(name) for name in told] if named else [f"body {number}" for number in range(count)]
    notes = [] if named else ["nobody names the bodies: they have numbers"]
    links: list[tuple[int, int]] = []
    if model is None:
        notes.append("which bodies hang together is not known: --mjcf says so")
    else:
        tree = _tree(model)
        at = {name: number for number, name in enumerate(names)}
        if unknown := [name for name in names if name not in tree]:
            notes.append(f"{model_path} has no body called {_some(unknown)}: nothing hangs on it")
        for name, parent in tree.items():
            while parent is not None and parent not in at:
                parent = tree[parent]  # a body between two that were recorded
            if name in at and parent is not None:
                links.append((at[parent], at[name]))
    return Bodies(clip, names, rows.astype(np.float32), links, notes)


def _computed(
    clip: ClipInfo, rows: NDArray[np.float64], told: Mapping[str, Any], model: mujoco.MjModel, where: str
) -> Bodies:
    """Return bodies as the model's kinematics has them for each row of joints [T, C]."""
    import mujoco

    states, notes = _generalised_positions(rows, told, model, where)
    data = mujoco.MjData(model)
    positions = np.empty((len(states), model.nbody - 1, 3), dtype=np.float32)
    for frame, state in enumerate(states):
        data.qpos[:] = state
        mujoco.mj_kinematics(model, data)
        positions[frame] = data.xpos[1:] if np.isfinite(state).all() else np.nan
    names = [model.body(number).name or f"body {number}" for number in range(1, model.nbody)]
    links = [(parent - 1, body) for body, parent in enumerate(model.body_parentid[1:].tolist()) if parent > 0]
    return Bodies(clip, names, positions, links, notes)


def _generalised_positions(
    rows: NDArray[np.float64], told: Mapping[str, Any], model: mujoco.MjModel, where: str
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the model's qpos for each row, [T, nq]: root and joints by name, else columns in its order."""
    import mujoco

    width = rows.shape[1]
    joints = told.get("joint_names")
    if not isinstance(joints, Sequence) or len(joints) not in (width, width - _ROOT_COLUMNS):
        if width != model.nq:
            raise SourceError(f"{where}: expected the names of the joints or {model.nq} columns, found {width} columns")
        return rows, ["nobody names the joints: they are taken in the model's order"]
    states = np.tile(model.qpos0, (len(rows), 1))
    notes = []
    first = width - len(joints)
    free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
    if first and len(free):
        root = rows[:, :_ROOT_COLUMNS]
        order = [0, 1, 2, 6, 3, 4, 5] if told.get("quaternion_order") == "xyzw" else slice(None)
        adr = int(model.jnt_qposadr[free[0]])
        states[:, adr : adr + _ROOT_COLUMNS] = root[:, order]
    elif first or len(free):
        notes.append(f"the root stays where it is: {'the model' if first else 'the clip'} has none that moves")
    simple = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
    at = {
        model.joint(number).name: int(model.jnt_qposadr[number])
        for number in range(model.njnt)
        if int(model.jnt_type[number]) in simple
    }
    if unknown := [str(name) for name in joints if name not in at]:
        raise SourceError(f"{where}: the model has no joint called {_some(unknown)}; it has {_some(list(at))}")
    states[:, [at[name] for name in joints]] = rows[:, first:]
    if left := [name for name in at if name not in joints]:
        notes.append(f"the clip does not say where {_some(left)} are: they stay as the model has them")
    return states, notes


def _tree(model: mujoco.MjModel) -> dict[str, str | None]:
    """Return the name of each body's parent; None where that is the world."""
    names = [model.body(number).name for number in range(model.nbody)]
    parents = model.body_parentid.tolist()
    return {names[body]: names[parents[body]] if parents[body] else None for body in range(1, model.nbody)}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(repr, names[:_MOST_NAMED])) + more
