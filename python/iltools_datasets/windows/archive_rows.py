"""Rows of an archive through bounded buffers."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.forks import renew_in_child
from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.archive.schema import TRANSITION_KEYS
from iltools_datasets.errors import MissingKeyError, SchemaError
from iltools_datasets.store.keys import Key
from iltools_datasets.windows.block_pool import BlockPool
from iltools_datasets.windows.rows import Index, TrajectoryName

_MAX_BLOCK_ROWS = 256


class ArchiveRows:
    """Rows of an archive, through at most `num_envs * rows_per_env` buffered rows per key.

    Rows are kept in blocks that all readers share, so a chunk is decoded once for all of them; the blocks expected next
    are read by a background thread.
    """

    def __init__(self, reader: ArchiveReader, num_envs: int, rows_per_env: int) -> None:
        self._reader = reader
        self._trajectories = reader.trajectories
        # A quarter, so that a window that straddles blocks still fits an env's share.
        self._block_rows = min(max(rows_per_env // 4, 1), _MAX_BLOCK_ROWS)
        self.expected_stride: int | None = self._block_rows
        self.rows_ahead = rows_per_env
        self._capacity = max(num_envs * rows_per_env // self._block_rows, 1)
        self.num_states: Index = np.array([clip.num_states for clip in self._trajectories], dtype=np.int64)
        blocks = -(-self.num_states // self._block_rows)
        self._first_block: Index = np.cumsum(blocks) - blocks
        tasks = {task.task_id: task for task in reader.tasks}
        self.names = [
            TrajectoryName(tasks[clip.task_id].dataset_source, tasks[clip.task_id].motion, clip.name)
            for clip in self._trajectories
        ]
        self.keys: list[Key] = list(dict.fromkeys(key for clip in self._trajectories for key in clip.keys))
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Forget the thread, the locks and the buffers that they guard, as a forked child has to."""
        self._columns: dict[Key, _Column] = {}
        self._lock = Lock()
        self._executor: ThreadPoolExecutor | None = None

    @property
    def buffered_bytes(self) -> int:
        return sum(column.pool.nbytes for column in self._columns.values())

    def row_counts(self, key: Key, trajectory: Index) -> Index:
        counts = self._column(key).row_count
        found = counts[trajectory]
        if (found < 0).any():
            for number in _distinct(trajectory[found < 0]).tolist():
                counts[number] = self._count_rows(key, number)
            found = counts[trajectory]
        return found

    def _count_rows(self, key: Key, number: int) -> int:
        clip, pool_spec = self._trajectories[number], self._column(key).spec
        if key not in clip.keys:
            raise MissingKeyError(
                f"{self._reader.path}: trajectory {clip.path}: no key {key!r}, there are {sorted(clip.keys)}"
            )
        spec = clip.keys[str(key)]
        if (spec.dtype, spec.shape[1:]) != pool_spec:
            raise SchemaError(
                f"{self._reader.path}: trajectory {clip.path}, key {key!r}: expected {pool_spec[0]} "
                f"{list(pool_spec[1])} per state as elsewhere, found {spec.dtype} {list(spec.shape[1:])}"
            )
        possible = (clip.num_states, clip.num_states - (key in TRANSITION_KEYS))
        if clip.misfit is not None and spec.shape[0] not in possible:
            raise SchemaError(f"{self._reader.path}: trajectory {clip.path}: {clip.misfit}")
        return spec.shape[0]

    def read(self, key: Key, trajectory: Index, step: Index) -> NDArray[Any]:
        block, offset = np.divmod(step, self._block_rows)
        block += self._first_block[trajectory][:, None]
        rows = self._gather(self._column(key), block.ravel(), offset.ravel())
        return rows.reshape(*step.shape, *rows.shape[1:])

    def _gather(self, column: _Column, block: Index, offset: Index) -> NDArray[Any]:
        # Consecutive rows mostly lie in one block, so only the first of each run is looked up.
        begins = _begins(block)
        needed = block[begins]
        run = np.cumsum(begins) - 1
        with column.lock:
            slots = column.pool.find(needed)
            if (slots >= 0).all():
                column.pool.use(slots)
                return column.pool.gather(slots[run], offset)
        if len(_distinct(needed)) > column.pool.capacity:
            half = len(block) // 2
            return np.concatenate(
                [
                    self._gather(column, block[:half], offset[:half]),
                    self._gather(column, block[half:], offset[half:]),
                ]
            )
        column.wait()
        with column.lock:
            slots = column.pool.find(needed)
            column.pool.use(slots[slots >= 0])
            missing = _distinct(needed[slots < 0])
            if len(missing):
                column.pool.admit(self._read_blocks(column.key, missing), keep_current=False)
                slots = column.pool.find(needed)
            column.pool.use(slots)
            return column.pool.gather(slots[run], offset)

    def expect(self, key: Key, trajectory: Index, step: Index, urgent: int) -> None:
        column = self._column(key)
        if column.is_busy:
            return
        # Transposed, so that what is needed first comes first.
        block = (self._first_block[trajectory][:, None] + step // self._block_rows).T.ravel()
        with column.lock:
            slots = column.pool.find(block)
            absent = slots < 0
            column.pool.keep(slots[~absent])
            room = column.pool.room
        if room and absent[: urgent * len(trajectory)].any():
            missing = block[absent]
            order = np.argsort(missing, kind="stable")
            ordered = missing[order]
            soonest = np.sort(order[_begins(ordered)])[:room]
            column.ahead = self._threads().submit(self._read_ahead, column, np.sort(missing[soonest]))

    def _read_ahead(self, column: _Column, blocks: Index) -> None:
        rows = self._read_blocks(column.key, blocks)
        with column.lock:
            absent = column.pool.find(blocks) < 0
            fresh = [entry for entry, is_absent in zip(rows, absent.tolist(), strict=True) if is_absent]
            column.pool.admit(fresh, keep_current=True)

    def _read_blocks(self, key: Key, blocks: Index) -> list[tuple[int, NDArray[Any]]]:
        """Read blocks, given in ascending order; neighbours within a trajectory in one go."""
        size = self._block_rows
        owner = np.searchsorted(self._first_block, blocks, side="right") - 1
        cuts = np.flatnonzero((np.diff(blocks) != 1) | (np.diff(owner) != 0)) + 1
        result: list[tuple[int, NDArray[Any]]] = []
        for group in np.split(np.arange(len(blocks)), cuts):
            number = int(owner[group[0]])
            first, last = (int(blocks[i] - self._first_block[number]) for i in (group[0], group[-1]))
            clip = self._trajectories[number]
            stop = min((last + 1) * size, clip.num_states)
            rows = self._reader.read(clip, [str(key)], first * size, stop)[str(key)]
            result += [(int(blocks[i]), rows[at * size : (at + 1) * size]) for at, i in enumerate(group.tolist())]
        return result

    def _column(self, key: Key) -> _Column:
        column = self._columns.get(key)
        if column is None:
            with self._lock:
                column = self._columns.setdefault(key, self._make_column(key))
        return column

    def _make_column(self, key: Key) -> _Column:
        holder = next((clip for clip in self._trajectories if key in clip.keys), None)
        if holder is None:
            raise MissingKeyError(f"{self._reader.path}: no trajectory has a key {key!r}, there are {self.keys}")
        spec = holder.keys[str(key)]
        row_shape = tuple(spec.shape[1:])
        pool = BlockPool(self._capacity, self._block_rows, row_shape, spec.dtype)
        return _Column(key, (spec.dtype, row_shape), np.full(len(self._trajectories), -1, dtype=np.int64), pool)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "iltools-window-read-ahead")
            return self._executor

    def close(self) -> None:
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        self._reader.close()


def _begins(values: Index) -> NDArray[np.bool_]:
    """Return where a run of equal values begins, bool [n]."""
    begins = np.empty(len(values), dtype=np.bool_)
    begins[:1] = True
    np.not_equal(values[1:], values[:-1], out=begins[1:])
    return begins


def _distinct(values: Index) -> Index:
    """Return each value once, in ascending order.

    Not by `np.unique`, which imports a module when it is first called: a child forked meanwhile would wait for the end
    of that import for ever.
    """
    ordered = np.sort(values)
    return ordered[_begins(ordered)]


@dataclass(slots=True)
class _Column:
    """One key: its buffer, the rows it has in each trajectory (-1 = not looked up yet), and what is read ahead."""

    key: Key
    spec: tuple[np.dtype[Any], tuple[int, ...]]
    row_count: Index
    pool: BlockPool
    lock: Lock = field(default_factory=Lock)
    ahead: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self.ahead is not None and not self.ahead.done()

    def wait(self) -> None:
        """Wait for what is read ahead; if that fails, whoever needs the rows will meet the error."""
        if self.ahead is not None and not self.ahead.cancelled():
            self.ahead.exception()
