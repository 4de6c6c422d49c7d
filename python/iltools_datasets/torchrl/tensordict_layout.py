"""From a flat list of columns to a nested TensorDict, at the least cost TensorDict allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import torch
from tensordict import TensorDict

from iltools_datasets.errors import SchemaError

Beside = Mapping[Any, torch.Tensor]
"""More entries of a batch, by names and tuples of names."""

NOTHING: Beside = MappingProxyType({})


_Take = Callable[[Sequence[Any]], Sequence[Any]]
_Plan = list[tuple[tuple[str, ...], _Take]]
"""How each TensorDict is made, the deepest first and the root last: its names, and what takes their values out of all
leaves and the TensorDicts made before."""


class TensorDictLayout:
    """The nesting of a fixed list of keys, worked out once so that a batch costs only its leaves."""

    def __init__(self, keys: Sequence[tuple[str, ...]]) -> None:
        self._keys = list(keys)
        # In their order: a set's differs from process to process.
        self._groups = dict.fromkeys([(), *(key[:depth] for key in keys for depth in range(len(key)))])
        if clash := self._groups.keys() & set(keys):
            raise SchemaError(f"{min(clash)!r} is both a column and a group of columns")
        self._plans: dict[tuple[Any, ...], _Plan | None] = {}

    def _plan(self, names: tuple[Any, ...]) -> _Plan | None:
        """Return how to build with what comes beside under some names; None where that does not fit."""
        further = [name if isinstance(name, tuple) else (name,) for name in names]
        if any(path[:-1] not in self._groups or path in self._groups for path in further):
            return None
        # What comes beside under the name of a key takes its place.
        place = {path: number for number, path in enumerate([*self._keys, *further])}
        plan: _Plan = []
        for number, group in enumerate(sorted(self._groups, key=len, reverse=True), len(self._keys) + len(further)):
            inside = {path[-1]: at for path, at in place.items() if path and path[:-1] == group}
            plan.append((tuple(inside), _taking(list(inside.values()))))
            place[group] = number
        return plan

    def _known_plan(self, beside: Beside) -> _Plan | None:
        names = tuple(beside)
        try:
            return self._plans[names]
        except KeyError:
            plan = self._plans[names] = self._plan(names)
            return plan

    def fits(self, beside: Beside) -> bool:
        """Whether these entries, or others of the same names, lie beside the keys, at the root or in groups of them."""
        return self._known_plan(beside) is not None

    def build(
        self, leaves: Sequence[torch.Tensor], batch_size: torch.Size, device: torch.device, beside: Beside = NOTHING
    ) -> TensorDict:
        """Return a TensorDict over `leaves`, which come in the order of the keys, and what comes beside and fits.

        Nothing is copied or checked; what comes beside under the name of a key takes its place.
        """
        values: list[Any] = [*leaves, *beside.values()]
        for names, take in self._known_plan(beside) or ():
            source = dict(zip(names, take(values), strict=True))
            made = TensorDict._new_unsafe(source=source, batch_size=batch_size, nested=False)
            # Named above, it would be asked for each time whether there is a device of another kind to wait for.
            made._device = device
            values.append(made)
        return made


def _taking(places: list[int]) -> _Take:
    """Return what takes the values at some places; faster than a comprehension, which a batch has no time for."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: [values[place] for place in places]
