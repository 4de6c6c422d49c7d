"""From a flat list of columns to a nested TensorDict, at the least cost TensorDict allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from tensordict import TensorDict

from iltools_datasets.errors import SchemaError

Beside = Mapping[Any, torch.Tensor]
"""More entries of a batch, by names and tuples of names."""

NOTHING: Beside = MappingProxyType({})


class TensorDictLayout:
    """The nesting of a fixed list of keys, worked out once so that a batch costs only its leaves."""

    def __init__(self, keys: Sequence[tuple[str, ...]]) -> None:
        branches: dict[tuple[str, ...], list[tuple[str, int]]] = {(): []}
        for position, key in enumerate(keys):
            for depth in range(1, len(key)):
                branches.setdefault(key[:depth], [])
            branches[key[:-1]].append((key[-1], position))
        if clash := branches.keys() & set(keys):
            raise SchemaError(f"{min(clash)!r} is both a column and a group of columns")
        # Deepest first, so that a branch is complete before its parent takes it; the root is the last.
        self._branches = sorted(branches.items(), key=lambda branch: -len(branch[0]))
        self._fitting: dict[tuple[Any, ...], bool] = {}

    def fits(self, beside: Beside) -> bool:
        """Whether these entries, or others of the same names, lie beside the keys, at the root or in groups of them."""
        names = tuple(beside)
        known = self._fitting.get(names)
        if known is None:
            groups = {path for path, _ in self._branches}
            paths = [name if isinstance(name, tuple) else (name,) for name in names]
            known = self._fitting[names] = all(path[:-1] in groups and path not in groups for path in paths)
        return known

    def build(
        self, leaves: Sequence[torch.Tensor], batch_size: torch.Size, device: torch.device, beside: Beside = NOTHING
    ) -> TensorDict:
        """Return a TensorDict over `leaves`, which come in the order of the keys, and what comes beside and fits.

        Nothing is copied or checked; what comes beside under the name of a key takes its place.
        """
        nested: dict[tuple[str, ...], dict[str, Any]] = {
            path: {name: leaves[position] for name, position in names} for path, names in self._branches
        }
        for name, value in beside.items():
            if isinstance(name, tuple):
                nested[name[:-1]][name[-1]] = value
            else:
                nested[()][name] = value
        for path, content in nested.items():
            made = TensorDict._new_unsafe(source=content, batch_size=batch_size, nested=False)
            # Named above, it would be asked for each time whether there is a device of another kind to wait for.
            made._device = device
            if path:
                nested[path[:-1]][path[-1]] = made
        return made
