"""What can be found in a store: what its clips hold, by the checks for archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from numpy.typing import NDArray

from iltools_datasets.archive.schema import ROWS_ARE_TRANSITIONS, ROWS_ATTRIBUTE, ArraySpec, Trajectory
from iltools_datasets.doctor.examine import Diagnosis, evenly_spread, examine_clips
from iltools_datasets.errors import SchemaError
from iltools_datasets.motion.description import Description, describe
from iltools_datasets.motion.kinds import Pieces
from iltools_datasets.store.keys import Key, parts_of
from iltools_datasets.store.trajectory_store import TrajectoryStore


def examine_store(
    store: TrajectoryStore, progress: Callable[[], None] | None = None, most: int | None = None
) -> Diagnosis:
    """Look at the clips of a store as at those of an archive: values, quaternions, velocities, rates, jumps.

    What was left out when the store was built is not there to be found. Keys that the store derives from others, and
    numbers of bfloat16, are not looked at.

    Args:
        store: an open store; of one that grows, what there was when it was opened.
        progress: called after each clip.
        most: clips whose values are read, evenly spread over the store, with a note that says so; None = all.

    Raises:
        ArgumentError: fewer clips than one.
    """
    followers = {store.successor(key) for key in store.keys}
    bits = [key for key in store.keys if store.is_bfloat16(key)]
    keys = {"/".join(parts_of(key)): key for key in store.keys if key not in followers and key not in bits}
    notes = [f"keys of bfloat16 were not looked at: {', '.join(map(str, bits))}"] if bits else []
    try:
        told = describe(store.attributes, {name: store.shape(key) for name, key in keys.items()})
    except SchemaError as error:
        told = Description()
        notes.append(f"what the store says of its motion was not used: {error}")
    clips = _clips(store, keys, told)

    def read() -> Iterator[tuple[Trajectory, Mapping[str, NDArray[Any]]]]:
        for position in evenly_spread(len(clips), most):
            arrays = store.trajectory(position, list(keys.values()))
            yield clips[position], {name: arrays[key] for name, key in keys.items()}

    diagnosis = examine_clips(str(store.path), read(), clips, None, progress)
    diagnosis.notes += notes
    return diagnosis


def _clips(store: TrajectoryStore, keys: Mapping[str, Key], told: Description) -> list[Trajectory]:
    """Return each trajectory as an archive would declare it."""
    shared: dict[str, Any] = {"quaternion_order": told.quaternion_order}
    shared |= {"joint_names": list(told.joint_names)} if told.joint_names else {}
    shared |= {"body_names": list(told.body_names)} if told.body_names else {}
    shared["quaternions"] = {key: starts for key, pieces in told.kinds.items() if (starts := _quaternions(pieces))}
    has_states = any(store.successor(key) is not None for key in store.keys)
    if not has_states:
        shared[ROWS_ATTRIBUTE] = ROWS_ARE_TRANSITIONS
    specs = {name: (store.successor(key) is not None, store.shape(key), store.dtype(key)) for name, key in keys.items()}
    clips = []
    for position, (segment, path) in enumerate(zip(store.segments, store.trajectory_paths, strict=True)):
        rate = (told.fps[position : position + 1] or (None,))[0] if isinstance(told.fps, tuple) else told.fps
        clips.append(
            Trajectory(
                segment.task_id,
                segment.traj_id,
                PurePath(path).name,
                path,
                segment.length + has_states,
                {
                    name: ArraySpec((segment.length + is_state, *shape), dtype)
                    for name, (is_state, shape, dtype) in specs.items()
                },
                shared if rate is None else {**shared, "fps": rate},
            )
        )
    return clips


def _quaternions(pieces: Pieces) -> list[int]:
    """Return the columns at which quaternions begin."""
    starts: list[int] = []
    column = 0
    for kind, width in pieces:
        starts += range(column, column + width, 4) if kind == "quaternion" else ()
        column += width
    return starts
