"""A batch of numpy arrays to one of JAX's, on one device or cut up for several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import ArgumentError

try:
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
except ImportError as error:
    raise missing_extra("jax", "JaxDataLoader") from error

from iltools_datasets.jax.placement import Placement

Layout = Literal["pmap", "global"]


class ToDevice:
    """Puts batches, any pytree of arrays `[B, ...]`, where they are wanted.

    Args:
        devices: None = JAX's default device; else this process's devices that each batch is cut up for.
        layout: with devices, `"pmap"` (None is the same) gives `[D, B / D, ...]` and `"global"` `[B, ...]`.

    Raises:
        ArgumentError: no devices, one twice, one of another process, or a layout without devices.
    """

    def __init__(self, devices: Sequence[Any] | None = None, layout: Layout | None = None) -> None:
        if layout not in (None, "pmap", "global"):
            raise ArgumentError(f"layout is {layout!r}; one of 'pmap', 'global' is needed")
        if devices is None and layout == "pmap":
            raise ArgumentError("layout='pmap' cuts a batch up for several devices: name them with devices=")
        self.num_pieces = 1
        if devices is None:
            self._placement = Placement()
        else:
            found = _checked(devices)
            self.num_pieces = len(found)
            sharding = NamedSharding(Mesh(np.array(found), ("device",)), PartitionSpec("device"))
            self._placement = Placement(sharding=sharding, layout=layout or "pmap")
        self._names: dict[Any, list[str]] = {}

    def check_size(self, size: int, what: str) -> None:
        """Raise `ArgumentError` if a batch of this size cannot be cut up evenly."""
        if size % self.num_pieces:
            rest = "; drop_last=True leaves it out" if what.startswith("Last") else ""
            raise ArgumentError(f"{what} {size} is not divisible by number of devices {self.num_pieces}{rest}.")

    def __call__(self, batch: Any, leased: bool) -> Any:
        """Return a batch with JAX's arrays for numpy's.

        Args:
            batch: a pytree.
            leased: nobody writes to its arrays again, so they may be used as they are; else they are copied.

        Raises:
            SchemaError: a value does not fit the dtype that JAX has for it, or there is no array to put.
        """
        leaves, structure = jax.tree_util.tree_flatten(batch)
        arrays = [np.asarray(leaf) for leaf in leaves]
        names = self._names.get(structure)
        if names is None:
            paths = jax.tree_util.tree_flatten_with_path(batch)[0]
            names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
            self._names[structure] = names
        if self.num_pieces > 1:
            for name, array in zip(names, arrays, strict=True):
                self._placement.check(name, array.shape)
        return jax.tree_util.tree_unflatten(structure, self._placement.put(names, arrays, leased))


def _checked(devices: Sequence[Any]) -> list[jax.Device]:
    found = list(np.asarray(devices, dtype=object).reshape(-1))
    if not found:
        raise ArgumentError("devices is empty; None takes JAX's default device")
    for number, device in enumerate(found):
        if not isinstance(device, jax.Device):
            raise ArgumentError(f"devices: expected JAX devices, found {device!r:.80}")
        if device in found[:number]:
            raise ArgumentError(f"devices: {device} is there twice")
        if device.process_index != jax.process_index():
            raise ArgumentError(
                f"devices: {device} belongs to process {device.process_index}, this is {jax.process_index()}; "
                "give each process its own, jax.local_devices(), with rank and world_size"
            )
    return found
