"""A whole column of a store as a tensor that reads its rows only when they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torch.utils._pytree import tree_map_only

from iltools_datasets.errors import OutOfRangeError, ReadOnlyError

Read = Callable[[NDArray[np.int64]], torch.Tensor]
aten = torch.ops.aten

_READ_ONLY = "a store is read-only: clone the column before writing to it"
_NO_MEMORY = "a column of a store is read on use and has no memory of its own: clone it first, and keep the clone"


class StoreColumn(torch.Tensor):
    """All rows of one column, [N, ...], read on use.

    Rows picked with an index are read alone; any other operation reads the column and works on the copy. TorchRL asks
    for whole data sets (`storage[:]`) and then uses a column or two: this is what it gets.
    """

    _read: Read
    _stored: tuple[int, ...]

    @staticmethod
    def __new__(cls, read: Read, shape: tuple[int, ...], dtype: torch.dtype) -> Self:
        column: Self = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=torch.device("cpu"))
        # Whatever asks in C for the address, past everything below, gets this error instead of null.
        torch._C._set_storage_access_error_msg(column, _NO_MEMORY)
        column._read = read
        return column

    def rows(self, index: NDArray[np.int64]) -> torch.Tensor:
        """Return the rows at `index` (int64 [B], within 0..N) as a plain tensor [B, ...]."""
        return self._read(index).reshape(len(index), *self.shape[1:])

    def load(self) -> torch.Tensor:
        """Return the whole column as a plain tensor."""
        return self.rows(np.arange(self.shape[0], dtype=np.int64))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], StoreColumn):
            past_dispatch = _PAST_DISPATCH.get(func)
            if past_dispatch is not None:
                return past_dispatch(func, *args, **kwargs)
            if _writes_in_place(func):
                raise ReadOnlyError(_READ_ONLY)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        for position, argument in enumerate(func._schema.arguments):
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            if argument.is_write and isinstance(given, StoreColumn):
                raise ReadOnlyError(_READ_ONLY)
        pick = _PICKS.get(func)
        if pick is not None and isinstance(args[0], StoreColumn):
            picked = pick(*args, **kwargs)
            if picked is not None:
                return picked
        args, kwargs = tree_map_only(StoreColumn, StoreColumn.load, (args, kwargs))
        return func(*args, **kwargs)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        # Torch would write into the copy of the rows that it picks first, and nobody would notice.
        raise ReadOnlyError(_READ_ONLY)

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        return self.load()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.load().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"StoreColumn(shape={tuple(self.shape)}, dtype={self.dtype})"


# What reads or hands over memory without asking `__torch_dispatch__`: a column has none.


def _on_a_copy(func: Any, column: StoreColumn, *args: Any, **kwargs: Any) -> Any:
    """Do it with the whole column, read into memory that belongs to the result."""
    return func(column.load(), *args, **kwargs)


def _refuse_address(func: Any, column: StoreColumn) -> NoReturn:
    raise ReadOnlyError(_NO_MEMORY)


def _writes_in_place(func: Any) -> bool:
    # Some operations (`fill_diagonal_`) are taken apart before the dispatch, which then sees a write to a copy.
    name: str = getattr(func, "__name__", "")
    return name.endswith("_") and not name.endswith("__") and name not in _CHANGE_NO_VALUES


_CHANGE_NO_VALUES = {"detach_", "rename_", "requires_grad_"}


def _is_not_shared(func: Any, column: StoreColumn) -> bool:
    return False


_PAST_DISPATCH: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (
            torch.Tensor.__array__,
            torch.Tensor.__dlpack__,
            torch.Tensor._typed_storage,
            torch.Tensor.numpy,
            torch.Tensor.share_memory_,
            torch.Tensor.storage,
            torch.Tensor.tolist,
            torch.Tensor.untyped_storage,
        ),
        _on_a_copy,
    ),
    torch.Tensor.data_ptr: _refuse_address,
    torch.Tensor.is_shared: _is_not_shared,
}


def _reshaped(column: StoreColumn, shape: tuple[int, ...]) -> StoreColumn:
    return StoreColumn(column._read, shape, column.dtype)


def _alias(column: StoreColumn) -> StoreColumn:
    return _reshaped(column, tuple(column.shape))


def _squeeze(column: StoreColumn) -> StoreColumn | None:
    count, *row = column.shape
    return None if count == 1 else _reshaped(column, (count, *(size for size in row if size != 1)))


def _slice(
    column: StoreColumn, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> torch.Tensor | None:
    if dim != 0:
        return None
    first, last, step = slice(start, end, step).indices(column.shape[0])
    if (first, last, step) == (0, column.shape[0], 1):
        return _alias(column)
    return column.rows(np.arange(first, last, step, dtype=np.int64))


def _select(column: StoreColumn, dim: int, index: int) -> torch.Tensor | None:
    if dim != 0:
        return None
    count = column.shape[0]
    if not -count <= index < count:
        raise OutOfRangeError(f"index {index} is outside 0..{count}")
    return column.rows(np.array([index % count], dtype=np.int64))[0]


def _index(column: StoreColumn, indices: list[torch.Tensor | None]) -> torch.Tensor | None:
    if len(indices) != 1 or indices[0] is None:
        return None
    index, count = indices[0], column.shape[0]
    if index.dtype is torch.bool and tuple(index.shape) == (count,):
        index = index.nonzero().squeeze(1)
    if index.dtype not in (torch.int64, torch.int32):
        return None
    return column.rows(non_negative(index, count).numpy()).reshape(*index.shape, *column.shape[1:])


def non_negative(index: torch.Tensor, count: int) -> torch.Tensor:
    """Return an index as row numbers, int64 [index.numel()] within 0..count; `OutOfRangeError` if it is outside."""
    flat = index.reshape(-1).to(torch.int64)
    if flat.numel():
        least, greatest = int(flat.min()), int(flat.max())
        if least < -count or greatest >= count:
            raise OutOfRangeError(f"index {least if least < -count else greatest} is outside 0..{count}")
        if least < 0:
            flat = torch.where(flat < 0, flat + count, flat)
    return flat


_PICKS: dict[Any, Callable[..., torch.Tensor | None]] = {
    aten.alias.default: _alias,
    aten.detach.default: _alias,
    aten.squeeze.default: _squeeze,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.index.Tensor: _index,
}


def _addresses_are_guarded() -> bool:
    """Tell whether what asks for an address in C meets the error, or is given the address of a copy (torch 2.7)."""
    try:
        capsule = torch._C._to_dlpack(StoreColumn(lambda rows: torch.zeros(len(rows)), (1,), torch.float32))
    except RuntimeError:
        return True
    return bool(torch._C._from_dlpack(capsule).data_ptr())


ADDRESSES_ARE_GUARDED = _addresses_are_guarded()
"""Whether a column may leave the storage. Where not, what leaves has been read."""


def loaded(columns: Any) -> Any:
    """Return a column, or all of a TensorDict, read into memory; anything else as it is."""
    if isinstance(columns, StoreColumn):
        return columns.load()
    if isinstance(columns, TensorDictBase):
        return columns.apply(loaded, call_on_nested=False)
    return columns
