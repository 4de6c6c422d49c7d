"""What a look-up comes as: numpy arrays, torch tensors, pinned or on a device, or a TensorDict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import ArgumentError
from iltools_datasets.store.keys import Key

if TYPE_CHECKING:
    import torch

As = Literal["numpy", "torch", "tensordict"]


class Outputs:
    """Turns arrays into what was asked for, and what callers give into arrays.

    Args:
        as_: "numpy", "torch" or "tensordict".
        pin_memory: look-ups are written into pinned memory.
        device: where tensors go, in one copy per key; None = they stay.

    Raises:
        ArgumentError: another kind, or pinned memory or a device for numpy.
        MissingExtraError: torch or tensordict is not installed.
    """

    def __init__(self, as_: As, pin_memory: bool, device: Any) -> None:
        if as_ not in get_args(As):
            raise ArgumentError(f"as_: expected one of {list(get_args(As))}, found {as_!r}")
        if as_ == "numpy" and (pin_memory or device is not None):
            raise ArgumentError("pin_memory and device are for as_='torch' and as_='tensordict'")
        self.as_, self.pin_memory = as_, bool(pin_memory)
        self.device: torch.device | None = None
        if as_ != "numpy":
            torch = _torch()
            self.device = None if device is None else torch.device(device)
        if as_ == "tensordict":
            try:
                import tensordict  # noqa: F401
            except ImportError as error:
                raise missing_extra("torch", "as_='tensordict'") from error

    def pinned(self, rows: Mapping[Key, tuple[tuple[int, ...], np.dtype[Any]]]) -> dict[Key, NDArray[Any]]:
        """Return new arrays in pinned memory, by shape and dtype."""
        torch = _torch()
        return {
            key: torch.empty(int(np.prod(shape)) * dtype.itemsize, dtype=torch.uint8, pin_memory=True)
            .numpy()
            .view(dtype)
            .reshape(shape)
            for key, (shape, dtype) in rows.items()
        }

    def array(self, array: NDArray[Any]) -> Any:
        """Return an array as what was asked for: itself, or a tensor over the same memory, or on the device."""
        if self.as_ == "numpy":
            return array
        tensor = _torch().from_numpy(array)
        return tensor if self.device is None else tensor.to(self.device, non_blocking=self.pin_memory)

    def rows(self, arrays: Mapping[Key, NDArray[Any]], given: Mapping[Key, Any] | None, batch: tuple[int, ...]) -> Any:
        """Return a look-up, as `{key: ...}` or a TensorDict; what the caller gave comes back itself."""
        found = {key: given[key] if given and key in given else self.array(array) for key, array in arrays.items()}
        return self.tensors(found, batch)

    def tensors(self, found: dict[Key, Any], batch: tuple[int, ...]) -> Any:
        """Return tensors as `{key: ...}` or as a TensorDict of this batch size."""
        if self.as_ != "tensordict":
            return found
        from tensordict import TensorDict

        return TensorDict(found, batch_size=batch, device=self.device)


def as_numpy(values: Any) -> Any:
    """Return a tensor, on whatever device, as an array; anything else as it is."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def as_output(key: Key, given: Any) -> Any:
    """Return the array over a tensor that is to be written to; an array as it is.

    Raises ArgumentError for a tensor that is not in this process's memory.
    """
    if not hasattr(given, "detach"):
        return given
    if given.device.type != "cpu" or not given.is_contiguous():
        raise ArgumentError(f"out: key {key!r}: expected a contiguous tensor on the CPU, found one on {given.device}")
    return given.detach().numpy()


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise missing_extra("torch", "as_='torch'") from error
    return torch
