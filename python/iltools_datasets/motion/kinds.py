"""What the numbers of each key are: one table of names, and how the last axis of a key is cut into pieces.

The doctor, the resampler and the motion look-up read the same table, so a key that one of them knows is known to all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from iltools_datasets.errors import SchemaError

Kind = Literal["joint", "position", "quaternion", "vector", "local", "angle", "hold"]
"""joint: a plain number. position: a point, in the world. quaternion: a rotation, to the world. vector: turned with
the world (linear and angular velocities). local: in the body's own frame, not turned. angle: wraps at pi. hold: ints,
bools, images, whatever belongs to a transition; never mixed."""

KINDS: tuple[Kind, ...] = get_args(Kind)

ELEMENT_WIDTH: Mapping[Kind, int] = {"position": 3, "quaternion": 4, "vector": 3, "local": 3}
"""Numbers of one point, rotation or vector; the other kinds take any width."""

_FREE_JOINT = 3
"""The column of a generalised position at which the quaternion of a free root begins; its position lies before it."""


class Piece(NamedTuple):
    """So many consecutive columns of a key's last axis, of one kind; several points or rotations may stand in a row."""

    kind: Kind
    width: int


Pieces = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """What is known of a key by its name.

    Attributes:
        kind: of its columns. Where it is "joint" the columns of a free root and of ball joints come besides.
        of: what its rows are about: the columns are joints, or the axis before the last one is bodies or sites.
        velocity: key of its velocity, if this package reads one.
    """

    kind: Kind
    of: Literal["joint", "body", "site", "root"]
    velocity: str | None = None


NAMES: Mapping[str, Name] = {
    "qpos": Name("joint", "joint", "qvel"),
    "joint_pos": Name("joint", "joint", "joint_vel"),
    "dof_positions": Name("joint", "joint", "dof_velocities"),
    "body_pos_w": Name("position", "body", "body_lin_vel_w"),
    "body_positions": Name("position", "body", "body_linear_velocities"),
    "body_quat_w": Name("quaternion", "body", "body_ang_vel_w"),
    "body_rotations": Name("quaternion", "body", "body_angular_velocities"),
    "qvel": Name("joint", "joint"),
    "joint_vel": Name("joint", "joint"),
    "dof_velocities": Name("joint", "joint"),
    "body_lin_vel_w": Name("vector", "body"),
    "body_linear_velocities": Name("vector", "body"),
    "body_ang_vel_w": Name("vector", "body"),
    "body_angular_velocities": Name("vector", "body"),
    "xpos": Name("position", "body"),
    "xquat": Name("quaternion", "body"),
    "cvel": Name("vector", "body"),
    "subtree_com": Name("position", "body"),
    "site_xpos": Name("position", "site"),
    "ee_pos": Name("position", "site"),
    "root_pos": Name("position", "root"),
}
"""Every key this package reads, over all formats. MuJoCo's `cvel` is angular, then linear; both turn with the world."""

VELOCITY_OF: Mapping[str, str] = {key: name.velocity for key, name in NAMES.items() if name.velocity is not None}
"""Key of a position or rotation -> key of its velocity."""

POSE_KEYS = (("body_pos_w", "body_quat_w"), ("body_positions", "body_rotations"), ("xpos", "xquat"))
"""Keys of bodies' positions and of the same bodies' rotations."""

_POSITION_OF = {velocity: key for key, velocity in VELOCITY_OF.items()}


def is_position_or_rotation(key: str) -> bool:
    """Whether a name says that a key holds coordinates or rotations (and not velocities)."""
    known = NAMES.get(key)
    moves = known is not None and key not in _POSITION_OF and known.kind in ("joint", "position", "quaternion")
    return moves or names_quaternion(key)


def names_quaternion(key: str) -> bool:
    """Whether a name says quaternion, in the table or by itself."""
    known = NAMES.get(key)
    return known.kind == "quaternion" if known is not None else "quat" in key


def quaternion_columns(
    key: str, shape: Sequence[int], velocity_shape: Sequence[int] | None, declared: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Return the columns of the last axis at which unit quaternions begin.

    Args:
        key: its name.
        shape: of one row.
        velocity_shape: of one row of its velocity, None without one.
        declared: what the source says; it counts before any guess.

    A generalised position that is one wider than its velocity begins with a free joint: xyz and a quaternion.
    """
    if declared is not None:
        return tuple(declared)
    if not shape:
        return ()
    if names_quaternion(key) and shape[-1] == ELEMENT_WIDTH["quaternion"]:
        return (0,)
    if len(shape) == 1 and velocity_shape is not None and len(velocity_shape) == 1 and shape[0] >= 7:
        return (_FREE_JOINT,) if shape[0] == velocity_shape[0] + 1 else ()
    return ()


def known_pieces(
    shapes: Mapping[str, Sequence[int]],
    *,
    floats: Mapping[str, bool] | None = None,
    declared: Mapping[str, Any] | None = None,
) -> dict[str, Pieces]:
    """Return the pieces of every key that is known; a key that is not is left out, never guessed at.

    Args:
        shapes: key -> shape of one row.
        floats: key -> whether it holds floating-point numbers; others are held. None: all do.
        declared: what the source says of itself: `quaternions` (key -> columns), `joint_names`, and `kinds`
            (key -> pieces, as `as_pieces` takes them), which counts before everything else.

    Raises:
        SchemaError: declared kinds that do not fit the shape.
    """
    told = declared or {}
    found: dict[str, Pieces] = {}
    for key, shape in shapes.items():
        width = int(shape[-1]) if len(shape) else 1
        if key in (told.get("kinds") or {}):
            found[key] = as_pieces(told["kinds"][key], width, key)
        elif floats is not None and not floats[key]:
            found[key] = (Piece("hold", width),)
        elif (pieces := _pieces_by_name(key, tuple(shape), shapes, told)) is not None:
            found[key] = pieces
    return found


def _pieces_by_name(
    key: str, shape: tuple[int, ...], shapes: Mapping[str, Sequence[int]], told: Mapping[str, Any]
) -> Pieces | None:
    name = NAMES.get(key)
    starts = (told.get("quaternions") or {}).get(key)
    if not shape:
        return None
    width = shape[-1]
    if name is None or name.kind == "quaternion":
        quaternions = quaternion_columns(key, shape, None, starts) == (0,) and width == ELEMENT_WIDTH["quaternion"]
        return (Piece("quaternion", width),) if quaternions else None
    if name.kind != "joint":
        return (Piece(name.kind, width),) if width and width % ELEMENT_WIDTH[name.kind] == 0 else None
    if len(shape) != 1:
        return None
    if key in _POSITION_OF:
        return _velocity_pieces(key, width, shapes, told)
    return _joint_pieces(key, width, shapes, told)


def _joint_pieces(key: str, width: int, shapes: Mapping[str, Sequence[int]], told: Mapping[str, Any]) -> Pieces | None:
    """Return position, quaternion and joints of a generalised position, or None where it may or may not have a root."""
    velocity = shapes.get(VELOCITY_OF.get(key, ""))
    starts = (told.get("quaternions") or {}).get(key)
    if starts is None:
        starts = quaternion_columns(key, (width,), velocity)
        names = told.get("joint_names")
        count = len(names) if isinstance(names, list | tuple) else None
        if not starts and count is not None and width >= 7 and count in (width - 7, width - 6):
            starts = (_FREE_JOINT,)
        elif not starts and (velocity is None or width != velocity[-1]) and count != width:
            return None
    return tuple(_walk(width, tuple(starts)))


def _walk(width: int, starts: tuple[int, ...]) -> Iterator[Piece]:
    """Yield the pieces of a generalised position; a quaternion right behind the first three columns has a position."""
    column = 0
    for start in (*sorted(starts), width):
        if column == 0 and start == _FREE_JOINT and start in starts:
            yield Piece("position", start)
        elif start > column:
            yield Piece("joint", start - column)
        if start < width:
            yield Piece("quaternion", ELEMENT_WIDTH["quaternion"])
        column = start + ELEMENT_WIDTH["quaternion"]


def _velocity_pieces(
    key: str, width: int, shapes: Mapping[str, Sequence[int]], told: Mapping[str, Any]
) -> Pieces | None:
    """Return the pieces of a generalised velocity, in MuJoCo's frames: linear in the world's, angular in the body's."""
    position = _POSITION_OF[key]
    if position not in shapes or len(shapes[position]) != 1:
        names = told.get("joint_names")
        return (Piece("joint", width),) if isinstance(names, list | tuple) and len(names) == width else None
    of = _joint_pieces(position, int(shapes[position][-1]), shapes, told)
    if of is None:
        return None
    joints = sum(piece.width for piece in of if piece.kind == "joint")
    if joints == width:
        return (Piece("joint", width),)
    moving: Mapping[Kind, Piece] = {"position": Piece("vector", 3), "quaternion": Piece("local", 3)}
    pieces = tuple(moving.get(piece.kind, piece) for piece in of)
    # Only of `qvel` it is known in which frames its root is.
    return pieces if key == "qvel" and sum(piece.width for piece in pieces) == width else None


def as_pieces(value: Any, width: int, key: object) -> Pieces:
    """Return what a caller or an attribute says of a key as pieces.

    Args:
        value: one kind for the whole axis (`"position"`), or a sequence of kinds and `(kind, width)` pairs
            (`["position", "quaternion", "joint"]`): a kind alone takes its 3 or 4 columns; of those with any width one
            may stand alone, for all columns that are left.
        width: of the last axis.
        key: for messages.

    Raises:
        SchemaError: no such kind, or the widths do not add up.
    """
    items = [(value, width)] if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not items:
        raise SchemaError(f"kinds: key {key!r}: expected a kind of {list(KINDS)} or a list of them, found {value!r}")
    pieces: list[tuple[Kind, int | None]] = []
    for item in items:
        kind, given = (item, None) if isinstance(item, str) else (tuple(item) if _is_pair(item) else (item, None))
        if kind not in KINDS:
            raise SchemaError(f"kinds: key {key!r}: {kind!r} is no kind; there are {list(KINDS)}")
        element = ELEMENT_WIDTH.get(kind)
        given = element if given is None else given
        if given is not None and (isinstance(given, bool) or given < 1 or given % (element or 1)):
            raise SchemaError(
                f"kinds: key {key!r}: a {kind} of {given} columns; {element or 1} are needed, or a multiple"
            )
        pieces.append((kind, given))
    named = sum(given for _, given in pieces if given is not None)
    rest = width - named
    if [given for _, given in pieces].count(None) > 1 or rest < 0 or (rest > 0) != any(g is None for _, g in pieces):
        raise SchemaError(f"kinds: key {key!r}: {value!r} does not make up the {width} columns of its last axis")
    return tuple(Piece(kind, rest if given is None else given) for kind, given in pieces)


def _is_pair(item: Any) -> bool:
    return isinstance(item, Sequence) and len(item) == 2 and isinstance(item[1], int)
