"""Motion of every body of a simulated character: ProtoMotions' `.motion` and motion libraries, poselib's skeletons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.kinds import names_quaternion
from iltools_datasets.motion.orders import find_evidence
from iltools_datasets.sources.formats.held import Held, as_numbers
from iltools_datasets.sources.protocol import Recording
from iltools_datasets.sources.told import ToldSource, refuse_no_rotations, turned

_RENAMED = {
    "rigid_body_pos": "body_pos_w", "rigid_body_rot": "body_quat_w", "rigid_body_vel": "body_lin_vel_w",
    "rigid_body_ang_vel": "body_ang_vel_w", "dof_pos": "joint_pos", "dof_vel": "joint_vel",
    "gts": "body_pos_w", "grs": "body_quat_w", "gvs": "body_lin_vel_w", "gavs": "body_ang_vel_w",
    "dps": "joint_pos", "dvs": "joint_vel", "lrs": "local_rigid_body_rot", "contacts": "rigid_body_contacts",
}  # fmt: skip
"""ProtoMotions' keys, of one clip and of a library -> those of the archive. All are in the world's frame but `lrs`."""
_WIDTHS = {"body_pos_w": 3, "body_quat_w": 4, "body_lin_vel_w": 3, "body_ang_vel_w": 3}
_LOCAL = "local_rigid_body_rot"
_VELOCITIES = ("joint_vel", "body_lin_vel_w", "body_ang_vel_w")
_STARTS, _COUNTS, _PERIODS, _FILES = "length_starts", "motion_num_frames", "motion_dt", "motion_files"
_LIBRARY = ("motion_weights", "motion_lengths", _STARTS, _COUNTS, _PERIODS, _FILES)
_PARTS = ("arr", "context")


def is_proto_motion(keys: Iterable[str]) -> bool:
    """Tell by its keys whether a file is a motion of ProtoMotions."""
    return {"rigid_body_pos", "rigid_body_rot"} <= set(keys)


def is_proto_library(keys: Iterable[str]) -> bool:
    """Tell by its keys whether a file is a packed motion library of ProtoMotions."""
    return {"gts", "grs", _STARTS, _COUNTS} <= set(keys)


def is_skeleton_motion(keys: Iterable[str]) -> bool:
    """Tell by its keys whether a file is a motion of poselib (ASE, AMP of Isaac Gym)."""
    return {"rotation", "root_translation"} <= set(keys)


def read_proto_library(source: ToldSource, path: Path, held: Mapping[str, Any]) -> Iterator[Recording]:
    """Yield a recording per clip of a library, whose frames lie back to back."""
    library = Held(str(path), held, source.skip)
    for key in (_STARTS, _COUNTS):
        if key not in library.arrays or library.arrays[key].dtype.kind not in "iu" or library.arrays[key].ndim != 1:
            raise SourceError(f"{path}: {key!r} should be integers, one per clip")
    starts, counts = (library.arrays[key].astype(np.int64).tolist() for key in (_STARTS, _COUNTS))
    frames = len(library.arrays["gts"])
    files, periods = library.names(_FILES) or [], library.arrays.get(_PERIODS)
    if len(starts) != len(counts):
        raise SourceError(f"{path}: {len(starts)} clips begin, {len(counts)} have a length")
    rows = {key: array for key, array in library.arrays.items() if key in _RENAMED}
    for clip, (first, count) in enumerate(zip(starts, counts, strict=True)):
        if first < 0 or count < 1 or first + count > frames:
            raise SourceError(f"{path}: clip {clip} is frames {first} to {first + count}, there are {frames}")
        values: dict[str, Any] = {key: array[first : first + count].copy() for key, array in rows.items()}
        if periods is not None and periods.shape == (len(starts),):
            values["dt"] = float(periods[clip])
        named = {"clip": Path(files[clip]).stem} if len(files) == len(starts) else {}
        one = Held(f"{path}: clip {clip}", values, source.skip)
        yield read_proto_motion(source, path, one, named)
    rest = Held(str(path), {key: value for key, value in held.items() if key not in (*rows, *_LIBRARY)}, source.skip)
    rest.say_what_is_left(source, path, ())


def read_proto_motion(
    source: ToldSource, path: Path, clip: Held, attributes: Mapping[str, Any] | None = None
) -> Recording:
    """Return a clip with the keys of a motion-tracking npz; quaternions are brought to wxyz."""
    frames, bodies = (*clip.arrays[str(clip.first(("rigid_body_pos", "gts")))].shape, 0)[:2]
    arrays = {_RENAMED.get(key, key): array for key, array in clip.rows(frames, ()).items()}
    for key, width in _WIDTHS.items():
        array = arrays.get(key)
        if array is None and key in ("body_pos_w", "body_quat_w"):
            raise SourceError(f"{clip.where}: {key!r} has other frames than the positions of the bodies")
        if array is not None and (array.shape != (frames, bodies, width) or array.dtype.kind != "f"):
            raise SourceError(
                f"{clip.where}: {key!r} is {array.dtype} {list(array.shape)}, expected floats {[frames, bodies, width]}"
            )
    rotations = arrays["body_quat_w"]
    refuse_no_rotations(Path(clip.where), "'rigid_body_rot'", rotations)
    if not bodies or not frames:
        raise SourceError(f"{clip.where}: has {frames} frames of {bodies} bodies")
    order = source.order(path, find_evidence(rotations[:, 0], rotations, arrays.get("body_ang_vel_w")))
    quaternions: dict[str, tuple[int, ...]] = {}
    for key, array in arrays.items():
        if (key == _LOCAL or names_quaternion(key)) and array.shape[-1] == 4 and array.dtype.kind == "f":
            arrays[key], quaternions[key] = turned(array, (0,), order), (0,)
    found = {
        **(attributes or {}),
        **source.all_names(path, clip.names("joint_names", "dof_names"), clip.names("body_names")),
        "quaternion_order_in_file": order,
    }
    more = clip.attributes({*clip.rows(frames, ()), *found})
    clip.say_what_is_left(source, path, {*clip.rows(frames, ()), *more, *found, "dof_names"})
    return Recording(
        arrays,
        fps=source.needed_rate(Path(clip.where), source.rate_of(path, clip.stated_rate)),
        quaternions=quaternions,
        velocities=dict.fromkeys((key for key in _VELOCITIES if key in arrays), "as in the file"),
        attributes={**more, **found},
    )


def read_skeleton_motion(source: ToldSource, path: Path, held: Mapping[str, Any]) -> Recording:
    """Return poselib's `SkeletonMotion.to_dict()`: `rotation [T, J, 4]`, `root_translation [T, 3]`, global velocities.

    Rotations are brought to wxyz; whether each is local, to its parent, or global the attribute `is_local` says. Node
    names become `body_names`, `parent_indices` and `local_translation` of the skeleton attributes.
    """
    tree = held.get("skeleton_tree")
    values = {key: _part(value) for key, value in held.items() if key not in ("skeleton_tree", "__name__")}
    clip = Held(str(path), values, source.skip)
    rotations = clip.arrays.get("rotation")
    if rotations is None or rotations.ndim != 3 or rotations.shape[-1] != 4 or not rotations.size:
        raise SourceError(f"{path}: 'rotation' should be quaternions [T, joints, 4]")
    clip.matrix("root_translation", 3, len(rotations))
    refuse_no_rotations(path, "'rotation'", rotations)
    order = source.order(path, find_evidence(rotations[:, 0]))
    arrays = clip.rows(len(rotations), ())
    arrays["rotation"] = turned(rotations, (0,), order)
    skeleton = (
        Held(str(path), {key: _part(value) for key, value in tree.items()}) if isinstance(tree, Mapping) else None
    )
    nodes = None if skeleton is None else skeleton.names("node_names")
    attributes: dict[str, Any] = {**source.all_names(path, bodies=nodes)}
    if skeleton is not None:
        attributes |= {key: array.tolist() for key, array in skeleton.arrays.items() if np.isfinite(array).all()}
    more = clip.attributes(arrays)
    clip.say_what_is_left(source, path, {*arrays, *more})
    return Recording(
        arrays,
        fps=source.needed_rate(path, source.rate_of(path, clip.stated_rate)),
        quaternions={"rotation": (0,)},
        velocities=dict.fromkeys((key for key in arrays if "velocity" in key), "as in the file"),
        attributes={**more, **attributes, "quaternion_order_in_file": order},
    )


def _part(value: Any) -> Any:
    """Return the numbers of what poselib writes as a dictionary of an array and its context."""
    if isinstance(value, Mapping) and set(value) <= set(_PARTS) and "arr" in value:
        return as_numbers(value["arr"])
    return value
