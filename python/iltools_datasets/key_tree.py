"""Keys of several names as nested dicts: what JAX can sort, and what `batch["next"]["observation"]` reads like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from iltools_datasets.errors import SchemaError
from iltools_datasets.trajectory_store import Key

Leaf = TypeVar("Leaf")


def nested(flat: Mapping[Key, Leaf]) -> dict[str, Any]:
    """Return `{"a": x, ("next", "a"): y}` as `{"a": x, "next": {"a": y}}`.

    Raises `SchemaError` if a key is also the beginning of another, so that its value would have no place.
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *branches, name = (key,) if isinstance(key, str) else key
        at = tree
        for branch in branches:
            at = at.setdefault(branch, {})
            if not isinstance(at, dict):
                raise SchemaError(f"key {branch!r} cannot hold both an array and {key!r}; name other keys")
        if name in at:
            raise SchemaError(f"key {key!r} cannot hold both an array and other keys; name other keys")
        at[name] = value
    return tree
