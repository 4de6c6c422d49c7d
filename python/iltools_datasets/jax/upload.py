"""What of a store goes into device memory, whether it fits there, and how it gets there."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from numpy.typing import DTypeLike, NDArray

from iltools_datasets import _core
from iltools_datasets._base.aligned import aligned_empty
from iltools_datasets._base.bfloat16 import as_bfloat16
from iltools_datasets.errors import BudgetError, OutOfRangeError, SchemaError
from iltools_datasets.jax.placement import Placement, cast
from iltools_datasets.store.keys import Key, public
from iltools_datasets.store.trajectory_store import TrajectoryStore

_CHUNK_BYTES = 32 << 20
_MOST_ROWS = 2**31 - 1  # rows are counted in int32 on the device

Rows = Literal["transition", "state", "next_state"]


@dataclass(frozen=True, slots=True)
class History:
    """How a row and those before it make a history: see `docs/store-format.md`; hashable, as `jit` needs it."""

    parts: tuple[tuple[int, int], ...]
    length: int
    lag: int
    oldest_first: bool
    repeats_first: bool

    @classmethod
    def of(cls, core: _core.History) -> History:
        return cls(tuple(core.parts), core.length, core.lag, core.oldest_first, core.repeats_first)


@dataclass(frozen=True, slots=True)
class Field:
    """Where a key's values are: in which column, and in which of its rows those of transition t of a trajectory."""

    key: Key
    column: int
    rows: Rows
    history: History | None = None


@dataclass(frozen=True, slots=True)
class _Column:
    """A device array to be: filled with a key's values, and, with a row per state, its `next` at the ends."""

    key: Key
    next_key: Key | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def upload(
    store: TrajectoryStore,
    keys: Sequence[Key] | None,
    sharding: Sharding | jax.Device | None,
    dtype: DTypeLike | None,
    budget: int | None,
) -> tuple[list[jax.Array], tuple[Field, ...], list[jax.Array]]:
    """Return the columns, what is in them, and int32 [K] each: first transition row, first state row, length.

    One column at a time is in host memory. Raises as `DeviceStore.from_store` says, before anything is allocated.
    """
    placement = _placement(sharding, dtype)
    names = list(store.keys if keys is None else keys)
    store.field_ids(names)
    if not names:
        raise SchemaError("no keys to put on the device")
    check_row_count(_num_states(store))
    columns, fields = _plan(store, names, placement)
    _refuse_beyond(budget, columns, placement)
    arrays = [_put(placement, column.key, _filled(store, column)) for column in columns]
    length = store.segments.length
    starts = (store.segments.start, _state_start(store), length)
    whole = _placement(_replicated(sharding), None)
    return arrays, tuple(fields), [_put(whole, "segments", values.astype(np.int32)) for values in starts]


def _num_states(store: TrajectoryStore) -> int:
    return len(store) + store.num_trajectories


def _state_start(store: TrajectoryStore) -> NDArray[np.int64]:
    """First row of each trajectory in a column with a row per state, one trajectory behind the other."""
    num_states = store.segments.length + 1
    start: NDArray[np.int64] = np.cumsum(num_states) - num_states
    return start


def check_row_count(rows: int) -> None:
    """Raise `OutOfRangeError` if rows cannot be counted in int32."""
    if rows > _MOST_ROWS:
        raise OutOfRangeError(f"the device counts rows in int32, up to {_MOST_ROWS}; the store has {rows} states")


def _placement(sharding: Sharding | jax.Device | None, dtype: DTypeLike | None) -> Placement:
    if isinstance(sharding, Sharding):
        return Placement(sharding=sharding, dtype=dtype)
    return Placement(device=sharding, dtype=dtype)


def _replicated(sharding: Sharding | jax.Device | None) -> Sharding | jax.Device | None:
    return NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding


def _plan(store: TrajectoryStore, names: list[Key], placement: Placement) -> tuple[list[_Column], list[Field]]:
    """Return the columns that the keys need, and where each key is; of a history its frames are there, once."""
    layout = dict(zip(store.keys, store.layout, strict=True))
    known = {key: layout[key if isinstance(key, str) else public(key)] for key in names}
    histories = {key: field for key, field in known.items() if field.history is not None}
    sources = [public(field.column) for field in histories.values()]
    frames = [key for source in sources for key in (source, store.successor(source)) if key is not None]
    columns, fields = _plan_columns(store, list(dict.fromkeys([*_without(names, histories), *frames])), placement)
    column_of = {field.key: field.column for field in fields}
    fields = [field for field in fields if field.key in names]
    for key, field in histories.items():
        assert field.history is not None
        fields.append(Field(key, column_of[public(field.column)], field.rows, History.of(field.history)))
    order = {key: number for number, key in enumerate(names)}
    return columns, sorted(fields, key=lambda field: order[field.key])


def _without(names: list[Key], left_out: Container[Key]) -> list[Key]:
    return [key for key in names if key not in left_out]


def _plan_columns(store: TrajectoryStore, names: list[Key], placement: Placement) -> tuple[list[_Column], list[Field]]:
    columns: list[_Column] = []
    fields: list[Field] = []
    states: dict[Key, int] = {}
    before_of = {store.successor(key): key for key in names}
    for key in sorted(names, key=before_of.__contains__):
        before = before_of.get(key)
        # Of a foreign directory nobody knows whether its rows are those of the states that follow.
        if before in states and (store.uuid or _follows(store, before, key)):
            column = columns[states[before]]
            shape = (_padded(_num_states(store), placement), *column.shape[1:])
            columns[states[before]] = _Column(before, key, shape, column.dtype)
            fields = [Field(field.key, field.column, "state") if field.key == before else field for field in fields]
            fields.append(Field(key, states[before], "next_state"))
            continue
        states[key] = len(columns)
        fields.append(Field(key, len(columns), "transition"))
        shape = (_padded(len(store), placement), *store.shape(key))
        columns.append(_Column(key, None, shape, placement.device_dtype(_host_dtype(store, key))))
    return columns, fields


def _host_dtype(store: TrajectoryStore, key: Key) -> np.dtype[Any]:
    return as_bfloat16(np.empty(0, np.uint16)).dtype if store.is_bfloat16(key) else store.dtype(key)


def _padded(rows: int, placement: Placement) -> int:
    """Rows of a column: a few that are never read make it divisible over the devices."""
    return -(-rows // placement.num_shards) * placement.num_shards


def _chunks(store: TrajectoryStore, key: Key) -> Iterator[NDArray[np.int64]]:
    """Indices of all transitions, in pieces of bounded size."""
    row_bytes = max(1, math.prod(store.shape(key)) * store.dtype(key).itemsize)
    rows = max(1, _CHUNK_BYTES // row_bytes)
    for begin in range(0, len(store), rows):
        yield np.arange(begin, min(begin + rows, len(store)))


def _follows(store: TrajectoryStore, key: Key, next_key: Key) -> bool:
    """Whether `next` of a transition is the key's own value in the one after it, bit for bit, in all trajectories."""
    is_last = np.zeros(len(store), dtype=bool)
    is_last[store.segments.start + store.segments.length - 1] = True
    for index in _chunks(store, key):
        index = index[~is_last[index]]
        after = store.gather(index + 1, [key])[key]
        said = store.gather(index, [next_key])[next_key]
        if not np.array_equal(after.reshape(-1).view(np.uint8), said.reshape(-1).view(np.uint8)):
            return False
    return True


def _filled(store: TrajectoryStore, column: _Column) -> NDArray[Any]:
    values = aligned_empty(column.shape, column.dtype)
    if column.next_key is None:
        for index in _chunks(store, column.key):
            _fill(store, column.key, index, values, index)
        values[len(store) :] = 0
        return values
    state_start = _state_start(store)
    for index in _chunks(store, column.key):
        segment, step = store.segments.locate(index)
        _fill(store, column.key, index, values, state_start[segment] + step)
    length = store.segments.length
    _fill(store, column.next_key, store.segments.start + length - 1, values, state_start + length)
    values[_num_states(store) :] = 0
    return values


def _fill(
    store: TrajectoryStore, key: Key, index: NDArray[np.int64], values: NDArray[Any], at: NDArray[np.int64]
) -> None:
    rows = store.gather(index, [key])[key]
    if store.is_bfloat16(key):
        rows = as_bfloat16(rows)
    if rows.dtype != values.dtype:
        converted = np.empty(rows.shape, values.dtype)
        cast(str(key), rows, converted)
        rows = converted
    values[at] = rows


def _put(placement: Placement, key: Key, values: NDArray[Any]) -> jax.Array:
    target = placement.target
    if isinstance(target, Sharding) and not target.is_fully_addressable:
        # Every process has the whole column and puts what its own devices hold of it.
        return jax.make_array_from_callback(values.shape, target, lambda part: values[part])
    return placement.put([str(key)], [values], leased=True)[0]


def _refuse_beyond(budget: int | None, columns: list[_Column], placement: Placement) -> None:
    needs = {column.key: math.prod(_piece(column.shape, placement)) * column.dtype.itemsize for column in columns}
    available = _free_bytes(placement) if budget is None else budget
    if sum(needs.values()) > available:
        whose = "free" if budget is None else "the budget"
        raise BudgetError(
            f"{sum(needs.values())} bytes per device are needed, {available} are {whose}; by column: {needs}. "
            "Name fewer keys, a smaller dtype or a sharding over more devices, or stream windows instead"
        )


def _piece(shape: tuple[int, ...], placement: Placement) -> tuple[int, ...]:
    """Return the shape of what one device holds."""
    if not isinstance(placement.target, Sharding):
        return shape
    try:
        piece: tuple[int, ...] = placement.target.shard_shape(shape)
    except ValueError as error:
        raise SchemaError(f"a column of shape {list(shape)} cannot be spread by {placement.target}: {error}") from error
    return piece


def _free_bytes(placement: Placement) -> int:
    target = placement.target
    if target is None:
        devices = [jax.config.jax_default_device or jax.local_devices()[0]]
    else:
        devices = list(target.addressable_devices) if isinstance(target, Sharding) else [target]
    stats: list[dict[str, int] | None] = [getattr(device, "memory_stats", dict)() for device in devices]
    free = [entry["bytes_limit"] - entry["bytes_in_use"] for entry in stats if entry and "bytes_limit" in entry]
    if free:
        return min(free)
    # The host's own memory, of which every device on it takes its share.
    return _free_host_bytes() // len(devices)


def _free_host_bytes() -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
