"""TorchRL's `LazyTensorStorage` and `LazyMemmapStorage` with the native gather: change the import, nothing else.

Written, extended, saved and shared as before. Only the one thing that training does all the time is done otherwise:
picking rows with a vector of indices. Whatever the kernel does not cover goes TorchRL's way.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from tensordict import MemoryMappedTensor, TensorDict
from torchrl.data.replay_buffers import storages as torchrl_storages

from iltools_datasets import _core
from iltools_datasets.errors import OutOfRangeError
from iltools_datasets.torchrl.tensordict_layout import TensorDictLayout

_PLAIN = (torch.Tensor, MemoryMappedTensor)
_DTYPES = {
    torch.bool,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
}


class _NativeRows:
    """`get` of a vector of rows by the native gather, mixed into a TorchRL storage."""

    _columns: _Columns | None = None

    def get(self, index: Any) -> Any:
        """Return what TorchRL's method returns; where `index` is a vector it is gathered natively."""
        rows = index[0] if type(index) is tuple and len(index) == 1 else index
        if (
            isinstance(rows, torch.Tensor)
            and rows.dtype is torch.int64
            and rows.ndim == 1
            and rows.device.type == "cpu"
            and self.initialized  # type: ignore[attr-defined]
            and self.ndim == 1  # type: ignore[attr-defined]
            and not self._compilable  # type: ignore[attr-defined]
        ):
            picked = self._pick(rows)
            if picked is not None:
                return picked
        return super().get(index)  # type: ignore[misc]

    def _pick(self, rows: torch.Tensor) -> torch.Tensor | TensorDict | None:
        data = self._storage  # type: ignore[attr-defined]
        # Leaves may be replaced or moved at any time, by anyone who holds the TensorDict: look before each gather.
        signature = _signature(data)
        if signature is None:
            return None
        columns = self._columns
        if columns is None or columns.signature != signature:
            columns = self._columns = _Columns(data, signature)
        return columns.pick(rows, len(self))  # type: ignore[arg-type]

    def __getstate__(self) -> Any:
        state: Any = super().__getstate__()
        state.pop("_columns", None)
        return state


class LazyTensorStorage(_NativeRows, torchrl_storages.LazyTensorStorage):  # type: ignore[misc]
    """TorchRL's `LazyTensorStorage`, same arguments and behaviour, picking rows natively while they are on the CPU."""


class LazyMemmapStorage(_NativeRows, torchrl_storages.LazyMemmapStorage):  # type: ignore[misc]
    """TorchRL's `LazyMemmapStorage`, same arguments and behaviour, picking rows natively.

    Examples:
        >>> from iltools_datasets.torchrl import RandomSampler, TensorDictReplayBuffer
        >>> buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(1000), sampler=RandomSampler(), batch_size=4)
        >>> rows = buffer.extend(TensorDict({"observation": torch.randn(10, 3)}, [10]))
        >>> buffer.sample()["observation"].shape
        torch.Size([4, 3])
    """


class _Columns:
    """The memory behind a storage's tensors as the kernel takes it, valid for one signature."""

    def __init__(self, data: torch.Tensor | TensorDict, signature: Any) -> None:
        self.signature = signature
        keys, leaves = ((), [data]) if isinstance(data, torch.Tensor) else _leaves(data)
        # Held so that no other tensor can take their place in the signature.
        self._leaves = leaves
        self._layout = TensorDictLayout(keys) if keys else None
        self._device = data.device
        self._bfloat16 = [number for number, leaf in enumerate(leaves) if leaf.dtype is torch.bfloat16]
        self._whole = [_memory(leaf) for leaf in leaves] if leaves and all(map(_is_covered, leaves)) else None
        self._filled: list[NDArray[Any]] = []
        self._count = -1

    def pick(self, rows: torch.Tensor, count: int) -> torch.Tensor | TensorDict | None:
        """Return copies of `rows` of the first `count`, or None where TorchRL has to."""
        if self._whole is None or count == 0:
            return None
        if count != self._count:
            self._filled, self._count = [column[:count] for column in self._whole], count
        try:
            arrays = _core.gather(self._filled, rows.contiguous().numpy())
        except OutOfRangeError:
            return None  # counted from the end, or wrong: TorchRL knows
        picked = [torch.from_numpy(array) for array in arrays]
        for number in self._bfloat16:
            picked[number] = picked[number].view(torch.bfloat16)
        if self._layout is None:
            return picked[0]
        return self._layout.build(picked, torch.Size([len(rows)]), self._device)


def _signature(data: Any) -> Any:
    """Return what identifies a tree of tensors and the memory they are in, None for what the kernel does not cover."""
    if type(data) is TensorDict:
        if len(data.batch_size) != 1 or data._td_dim_names is not None:
            return None
        parts: list[Any] = [data.batch_size, data.device]
        for key, value in data._tensordict.items():
            part = _signature(value)
            if part is None or (type(value) is TensorDict and part[:2] != parts[:2]):
                return None
            parts += (key, part)
        return parts
    if type(data) in _PLAIN and data.layout is torch.strided:
        return id(data), data.data_ptr(), data.shape, data.stride()
    return None


def _leaves(data: TensorDict) -> tuple[list[tuple[str, ...]], list[torch.Tensor]]:
    keys: list[tuple[str, ...]] = []
    leaves: list[torch.Tensor] = []
    for key, value in data._tensordict.items():
        if type(value) is TensorDict:
            below, values = _leaves(value)
            keys += [(key, *rest) for rest in below]
            leaves += values
        else:
            keys.append((key,))
            leaves.append(value)
    return keys, leaves


def _is_covered(leaf: torch.Tensor) -> bool:
    return (
        leaf.device.type == "cpu"
        and leaf.ndim > 0
        and leaf.is_contiguous()
        and leaf.numel() > 0
        and not leaf.requires_grad
        and not leaf.is_conj()
        and not leaf.is_neg()
        and not leaf.is_quantized
        and leaf.dtype in _DTYPES
    )


def _memory(leaf: torch.Tensor) -> NDArray[Any]:
    plain = leaf.as_subclass(torch.Tensor)
    return (plain.view(torch.uint16) if leaf.dtype is torch.bfloat16 else plain).numpy()
