"""All nodes of a Zarr hierarchy, of format 2 or 3, in one go.

Metadata documents are read as the JSON they are. zarr-python's objects are not made for them: that takes ten times
longer, most are never needed, and one array whose codec is not installed would make all others unreadable.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from iltools_datasets.archive.held import HeldPlace, HeldStore
from iltools_datasets.errors import SourceError

Metadata = Mapping[str, Any]

_DEEPEST = 16
"""Levels that are looked at; a motion archive has four."""
_REQUESTS = 32

NO_NAMES = frozenset({"", ".", ".."})
"""Parts that no path of a node has."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The root's attributes, the attributes of each group and the metadata of each array, by path below the root.

    `is_consolidated` tells that all of it came from one document at the root.
    """

    attributes: Metadata
    groups: dict[str, Metadata]
    arrays: dict[str, Metadata]
    is_consolidated: bool = False


def list_hierarchy(place: HeldPlace) -> Hierarchy:
    """List everything below a Zarr group.

    Raises SourceError if it is no Zarr group or its metadata is damaged.
    """
    try:
        root = _read_node(place, "") or _consolidated_v2_root(place)
        if root is None or "shape" in root:
            what = "not a Zarr group" if root is None else "is a single Zarr array, expected a group"
            raise SourceError(f"{place}: {what}")
        nodes = _consolidated(place, root)
        is_consolidated = nodes is not None
        if nodes is None:
            nodes = dict(_remote(place.store) if isinstance(place, HeldStore) else _below(place, "", 0))
        return _split(place, _attributes(root), nodes, is_consolidated)
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{place}: damaged Zarr metadata: {error}") from error


def read_array_metadata(place: HeldPlace, path: str) -> Metadata | None:
    """Return the metadata of one array as it is now, None if there is none or it cannot be read."""
    try:
        return _read_node(place, path)
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return None


def _read_node(place: HeldPlace, path: str) -> dict[str, Any] | None:
    start = f"{path}/" if path else ""
    content = {}
    for name in ("zarr.json", ".zarray", ".zgroup", ".zattrs"):
        found = place.read(start + name)
        if found is not None:
            content[name] = _document(found, start + name)
            if name == "zarr.json":
                break
    return _node(content)


def _node(content: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Make one document of those that lie in a node's directory, None if it is no node."""
    if "zarr.json" in content:
        return content["zarr.json"]
    stated = content.get(".zarray") or content.get(".zgroup")
    return None if stated is None else {**stated, "attributes": content.get(".zattrs", {})}


def _document(content: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(content, object_hook=_signals_get_through)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{name}: expected an object, found {type(document).__name__}")
    return document


def _signals_get_through(node: dict[str, Any]) -> dict[str, Any]:
    """Return what it is called with: a call of Python is where an interrupt ends the reading of a long document."""
    return node


def _consolidated(place: HeldPlace, root: Mapping[str, Any]) -> dict[str, Metadata] | None:
    if root["zarr_format"] == 3:
        if root["node_type"] != "group":
            raise ValueError(f"zarr.json: a {root['node_type']!r}, expected a group")
        nodes = root.get("consolidated_metadata")
        return None if nodes is None else dict(nodes["metadata"])
    content = place.read(".zmetadata")
    return None if content is None else _v2_nodes(_document(content, ".zmetadata")["metadata"])


def _consolidated_v2_root(place: HeldPlace) -> dict[str, Any] | None:
    content = place.read(".zmetadata")
    if content is None:
        return None
    nodes = _document(content, ".zmetadata")["metadata"]
    return _node({name: nodes[name] for name in (".zarray", ".zgroup", ".zattrs") if name in nodes})


def _v2_nodes(files: Mapping[str, Metadata]) -> dict[str, Metadata]:
    nodes: dict[str, Metadata] = {}
    for name, content in files.items():
        path, _, kind = name.rpartition("/")
        if path and kind in (".zarray", ".zgroup"):
            nodes[path] = {**content, "attributes": files.get(f"{path}/.zattrs", {})}
    return nodes


def _split(place: HeldPlace, attributes: Metadata, nodes: Mapping[str, Metadata], is_consolidated: bool) -> Hierarchy:
    groups: dict[str, Metadata] = {}
    arrays: dict[str, Metadata] = {}
    for path, node in nodes.items():
        if not NO_NAMES.isdisjoint(path.split("/")):
            raise SourceError(f"{place}: impossible array path {path!r}")
        if node.get("node_type") == "array" or "shape" in node:
            arrays[path] = node
        else:
            groups[path] = _attributes(node)
    return Hierarchy(attributes, groups, arrays, is_consolidated)


def _attributes(node: Metadata) -> Metadata:
    attributes = node.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise ValueError(f"attributes are a {type(attributes).__name__}, expected an object")
    return attributes


def _below(place: HeldPlace, path: str, depth: int) -> Iterator[tuple[str, Metadata]]:
    """Yield the nodes below a group, parents first. What has no metadata is no node, and nothing is below an array."""
    if depth >= _DEEPEST:
        return
    _, directories = place.children(path)
    for name in sorted(directories):
        child = f"{path}/{name}" if path else name
        node = _read_node(place, child)
        if node is not None:
            yield child, node
            if "shape" not in node:
                yield from _below(place, child, depth + 1)


def _remote(store: Store) -> dict[str, Metadata]:
    found: dict[str, Metadata] = sync(_gather(store))
    return found


async def _gather(store: Store) -> dict[str, Metadata]:
    """Return the nodes below the root of a store, by many requests at once."""
    found: dict[str, Metadata] = {}
    limit = asyncio.Semaphore(_REQUESTS)

    async def content(path: str) -> dict[str, Any] | None:
        for names in (("zarr.json",), (".zarray", ".zattrs"), (".zgroup", ".zattrs")):
            documents = {}
            for name in names:
                async with limit:
                    buffer = await store.get(f"{path}/{name}", default_buffer_prototype())
                if buffer is not None:
                    documents[name] = _document(buffer.to_bytes(), f"{path}/{name}")
            node = _node(documents)
            if node is not None:
                return node
        return None

    async def visit(path: str, depth: int) -> None:
        if path:
            node = await content(path)
            if node is None:
                return
            found[path] = node
            if "shape" in node or depth > _DEEPEST:
                return
        async with limit:
            names = [name async for name in store.list_dir(path)]
        children = {name.strip("/") for name in names} - {"zarr.json", ".zgroup", ".zattrs", ".zmetadata", ""}
        await asyncio.gather(*(visit(f"{path}/{name}" if path else name, depth + 1) for name in sorted(children)))

    await visit("", 0)
    return found
