"""From a flat list of columns to a nested TensorDict, at the least cost TensorDict allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from tensordict import TensorDict

from iltools_datasets.errors import SchemaError

NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


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
        self._root_leaves = branches.pop(())
        # Deepest first, so that a branch is complete before its parent takes it.
        self._branches = sorted(branches.items(), key=lambda branch: -len(branch[0]))

    def build(
        self,
        leaves: Sequence[torch.Tensor],
        batch_size: torch.Size,
        device: torch.device,
        beside: Mapping[str, torch.Tensor] = NOTHING,
    ) -> TensorDict:
        """Return a TensorDict over `leaves`, which come in the order of the keys, and behind them what comes beside.

        Nothing is copied or checked.
        """
        content: dict[str, torch.Tensor | TensorDict] = {}
        nested: dict[tuple[str, ...], dict[str, torch.Tensor | TensorDict]] = {(): content}
        for path, names in self._branches:
            branch = nested.pop(path, {})
            for name, position in names:
                branch[name] = leaves[position]
            made = TensorDict._new_unsafe(source=branch, batch_size=batch_size, device=device, nested=False)
            nested.setdefault(path[:-1], {})[path[-1]] = made
        for name, position in self._root_leaves:
            content[name] = leaves[position]
        content.update(beside)
        return TensorDict._new_unsafe(source=content, batch_size=batch_size, device=device, nested=False)
