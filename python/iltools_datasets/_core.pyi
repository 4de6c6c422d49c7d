"""Types of the compiled module. CI checks this file against the built module (`make lint`)."""

from collections.abc import Callable, Sequence
from typing import Literal, Self, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

__all__ = [
    "DEBUG_BUILD",
    "EpochShuffle",
    "Field",
    "IndexStream",
    "SegmentTable",
    "SequentialCursors",
    "Store",
    "StoreWriter",
    "UniformDraws",
    "__version__",
    "gather",
    "num_threads",
    "release_memory",
    "repair",
    "set_num_threads",
    "verify",
    "window_rows",
]

__version__: str
DEBUG_BUILD: bool

_Key = tuple[str, ...]
_Boundary = Literal["wrap", "clamp", "mask", "error"]
_Index = NDArray[np.int64]

@final
class SegmentTable:
    """Checked, immutable table of segments over the transitions of a data set."""

    def __new__(cls, task_id: _Index, traj_id: _Index, start: _Index, length: _Index) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def task_id(self) -> _Index: ...
    @property
    def traj_id(self) -> _Index: ...
    @property
    def start(self) -> _Index: ...
    @property
    def length(self) -> _Index: ...
    @property
    def num_transitions(self) -> int: ...
    def row(self, position: int) -> tuple[int, int, int, int]: ...
    def find(self, task_id: _Index, traj_id: _Index) -> _Index: ...
    def locate(self, index: _Index) -> tuple[_Index, _Index]: ...

@disjoint_base
class IndexStream:
    """A generator of indices; a native thread can make batches ahead of it."""

    def look_ahead(self, store: Store, fields: Sequence[int], depth: int) -> None: ...
    def num_ready(self) -> int: ...
    def depth_ahead(self, store: Store) -> int: ...
    def rows_of(self, store: Store, index: _Index) -> list[np.ndarray] | None: ...

@final
class SequentialCursors(IndexStream):
    """One cursor per env; `next` returns the rows under the cursors and moves each by one, wrapping."""

    def __new__(cls, table: SegmentTable, segment: _Index, step: _Index) -> Self: ...
    @property
    def segment(self) -> _Index: ...
    @property
    def step(self) -> _Index: ...
    def __len__(self) -> int: ...
    def next(self) -> _Index: ...
    def update(self, env: _Index, segment: _Index, step: _Index) -> None: ...

@final
class EpochShuffle(IndexStream):
    """Every item exactly once per epoch, in an order computed per position by a keyed permutation."""

    def __new__(
        cls,
        total: int,
        seed: int,
        epoch: int = 0,
        position: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> Self: ...
    @staticmethod
    def over_segments(
        table: SegmentTable,
        segment: _Index,
        seed: int,
        epoch: int = 0,
        position: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> EpochShuffle: ...
    @property
    def total(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def place(self) -> tuple[int, int]: ...
    def next(self, count: int) -> _Index: ...
    def next_within_epoch(self, count: int) -> _Index: ...
    def restore(self, seed: int, epoch: int, position: int) -> None: ...

@final
class UniformDraws(IndexStream):
    """Independent uniform draws, with replacement; the n-th draw depends on (seed, n) alone."""

    def __new__(cls, total: int, seed: int, position: int = 0, rank: int = 0, world_size: int = 1) -> Self: ...
    @staticmethod
    def over_segments(
        table: SegmentTable, segment: _Index, seed: int, position: int = 0, rank: int = 0, world_size: int = 1
    ) -> UniformDraws: ...
    @property
    def total(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def position(self) -> int: ...
    def next(self, count: int) -> _Index: ...
    def restore(self, seed: int, position: int) -> None: ...

def window_rows(
    table: SegmentTable, segment: _Index, step: _Index, length: int, boundary: _Boundary
) -> tuple[_Index, NDArray[np.bool_] | None]: ...
def gather(
    columns: Sequence[np.ndarray],
    index: _Index,
    out: Sequence[np.ndarray] | None = None,
    threads: int | None = None,
) -> list[np.ndarray]: ...
def num_threads() -> int: ...
def set_num_threads(count: int | None) -> None: ...
def release_memory() -> None: ...
def repair(path: str) -> list[str]: ...
def verify(
    path: str, progress: Callable[[int, int], None] | None = None
) -> list[tuple[str, _Key | None, int | None, str]]: ...

@final
class Field:
    """Something that can be gathered: which bytes of which rows of which column."""

    @property
    def key(self) -> _Key: ...
    @property
    def column(self) -> _Key: ...
    @property
    def rows(self) -> Literal["transition", "state", "next_state"]: ...
    @property
    def offset(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

@final
class Store:
    """An open store; keys are addressed by their position in `layout`."""

    @staticmethod
    def open(path: str, backend: Literal["mmap", "ram", "pread"]) -> Store: ...
    @staticmethod
    def over_files(
        path: str,
        columns: Sequence[tuple[_Key, str, str, Sequence[int]]],
        table: SegmentTable,
        backend: Literal["mmap", "ram", "pread"],
    ) -> Store: ...
    @property
    def path(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def data_dir(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def num_transitions(self) -> int: ...
    @property
    def num_states(self) -> int: ...
    @property
    def layout(self) -> list[Field]: ...
    @property
    def segments(self) -> SegmentTable: ...
    @property
    def task_names(self) -> dict[int, str]: ...
    @property
    def trajectory_names(self) -> list[str | None]: ...
    @property
    def attributes(self) -> str: ...
    def gather(
        self,
        fields: Sequence[int],
        index: _Index,
        out: Sequence[np.ndarray] | None = None,
        threads: int | None = None,
    ) -> list[np.ndarray]: ...
    def windows(
        self,
        fields: Sequence[int],
        segment: _Index,
        step: _Index,
        length: int,
        boundary: _Boundary,
        threads: int | None = None,
    ) -> tuple[list[np.ndarray], NDArray[np.bool_] | None]: ...
    def verify(
        self, progress: Callable[[int, int], None] | None = None
    ) -> list[tuple[str, _Key | None, int | None, str]]: ...

@final
class StoreWriter:
    """Writes a new generation of a store; nothing is visible to readers before `publish`."""

    def __new__(cls, path: str, overwrite: bool) -> Self: ...
    def append(
        self,
        task_id: int,
        traj_id: int,
        name: str | None,
        states: Sequence[tuple[_Key, np.ndarray]],
        transitions: Sequence[tuple[_Key, np.ndarray]],
    ) -> tuple[int, int]: ...
    def add_view(self, key: _Key, source: _Key, offset: int, shape: Sequence[int]) -> None: ...
    def publish(self, task_names: dict[int, str], attributes: str) -> str: ...
    def abort(self) -> None: ...
