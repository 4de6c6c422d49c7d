"""What a clip or a store says of its motion: rate, kinds, names, order of quaternions; and whether clips agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from iltools_datasets.errors import SchemaError
from iltools_datasets.motion.kinds import Pieces, known_pieces

QuaternionOrder = Literal["wxyz", "xyzw"]

ATTRIBUTE = "motion"
"""The store's attribute that holds a description."""


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of the motion in a clip, or in all clips of a store.

    Attributes:
        fps: states per second; of a store one number, or one per clip in its order (None where a clip does not say).
        kinds: key -> pieces of its last axis; nested keys with slashes between their names.
        joint_names, body_names: None where nobody says.
        quaternion_order: in which quaternions are stored.
    """

    fps: float | tuple[float | None, ...] | None = None
    kinds: Mapping[str, Pieces] = field(default_factory=dict)
    joint_names: tuple[str, ...] | None = None
    body_names: tuple[str, ...] | None = None
    quaternion_order: QuaternionOrder = "wxyz"

    def as_attribute(self) -> dict[str, Any]:
        """Return what goes into `attributes["motion"]` of a store, as JSON; unknown names are null."""
        return {
            "fps": list(self.fps) if isinstance(self.fps, tuple) else self.fps,
            "kinds": {key: [list(piece) for piece in pieces] for key, pieces in self.kinds.items()},
            "joint_names": None if self.joint_names is None else list(self.joint_names),
            "body_names": None if self.body_names is None else list(self.body_names),
            "quaternion_order": self.quaternion_order,
        }

    def with_rates(self, rates: Sequence[float | None]) -> Description:
        """Return the same with the rates of all clips: one number where they agree."""
        first = rates[0] if len(rates) else None
        return replace(self, fps=first if all(rate == first for rate in rates) else tuple(rates))


def describe(
    attributes: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], floats: Mapping[str, bool] | None = None
) -> Description:
    """Return what the attributes of a clip (or of a store, for all its clips) and the names of its keys say.

    Args:
        attributes: as exporters write them: `fps`, `kinds`, `quaternions`, `quaternion_order`, `joint_names`,
            `body_names`; of a store also all that below `"motion"`, which counts first.
        shapes: key -> shape of one row.
        floats: key -> whether it holds floating-point numbers.

    Raises:
        SchemaError: names that are no list of strings, an order that does not exist, kinds that do not fit the shapes,
            or rates that are no positive numbers.
    """
    own = attributes.get(ATTRIBUTE)
    told = {**attributes, **{key: value for key, value in own.items() if value is not None}} if own else attributes
    order = told.get("quaternion_order", "wxyz")
    if order not in ("wxyz", "xyzw"):
        raise SchemaError(f"quaternion_order is {order!r}; 'wxyz' or 'xyzw' is needed")
    kinds = told.get("kinds") or {}
    return Description(
        fps=_rates(told.get("fps")) if own else declared_rate(told),
        kinds=known_pieces(
            shapes, floats=floats, declared={**told, "kinds": {key: kinds[key] for key in kinds if key in shapes}}
        ),
        joint_names=_names(told, "joint_names"),
        body_names=_names(told, "body_names"),
        quaternion_order=order,
    )


def declared_rate(attributes: Mapping[str, Any]) -> float | None:
    """Return the states per second that attributes declare as fps, frequency or dt, or None."""
    for name in ("fps", "frequency"):
        if isinstance(attributes.get(name), int | float) and attributes[name] > 0:
            return float(attributes[name])
    dt = attributes.get("dt")
    return 1.0 / dt if isinstance(dt, int | float) and dt > 0 else None


def disagreement(here: Description, there: Description, keys: Sequence[str] | None = None) -> str | None:
    """Return in words in what the first differs from the second, or None; the rate may differ.

    Names that one of them does not know are no difference.

    Args:
        here: one description.
        there: another.
        keys: those whose kinds have to agree; None = all that both have.
    """
    for what in ("joint_names", "body_names"):
        mine, others = getattr(here, what), getattr(there, what)
        if mine is not None and others is not None and mine != others:
            if sorted(mine) == sorted(others):
                return f"{what} are in another order"
            odd = sorted(set(mine) ^ set(others))
            return f"{what} differ" + (f" in {', '.join(odd[:3])}" if odd else "")
    for key in keys if keys is not None else here.kinds:
        if here.kinds.get(key) != there.kinds.get(key) and (keys is not None or key in there.kinds):
            return f"key {key!r} is {_show(here.kinds.get(key))}, not {_show(there.kinds.get(key))}"
    if here.quaternion_order != there.quaternion_order and any(
        piece.kind == "quaternion" for pieces in here.kinds.values() for piece in pieces
    ):
        return f"quaternions are {here.quaternion_order}, not {there.quaternion_order}"
    return None


def merged(here: Description, there: Description) -> Description:
    """Return the first, with the names that only the second knows."""
    return replace(
        here,
        joint_names=here.joint_names if here.joint_names is not None else there.joint_names,
        body_names=here.body_names if here.body_names is not None else there.body_names,
    )


def _show(pieces: Pieces | None) -> str:
    return "unknown" if pieces is None else ", ".join(f"{piece.kind} {piece.width}" for piece in pieces)


def _rates(value: Any) -> float | tuple[float | None, ...] | None:
    if value is None:
        return None
    many = isinstance(value, Sequence) and not isinstance(value, str)
    for rate in value if many else [value]:
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0):
            raise SchemaError(f"fps: expected a positive number, or one per clip, found {rate!r}")
    return tuple(None if rate is None else float(rate) for rate in value) if many else float(value)


def _names(told: Mapping[str, Any], what: str) -> tuple[str, ...] | None:
    names = told.get(what)
    if names is None:
        return None
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise SchemaError(f"{what}: expected a list of strings, found {names!r}")
    return tuple(names) or None
