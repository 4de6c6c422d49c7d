"""A trajectory store as a TorchRL storage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torchrl.data import Composite
from torchrl.data.replay_buffers.checkpointers import StorageCheckpointerBase
from torchrl.data.replay_buffers.storages import TensorStorage

from iltools_datasets._base.files import read_json, write_json
from iltools_datasets._base.saved_state import SavedState, TakeOver
from iltools_datasets.errors import OutOfRangeError, ReadOnlyError, StateError, StoreChangedError
from iltools_datasets.store.keys import parts_of, public
from iltools_datasets.store.trajectory_store import TrajectoryStore
from iltools_datasets.torchrl.specs import specs_of
from iltools_datasets.torchrl.store_column import ADDRESSES_ARE_GUARDED, StoreColumn, loaded, non_negative
from iltools_datasets.torchrl.tensordict_layout import NOTHING, Beside, TensorDictLayout

CPU = torch.device("cpu")
_REFERENCE = "store.json"


class StoreReferenceCheckpointer(StorageCheckpointerBase):  # type: ignore[misc]
    """Saves which store a storage reads, not what is in it; loading refuses any other store."""

    def dumps(self, storage: TrajectoryStorage, path: str | Path) -> None:
        """Write the reference, less than a kilobyte, into the directory `path`."""
        if self._save_hooks:
            raise ReadOnlyError("a checkpoint of a store is a reference to it: save hooks have no data to change")
        write_json(Path(path) / _REFERENCE, storage.state_dict())

    def loads(self, storage: TrajectoryStorage, path: str | Path) -> None:
        """Check that the storage reads the store that was saved: `StoreChangedError` or `StateError` if not."""
        storage.load_state_dict(self.saved_at(path))

    def saved_at(self, path: str | Path) -> Any:
        """Return the state that lies in the directory `path`; `StateError` if there is none, or it is damaged."""
        return read_json(Path(path) / _REFERENCE)


class TrajectoryStorage(TensorStorage):  # type: ignore[misc]
    """A `TrajectoryStore` in the place of a TorchRL storage: read-only, on the CPU, one element per transition.

    Goes unchanged into `ReplayBuffer` and `TensorDictReplayBuffer` with any sampler. Rows are picked with whatever
    picks rows of a TorchRL `TensorStorage`, with the same result, and come as copies that belong to the caller. Where
    that would give the whole data set (`storage[:]`, `storage["observation"]`) the columns are `StoreColumn`s, which
    read on use.

    Pickles, and is saved by `dumps`, as a reference to the store. Writing raises `ReadOnlyError` (a RuntimeError).

    Args:
        store: the open store; its `num_threads` applies.

    Examples:
        >>> storage = TrajectoryStorage(TrajectoryStore.open("walks"))
        >>> len(storage), storage.get(torch.tensor([0, 5]))["next", "qpos"].shape
        (97, torch.Size([2, 7]))
        >>> storage.specs()["action"].shape
        torch.Size([2])
    """

    _default_checkpointer = StoreReferenceCheckpointer
    supports_conditional_update = False
    # Rows never change: whoever keeps what was worked out of them looks at these, and at the length.
    _mutation_revision = 0
    _last_cursor_index = None

    def __init__(self, store: TrajectoryStore) -> None:
        self._open(store)
        super().__init__(self._storage)

    def _open(self, store: TrajectoryStore) -> None:
        self.store = store
        self.uuid = store.uuid
        """Identity of the store's build; empty for a directory that this package did not write."""
        self.fields = store.field_ids()
        self.whole_rows = store.core, self.fields, store.num_threads
        """What a draw is told that is to bring all of a row: of which store, and on how many threads."""
        self.has_index = "index" in store.keys
        """Whether a column is called as samplers call the number of a row."""
        self._known: dict[tuple[Any, ...], tuple[list[Any], list[int]]] = {}
        self._plain_flags: dict[Any, int | None] = {}
        self._count = len(store)
        self._bfloat16 = [number for number, field in enumerate(store.layout) if field.dtype == "bfloat16"]
        self._layout = TensorDictLayout([field.key for field in store.layout])
        columns = [self._column(number, field.shape) for number, field in enumerate(store.layout)]
        self._rows_like = [(column.shape[1:], column.dtype) for column in columns]
        self._storage = self._layout.build(columns, torch.Size([self._count]), CPU).lock_()

    def refresh(self, store: TrajectoryStore | None = None) -> None:
        """Read a longer store in the place of this one, whose elements come first in it; None = as it is by now.

        Raises `StoreChangedError` for any other store.
        """
        longer = self.store.refresh() if store is None else store
        if longer.uuid != self.uuid or len(longer) < self._count:
            raise StoreChangedError(f"{self.store.path}: expected build {self.uuid}, found {longer.uuid}")
        self._open(longer)
        self.max_size = self._count

    def specs(self, bounds: bool = False) -> Composite:
        """Return the spec of one transition, nested as the transitions are: shape, dtype and domain of each key.

        Its parts serve where an env's specs do: `specs["action"]` for a policy or a loss, `specs["next", "reward"]`.
        Bools are `Categorical` with two values, as an env's `done` is; everything else is `Unbounded`, or `Bounded`
        where bounds are asked for. Complex keys have no spec in TorchRL and are left out.

        Args:
            bounds: give numbers the smallest and the largest value of each element that the store holds
                (`TrajectoryStore.bounds`: the first call reads the store). Keys with a number that is
                not finite, and unsigned integers of more than a byte, which torch does not compare, stay unbounded.
        """
        return specs_of(self.store, [dtype for _, dtype in self._rows_like], bounds)

    def _column(self, number: int, row_shape: tuple[int, ...]) -> StoreColumn:
        core, threads, is_bfloat16 = self.store.core, self.store.num_threads, number in self._bfloat16

        def read(index: NDArray[np.int64]) -> torch.Tensor:
            rows = torch.from_numpy(core.gather([number], index, None, threads)[0])
            return rows.view(torch.bfloat16) if is_bfloat16 else rows

        dtype = read(np.empty(0, dtype=np.int64)).dtype
        return StoreColumn(read, (self._count, *row_shape), dtype)

    def __len__(self) -> int:
        return self._count

    @property
    def _is_full(self) -> bool:
        return True

    def get(self, index: Any) -> Any:
        """Return the transitions at `index` as a TensorDict of fresh tensors.

        Args:
            index: int, slice, range, list, numpy array or tensor of ints (negative ones count from the end) or of
                bools, a tuple of these, None, Ellipsis, or a key.

        Raises:
            OutOfRangeError: an index is outside the store (an IndexError).
            KeyError: there is no such key.
        """
        if type(index) is tuple and len(index) == 1 and not isinstance(index[0], tuple):
            index = index[0]
        if isinstance(index, torch.Tensor) and index.dtype is torch.int64 and index.ndim == 1:
            return self._rows(index)
        rows = self._as_rows(index)
        if rows is None:
            picked = self._storage[index]
            if not ADDRESSES_ARE_GUARDED:
                picked = loaded(picked)
            # TensorDict returns itself for `[:]`, and a buffer's transforms write into what they are given.
            return picked.copy() if picked is self._storage else picked
        flat = self._rows(rows.reshape(-1))
        return flat if rows.ndim == 1 else flat.reshape(rows.shape)

    def __getitems__(self, indices: Sequence[int]) -> TensorDict:
        """Return the transitions at `indices` as one TensorDict; `torch.utils.data.DataLoader` calls this."""
        return self._rows(torch.as_tensor(indices, dtype=torch.int64))

    def _rows(self, index: torch.Tensor) -> TensorDict:
        """Return the rows at an int64 vector."""
        core, threads = self.store.core, self.store.num_threads
        try:
            arrays = core.gather(self.fields, index.contiguous().numpy(), None, threads)
        except OutOfRangeError:
            # Either wrong or counted from the end, which is rare enough not to be looked for beforehand.
            arrays = core.gather(self.fields, non_negative(index, self._count).numpy(), None, threads)
        return self.assemble(self.tensors(self.fields, arrays), index.shape)

    def known(self, keys: tuple[Any, ...]) -> tuple[list[Any], list[int]]:
        """Return those of the keys that the store has, and by which numbers `store.core` addresses them."""
        found = self._known.get(keys)
        if found is None:
            present = [key for key in keys if public(parts_of(key)) in self.store.keys]
            found = self._known[keys] = present, self.store.field_ids(present)
        return found

    def plain_flag(self, key: Any) -> int | None:
        """Return the number of a key of one bool per row, `[B, 1]`; None if it is none, or not the store's."""
        if key not in self._plain_flags:
            present, fields = self.known((key,))
            layout = self.store.layout[fields[0]] if present else None
            is_plain = layout is not None and layout.dtype == "bool" and tuple(layout.shape) == (1,)
            self._plain_flags[key] = fields[0] if is_plain else None
        return self._plain_flags[key]

    def tensors(self, fields: Sequence[int], arrays: Sequence[NDArray[Any]]) -> list[torch.Tensor]:
        """Return arrays that `store.core` gathered for some fields as tensors over the same memory."""
        tensors = [torch.from_numpy(array) for array in arrays]
        if self._bfloat16:
            for place, number in enumerate(fields):
                if number in self._bfloat16:
                    tensors[place] = tensors[place].view(torch.bfloat16)
        return tensors

    def assemble(self, leaves: Sequence[torch.Tensor], batch_size: torch.Size, beside: Beside = NOTHING) -> TensorDict:
        """Return tensors `[B, ...]`, one per field of the store, as a TensorDict.

        Args:
            leaves: the tensors.
            batch_size: [B].
            beside: more entries, `[B, ...]`, that `fits`.
        """
        return self._layout.build(leaves, batch_size, CPU, beside)

    def fits(self, beside: Beside) -> bool:
        """Whether `assemble` can put these entries beside the columns, and no column is called as the index is."""
        return not self.has_index and self._layout.fits(beside)

    def get_pinned(self, index: torch.Tensor) -> TensorDict:
        """Return the transitions at an int64 vector in page-locked memory, gathered straight into it."""
        core = self.store.core
        leaves = [torch.empty((len(index), *shape), dtype=dtype, pin_memory=True) for shape, dtype in self._rows_like]
        views = [leaf.view(torch.uint16) if leaf.dtype is torch.bfloat16 else leaf for leaf in leaves]
        core.gather(self.fields, index.numpy(), [view.numpy() for view in views], self.store.num_threads)
        return self._layout.build(leaves, torch.Size([len(index)]), CPU)

    def _as_rows(self, index: Any) -> torch.Tensor | None:
        """Return the int64 row numbers that an index names, or None where TensorDict has to say what it means."""
        if isinstance(index, slice):
            first, last, step = index.start, index.stop, index.step
            if all(bound is None or isinstance(bound, int) for bound in (first, last, step)) and (step or 1) > 0:
                first, last, step = index.indices(self._count)
                if (first, last, step) != (0, self._count, 1):
                    return torch.arange(first, max(first, last), step)
            return None
        if isinstance(index, list | range) and not (index and all(type(item) is int for item in index)):
            return None
        if isinstance(index, bool | np.bool_) or not isinstance(
            index, int | np.integer | list | range | np.ndarray | torch.Tensor
        ):
            return None
        rows = torch.as_tensor(index)
        if rows.dtype is torch.bool:
            return rows.nonzero().squeeze(1) if tuple(rows.shape) == (self._count,) else None
        return rows.to(torch.int64) if rows.dtype in (torch.int64, torch.int32) else None

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> NoReturn:
        """Raise `ReadOnlyError`."""
        raise ReadOnlyError(f"{self.store.path}: a store is read-only; build another one with StoreBuilder")

    def _empty(self) -> NoReturn:
        raise ReadOnlyError(f"{self.store.path}: a store is read-only and cannot be emptied")

    def _apply_conditional_patch(self, index: Any, patch: Any) -> NoReturn:
        self.set(index, patch)

    def state_dict(self) -> dict[str, Any]:
        """Return which store this is: path, uuid and number of transitions."""
        return {
            "kind": "TrajectoryStorage",
            "version": 1,
            "path": str(self.store.path.absolute()),
            "uuid": self.uuid,
            "num_transitions": self._count,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that `state_dict` is of this store; nothing is changed. Raises as `prepare_load` does."""
        self.prepare_load(state_dict)()

    def prepare_load(self, state_dict: Any) -> TakeOver:
        """Check that `state_dict` is of this store and return what takes it over: nothing.

        A store that was moved is still the same store. Raises `StoreChangedError` for another one, `StateError` for
        something that is no state of a storage.
        """
        saved = SavedState(state_dict, "TrajectoryStorage", 1)
        path, uuid, count = saved.text("path"), saved.text("uuid"), saved.integer("num_transitions")
        # Directories that others wrote have no uuid: what is known of them is their place and size.
        same = uuid == self.uuid and (uuid != "" or Path(path) == self.store.path.absolute())
        if not same:
            raise StoreChangedError(
                f"{self.store.path}: the checkpoint is of another store: expected {uuid or 'no uuid'} of {path}, "
                f"found {self.uuid or 'no uuid'}"
            )
        if count != self._count:
            raise StateError(f"{self.store.path}: the checkpoint has {count} transitions, the store {self._count}")
        return lambda: None

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        for name in (
            "_storage",
            "fields",
            "whole_rows",
            "_known",
            "_plain_flags",
            "_bfloat16",
            "_layout",
            "_count",
            "_rows_like",
        ):
            del state[name]
        # Nothing in here ever changes, so nothing has to be shared with the process that this goes to; and a lock of
        # the default context ("fork" where multiprocessing was used before torchrl was imported) would keep it from
        # going to a spawned one.
        for name in ("_len_value", "_mutation_revision_value", "_last_cursor_index_value"):
            state.pop(name, None)
        return {**state, "len__context": self._count}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open(self.store)
