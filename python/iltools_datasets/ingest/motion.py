"""What the clips of an archive say of their motion, and what the store then says: `attributes["motion"]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from iltools_datasets.errors import SchemaError
from iltools_datasets.ingest.options import where
from iltools_datasets.motion.description import Description, declared_rate, describe, disagreement, merged

if TYPE_CHECKING:
    from iltools_datasets.archive.schema import Trajectory

_TOLD = ("kinds", "quaternions", "quaternion_order", "joint_names", "body_names")


class MotionCheck:
    """Holds what each clip says against what the clips before it said."""

    def __init__(self) -> None:
        self._common: tuple[Trajectory, Description] | None = None
        self._seen: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        self._named: dict[str, Trajectory] = {}

    def add(self, trajectory: Trajectory) -> None:
        """Take a clip. Raises SchemaError naming it and the clip it disagrees with in names, kinds or order."""
        # Clips of one archive nearly always say the same: that is seen without looking closer.
        told = {key: trajectory.attributes[key] for key in _TOLD if key in trajectory.attributes}
        shapes = {key: spec.shape[1:] for key, spec in trajectory.keys.items()}
        if (told, shapes) in self._seen:
            return
        floats = {key: spec.dtype.kind == "f" for key, spec in trajectory.keys.items()}
        try:
            found = describe(told, shapes, floats)
        except SchemaError as error:
            raise SchemaError(f"{where(trajectory)}: {error}") from None
        if self._common is None:
            self._common = trajectory, found
        else:
            first, common = self._common
            difference = disagreement(found, common)
            if difference is not None:
                other = self._named.get(difference.split()[0], first)
                raise SchemaError(f"{where(trajectory)}: {difference} as in {other.path}")
            self._common = first, replace(merged(common, found), kinds={**found.kinds, **common.kinds})
        for names in ("joint_names", "body_names"):
            if getattr(found, names) is not None:
                self._named.setdefault(names, trajectory)
        self._seen = [*self._seen[-3:], (told, shapes)]

    def describe(self, columns: Mapping[str, str], trajectories: Sequence[Trajectory]) -> Description:
        """Return what the store says.

        Args:
            columns: arrays of the archive that become rows per state -> their keys in the store.
            trajectories: the clips in the store's order, whose rates it has.
        """
        common = Description() if self._common is None else self._common[1]
        kinds = {columns[key]: pieces for key, pieces in common.kinds.items() if key in columns}
        return replace(common, kinds=kinds).with_rates([declared_rate(clip.attributes) for clip in trajectories])
