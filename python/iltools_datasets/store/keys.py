"""Keys: one name or a path of names; what a caller sees, and how several of them nest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from iltools_datasets.errors import SchemaError

Leaf = TypeVar("Leaf")

Key = str | tuple[str, ...]
Backend = Literal["mmap", "ram", "pread"]
Boundary = Literal["wrap", "clamp", "mask", "error"]


def parts_of(key: Key) -> tuple[str, ...]:
    """Return a key as the tuple of its names."""
    return (key,) if isinstance(key, str) else tuple(key)


def public(parts: tuple[str, ...]) -> Key:
    """Return a key as callers see it: a plain string where one name is enough."""
    return parts[0] if len(parts) == 1 else parts


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
