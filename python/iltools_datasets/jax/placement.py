"""Host arrays to device arrays: which devices, layout and dtype, and out of memory that nobody will overwrite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from iltools_datasets import _core
from iltools_datasets._base.aligned import aligned_empty
from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import SchemaError

try:
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
except ImportError as error:
    raise missing_extra("jax", "putting windows on a device") from error

Layout = Literal["global", "pmap"]


class Placement:
    """Where arrays `[B, ...]` go.

    Args:
        device: a device; None = JAX's default, uncommitted.
        sharding: instead of a device: how arrays are spread over several. In a job of several processes each puts its
            own part of the batch, and the array is the whole.
        layout: `"global"` gives arrays `[B, ...]`, for jit; `"pmap"` gives `[D, B / D, ...]` for the D devices of the
            first axis, for pmap. With `"pmap"` and no sharding, all local devices.
        dtype: floating dtype for all floating arrays; None = as they come. Others keep theirs.

    Raises:
        SchemaError: the arguments contradict each other.
    """

    def __init__(
        self,
        device: jax.Device | None = None,
        sharding: Sharding | None = None,
        layout: Layout = "global",
        dtype: DTypeLike | None = None,
    ) -> None:
        if device is not None and sharding is not None:
            raise SchemaError("give a device or a sharding, not both")
        if layout not in ("global", "pmap"):
            raise SchemaError(f"layout is {layout!r}; one of 'global', 'pmap' is needed")
        if layout == "pmap":
            if device is not None:
                raise SchemaError("layout='pmap' spreads over several devices: give a sharding, or neither")
            if sharding is None:
                sharding = NamedSharding(Mesh(np.array(jax.local_devices()), ("batch",)), PartitionSpec("batch"))
            if not isinstance(sharding, NamedSharding):
                raise SchemaError(f"layout='pmap' needs a NamedSharding, found {type(sharding).__name__}")
        if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
            raise SchemaError(f"dtype is {np.dtype(dtype)}; it is for floating arrays, so it must be a floating dtype")
        self.target = device if sharding is None else sharding
        self.layout = layout
        self.dtype = None if dtype is None else np.dtype(dtype)
        self._device_dtypes: dict[tuple[np.dtype[Any], bool], np.dtype[Any]] = {}
        self.num_shards = _num_shards(sharding)
        """Number of pieces the first axis of a whole array is cut into."""
        self._num_pieces = self.num_shards
        """How many of them this process brings: each process an equal part."""
        self._spans_processes = False
        if sharding is not None and not sharding.is_fully_addressable:
            self._spans_processes = True
            self._num_pieces = max(1, self.num_shards * len(sharding.addressable_devices) // len(sharding.device_set))

    def check(self, name: str, shape: Sequence[int]) -> None:
        """Raise `SchemaError` if an array of this shape cannot be spread as wanted."""
        if isinstance(self.target, NamedSharding):
            if self.target.spec and not shape:
                raise SchemaError(f"{name}: a scalar cannot be spread over {self._num_pieces} devices")
            if shape and shape[0] % self._num_pieces:
                raise SchemaError(
                    f"{name}: a batch of {shape[0]} cannot be split evenly over {self._num_pieces} devices"
                )

    def put(self, names: Sequence[str], arrays: Sequence[NDArray[Any]], leased: bool) -> list[jax.Array]:
        """Return device arrays of host arrays.

        Args:
            names: what to call the arrays in errors.
            arrays: C-contiguous or not, of any alignment.
            leased: nobody writes to the arrays again as long as anybody holds them. Then aligned ones are used as they
                are where the device is the host; otherwise they are copied before this returns.

        Raises:
            SchemaError: a value does not fit the dtype that the device holds it in, or a shape the sharding.
        """
        owned = [self._owned(name, array, leased) for name, array in zip(names, arrays, strict=True)]
        if self.layout == "pmap":
            owned = [array.reshape(self._num_pieces, -1, *array.shape[1:]) for array in owned]
        try:
            if self._spans_processes:
                return [jax.make_array_from_process_local_data(self.target, array) for array in owned]
            return list(jax.device_put(owned, self.target))
        except (TypeError, ValueError) as error:
            found = {name: f"{array.dtype} {array.shape}" for name, array in zip(names, owned, strict=True)}
            raise SchemaError(f"JAX cannot put {found} on {self.target or 'the default device'}: {error}") from error

    def _owned(self, name: str, array: NDArray[Any], leased: bool) -> NDArray[Any]:
        """Return the array in the dtype the device will have, in memory that is never written again."""
        dtype = self.device_dtype(array.dtype)
        if array.dtype == dtype and leased:
            return array
        if array.dtype == dtype and array.flags.c_contiguous and array.ndim:
            # The native copy comes aligned and out of recycled pages.
            return _core.gather([array], np.arange(len(array)), None, 1)[0]
        copy = aligned_empty(array.shape, dtype)
        cast(name, array, copy)
        return copy

    def device_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype in which the device holds an array of `dtype`: 32 bits at most, unless JAX has 64."""
        # Asked for every array of every window, of which there are few dtypes.
        kind = (dtype, bool(jax.config.jax_enable_x64))
        found = self._device_dtypes.get(kind)
        if found is None:
            wanted = dtype
            if self.dtype is not None and jnp.issubdtype(dtype, jnp.floating):
                wanted = self.dtype
            found = self._device_dtypes[kind] = np.dtype(jax.dtypes.canonicalize_dtype(wanted.newbyteorder("=")))
        return found


def _num_shards(sharding: Sharding | None) -> int:
    if not isinstance(sharding, NamedSharding) or not sharding.spec or sharding.spec[0] is None:
        return 1
    names = sharding.spec[0]
    return math.prod(sharding.mesh.shape[name] for name in ([names] if isinstance(names, str) else names))


def cast(name: str, source: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy values from one array into another of the same kind of dtype; `SchemaError` if one is too large for it."""
    if target.dtype.kind in "iu" and source.dtype.itemsize > target.dtype.itemsize and source.size:
        limits = np.iinfo(target.dtype)
        least, greatest = int(source.min()), int(source.max())
        if least < limits.min or greatest > limits.max:
            value = least if least < limits.min else greatest
            raise SchemaError(
                f"{name}: {value} does not fit {target.dtype}, which JAX keeps {source.dtype} in unless "
                "jax_enable_x64 is set"
            )
    with np.errstate(over="raise"):
        try:
            np.copyto(target, source, casting="same_kind")
        except FloatingPointError:
            raise SchemaError(f"{name}: a value of {source.dtype} does not fit {target.dtype}") from None
