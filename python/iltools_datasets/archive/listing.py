"""All nodes of a Zarr hierarchy, of format 2 or 3, in one go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
import zarr.errors
from zarr.abc.store import Store

from iltools_datasets.errors import SourceError, SourceNotFoundError

Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The root's attributes, the attributes of each group and the metadata of each array, by path below the root."""

    attributes: Metadata
    groups: dict[str, Metadata]
    arrays: dict[str, Metadata]


def list_hierarchy(place: Path | Store) -> Hierarchy:
    """List everything below a Zarr group.

    Consolidated metadata of a local archive is read as the one JSON file it is: building zarr-python's objects for
    every node takes ten times longer, and most are never needed. Raises SourceNotFoundError if nothing is at the path
    and SourceError if it is no Zarr group or its metadata is damaged.
    """
    if isinstance(place, Path):
        if not place.exists():
            raise SourceNotFoundError(f"{place}: no such archive")
        try:
            consolidated = _read_consolidated(place)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{place}: damaged Zarr metadata: {error}") from error
        if consolidated is not None:
            return consolidated
    return _list_members(place)


def _read_consolidated(root: Path) -> Hierarchy | None:
    if (root / "zarr.json").is_file():
        document = json.loads((root / "zarr.json").read_bytes())
        if document["node_type"] != "group":
            raise SourceError(f"{root}: is a single Zarr array, expected a group")
        nodes = document.get("consolidated_metadata")
        if nodes is None:
            return None
        return _split(document.get("attributes", {}), nodes["metadata"])
    if (root / ".zmetadata").is_file():
        nodes = json.loads((root / ".zmetadata").read_bytes())["metadata"]
        return _split(nodes.get(".zattrs", {}), _v2_nodes(nodes))
    return None


def _split(attributes: Metadata, nodes: Mapping[str, Metadata]) -> Hierarchy:
    groups, arrays = {}, {}
    for path, node in nodes.items():
        if node.get("node_type") == "array" or "shape" in node:
            arrays[path] = node
        else:
            groups[path] = node.get("attributes", {})
    return Hierarchy(attributes, groups, arrays)


def _v2_nodes(files: Mapping[str, Metadata]) -> dict[str, Metadata]:
    nodes: dict[str, Metadata] = {}
    for name, content in files.items():
        path, _, kind = name.rpartition("/")
        if path and kind in (".zarray", ".zgroup"):
            nodes[path] = {**content, "attributes": files.get(f"{path}/.zattrs", {})}
    return nodes


def _list_members(place: Path | Store) -> Hierarchy:
    try:
        root = zarr.open_group(place, mode="r")
        members = root.members(max_depth=None)
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise SourceError(f"{place}: not a Zarr group") from error
    except (ValueError, KeyError, TypeError, zarr.errors.NodeTypeValidationError) as error:
        raise SourceError(f"{place}: damaged Zarr metadata: {error}") from error
    groups: dict[str, Metadata] = {}
    arrays: dict[str, Metadata] = {}
    for path, node in members:
        if isinstance(node, zarr.Array):
            arrays[path] = _plain_metadata(node)
        else:
            groups[path] = dict(node.attrs)
    return Hierarchy(dict(root.attrs), groups, arrays)


def _plain_metadata(array: zarr.Array[Any]) -> Metadata:
    document: Metadata = json.loads(json.dumps(array.metadata.to_dict(), default=str))
    return document
