"""From names to numbers: which keys of a store are looked up, which bodies and joints of them, and where these lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.integers import checked_integer
from iltools_datasets.errors import ArgumentError, MissingKeyError, SchemaError
from iltools_datasets.motion.description import Description, describe
from iltools_datasets.motion.kinds import NAMES, POSE_KEYS, Piece, Pieces, as_pieces
from iltools_datasets.store.keys import Key, parts_of
from iltools_datasets.store.trajectory_store import TrajectoryStore

Name = str | int
Run = tuple[int, int]
"""First number and count, within the flattened row of a key."""

_ROOT_PIECES = ((Piece("position", 3), Piece("quaternion", 4)), (Piece("vector", 3), Piece("local", 3)))
_MOST_NAMES = 12


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """One key of a look-up.

    Attributes:
        key: as callers name it.
        field: its position in the store.
        runs: which numbers of a stored row make up a returned one, in order.
        pieces: what the numbers of a returned row are, flattened.
        shape: of a returned row.
    """

    key: Key
    field: int
    runs: tuple[Run, ...]
    pieces: Pieces
    shape: tuple[int, ...]


class MotionLayout:
    """What a store holds of motion: kinds, names and rates, by argument, attribute or name of the key.

    Args:
        store: with a row per state.
        fps: states per second, a number or one per clip; None = what the store says.
        kinds: key -> kinds of its columns, as `kinds.as_pieces` takes them; counts before what the store says.

    Attributes:
        fps: float64 [clips].
        pieces: key -> pieces of its last axis, of every key that is known; those of transitions are held.
        joint_names, body_names: those of the store, None where nobody says.

    Raises:
        MissingKeyError: `kinds` names a key that is not there.
        SchemaError: kinds that do not fit.
        ArgumentError: no rate is known, or it is no positive number.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        fps: float | Sequence[float] | NDArray[Any] | None = None,
        kinds: Mapping[Key, Any] | None = None,
    ) -> None:
        self.store = store
        # Histories are of several times at once.
        fields = [field for field in zip(store.keys, store.layout, strict=True) if field[1].history is None]
        self._rows = {key: field.rows for key, field in fields}
        description = self._described()
        self.pieces: dict[Key, Pieces] = {}
        for key, rows in self._rows.items():
            shape = store.shape(key)
            if not prod(shape):
                continue
            if rows == "transition":
                self.pieces[key] = (Piece("hold", shape[-1] if shape else 1),)
            elif rows == "state" and (pieces := description.kinds.get(_path(key))) is not None:
                self.pieces[key] = pieces
        for key, told in (kinds or {}).items():
            if key not in self._rows:
                raise MissingKeyError(f"{store.path}: kinds: no key {key!r}; there are {list(self._rows)}")
            shape = store.shape(key)
            self.pieces[key] = as_pieces(told, shape[-1] if shape else 1, key)
        self.joint_names, self.body_names = description.joint_names, description.body_names
        self.quaternion_order = description.quaternion_order
        self.fps = _rates(store, description.fps if fps is None else fps)

    def _described(self) -> Description:
        """Read what the store says; keys below one name belong together."""
        states = [key for key, rows in self._rows.items() if rows == "state"]
        found: dict[str, Pieces] = {}
        description = Description()
        for prefix in dict.fromkeys(parts_of(key)[:-1] for key in states) or [()]:
            keys = {parts_of(key)[-1]: key for key in states if parts_of(key)[:-1] == prefix}
            told = dict(self.store.attributes)
            own = told.get("motion")
            if own:
                paths = {_path(key): name for name, key in keys.items()}
                kinds = {paths[path]: value for path, value in (own.get("kinds") or {}).items() if path in paths}
                told["motion"] = {**own, "kinds": kinds}
            shapes = {name: self.store.shape(key) for name, key in keys.items()}
            floats = {name: _is_float(self.store, key) for name, key in keys.items()}
            try:
                description = describe(told, shapes, floats)
            except SchemaError as error:
                raise SchemaError(f"{self.store.path}: attributes: {error}") from None
            found |= {_path(keys[name]): pieces for name, pieces in description.kinds.items()}
        return Description(
            description.fps,
            found,
            description.joint_names,
            description.body_names,
            description.quaternion_order,
        )

    def default_keys(self) -> list[Key]:
        """Return every float key per state whose kinds are known."""
        known = [key for key in self.pieces if self._rows[key] == "state" and _is_float(self.store, key)]
        if not known:
            raise MissingKeyError(
                f"{self.store.path}: no key of motion is known among {self.store.keys}; pass keys= and kinds="
            )
        return known

    def key(self, key: Key, bodies: Sequence[Name] | None = None, joints: Sequence[Name] | None = None) -> KeyLayout:
        """Return where a key's numbers lie, and those of some bodies and joints alone, in the order asked for.

        Raises:
            MissingKeyError: there is no such key.
            SchemaError: it is not known what its numbers are, or the names do not fit its shape.
            ArgumentError: no such body or joint, or one twice.
        """
        if key not in self._rows:
            raise MissingKeyError(f"{self.store.path}: no key {key!r}; there are {list(self._rows)}")
        if self._rows[key] == "next_state":
            raise ArgumentError(f"key {key!r} is {parts_of(key)[1:]} of the next state; ask for a later offset instead")
        if key not in self.pieces:
            raise SchemaError(
                f"{self.store.path}: key {key!r} of shape {list(self.store.shape(key))}: what its numbers are is not "
                f"known; pass kinds={{{key!r}: ...}} or leave it out of keys"
            )
        shape, pieces = self.store.shape(key), self.pieces[key]
        width = shape[-1] if shape else 1
        groups = prod(shape[:-1])
        field = self.store.field_ids([key])[0]
        if bodies is not None and self._is_of_bodies(key):
            runs = tuple((body * width, width) for body in self._bodies(key, bodies))
            return KeyLayout(key, field, runs, _repeated(pieces, len(runs)), (len(runs), width))
        if joints is not None and (slots := self._joints(key, joints)) is not None:
            runs = tuple((start, sum(piece.width for piece in of)) for start, of in slots)
            flat = tuple(piece for _, of in slots for piece in of)
            return KeyLayout(key, field, runs, flat, (sum(piece.width for piece in flat),))
        return KeyLayout(key, field, ((0, groups * width),), _repeated(pieces, groups), shape)

    def _is_of_bodies(self, key: Key) -> bool:
        known = NAMES.get(parts_of(key)[-1])
        if known is not None:
            return known.of == "body"
        shape = self.store.shape(key)
        return len(shape) == 2 and self.body_names is not None and shape[0] == len(self.body_names)

    def _bodies(self, key: Key, bodies: Sequence[Name]) -> list[int]:
        there = prod(self.store.shape(key)[:-1])
        if self.body_names is not None and len(self.body_names) != there:
            raise SchemaError(f"{self.store.path}: key {key!r} has {there} bodies, but {len(self.body_names)} names")
        return chosen("bodies", bodies, self.body_names, there)

    def _joints(self, key: Key, joints: Sequence[Name]) -> list[tuple[int, Pieces]] | None:
        """Return first column and pieces of the root, if there is one, and of the joints asked for, or None."""
        pieces = self.pieces[key]
        known = NAMES.get(parts_of(key)[-1])
        plain = sum(piece.width for piece in pieces if piece.kind in ("joint", "angle"))
        if len(self.store.shape(key)) != 1 or not plain:
            return None
        root = pieces[:2] if pieces[:2] in _ROOT_PIECES else ()
        column = sum(piece.width for piece in root)
        slots: list[tuple[int, Pieces]] = []
        for piece in pieces[len(root) :]:
            width = 1 if piece.kind in ("joint", "angle") else piece.width
            slots += [(column + at, (Piece(piece.kind, width),)) for at in range(0, piece.width, width)]
            column += piece.width
        names = self.joint_names
        if names is not None and root and len(names) == len(slots) + 1:
            names = names[1:]
        if names is not None and len(names) != len(slots):
            if known is None or known.of != "joint":
                return None
            raise SchemaError(f"{self.store.path}: key {key!r} has {len(slots)} joints, but {len(names)} names")
        picked = [slots[joint] for joint in chosen("joints", joints, names, len(slots))]
        return [(0, root), *picked] if root else picked

    def chosen_names(
        self, keys: Sequence[Key], bodies: Sequence[Name] | None, joints: Sequence[Name] | None
    ) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
        """Return the names of bodies and of joints that are returned, in order; None where nobody knows them.

        Raises ArgumentError for bodies or joints where the store says no names and none of the keys is of any.
        """
        if bodies is not None and self.body_names is None and not any(map(self._is_of_bodies, keys)):
            raise ArgumentError(f"{self.store.path}: bodies: none of the keys {list(keys)} is of bodies")
        of_joints = joints is not None and self.joint_names is None
        if of_joints and joints is not None and all(self._joints(key, joints) is None for key in keys):
            raise ArgumentError(f"{self.store.path}: joints: none of the keys {list(keys)} is of joints")

        def named(what: str, asked: Sequence[Name] | None, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
            if asked is None or names is None:
                return names
            return tuple(names[at] for at in chosen(what, asked, names, len(names)))

        return named("bodies", bodies, self.body_names), named("joints", joints, self.joint_names)

    def anchor(self, anchor: Name | None) -> tuple[Run, Run]:
        """Return (field, first number) of an anchor's position and of its rotation.

        Args:
            anchor: a body, by name (by number where there are no names); None or "root" = the root of a generalised
                position.

        Raises:
            ArgumentError: no such body, or there is no root and no body was named.
            SchemaError: no keys hold the positions and the rotations of bodies.
        """
        if anchor is None or (anchor == "root" and "root" not in (self.body_names or ())):
            for key, pieces in self.pieces.items():
                if pieces[:2] == _ROOT_PIECES[0] and len(self.store.shape(key)) == 1:
                    field = self.store.field_ids([key])[0]
                    return (field, 0), (field, 3)
            raise ArgumentError(f"{self.store.path}: no key holds the pose of a root; name a body as anchor=")
        position, rotation = self._pose_keys()
        (body,) = self._bodies(position, [anchor])
        self._bodies(rotation, [anchor])
        fields = self.store.field_ids([position, rotation])
        return (fields[0], 3 * body), (fields[1], 4 * body)

    def _pose_keys(self) -> tuple[Key, Key]:
        """Return the keys of bodies' positions and of their rotations."""
        paths = {_path(key): key for key in self.pieces}
        for path in paths:
            *prefix, name = path.split("/")
            for position, rotation in POSE_KEYS:
                partner = "/".join([*prefix, rotation])
                if name == position and partner in paths:
                    return paths[path], paths[partner]
        of_bodies = [key for key in self.pieces if self._is_of_bodies(key)]
        positions = [key for key in of_bodies if self.pieces[key] == (Piece("position", 3),)]
        rotations = [key for key in of_bodies if self.pieces[key] == (Piece("quaternion", 4),)]
        if len(positions) != 1 or len(rotations) != 1:
            raise SchemaError(
                f"{self.store.path}: an anchor needs one key of bodies' positions and one of their rotations; "
                f"there are {positions} and {rotations}"
            )
        return positions[0], rotations[0]


def chosen(what: str, asked: Sequence[Name], names: Sequence[str] | None, count: int) -> list[int]:
    """Return the positions of bodies or joints, in the order asked for.

    Raises ArgumentError for none at all, one that is not there (naming near ones), one twice, or integers where there
    are names.
    """
    if isinstance(asked, str) or not isinstance(asked, Iterable) or not len(asked):
        raise ArgumentError(f"{what}: expected a list of names, at least one, found {asked!r}")
    positions: list[int] = []
    for entry in asked:
        if isinstance(entry, str):
            if names is None:
                raise ArgumentError(f"{what}: {entry!r}: the store says no names; pass integers")
            if entry not in names:
                near = get_close_matches(entry, names, 3, 0.4) or list(names)[:_MOST_NAMES]
                raise ArgumentError(f"{what}: no {entry!r}; there are {', '.join(near)}")
            position = list(names).index(entry)
        elif names is not None:
            raise ArgumentError(f"{what}: {entry!r}: the store has names; choose by them")
        else:
            position = checked_integer(what, entry, 0, count - 1)
        if position in positions:
            raise ArgumentError(f"{what}: {entry!r} is there twice")
        positions.append(position)
    return positions


def _rates(store: TrajectoryStore, fps: Any) -> NDArray[np.float64]:
    clips = store.num_trajectories
    if fps is None:
        raise ArgumentError(f"{store.path}: the store does not say its rate; pass fps=")
    missing = [at for at, rate in enumerate(fps) if rate is None] if isinstance(fps, tuple | list) else []
    if missing:
        name = store.trajectory_name(missing[0]) or f"clip {missing[0]}"
        raise ArgumentError(f"{store.path}: no rate is known of {name} ({len(missing)} clips in all); pass fps=")
    try:
        rates = np.array(fps, dtype=np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(f"fps: expected a number or one per clip, found {fps!r:.80}") from None
    if rates.shape not in ((), (clips,)):
        raise ArgumentError(f"fps: expected a number or one for each of {clips} clips, found shape {list(rates.shape)}")
    bad = ~(np.isfinite(rates) & (rates > 0))
    if bad.any():
        raise ArgumentError(f"fps: expected positive numbers, found {float(rates[bad].flat[0])}")
    return np.ascontiguousarray(np.broadcast_to(rates, (clips,)))


def _repeated(pieces: Pieces, times: int) -> Pieces:
    if len(pieces) == 1:
        return (Piece(pieces[0].kind, pieces[0].width * times),)
    return pieces * times


def _is_float(store: TrajectoryStore, key: Key) -> bool:
    return store.dtype(key).kind == "f" or store.is_bfloat16(key)


def _path(key: Key) -> str:
    return "/".join(parts_of(key))
