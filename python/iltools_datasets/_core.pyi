"""Types of the compiled module. CI checks this file against the built module (`make lint`)."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

__all__ = [
    "DEBUG_BUILD",
    "EpochShuffle",
    "Field",
    "IndexStream",
    "Motion",
    "MotionBins",
    "Recorder",
    "SegmentTable",
    "SequentialCursors",
    "SliceCut",
    "Store",
    "StoreWriter",
    "Tracker",
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
_Floats = NDArray[np.float64]
_Mask = NDArray[np.bool_]
_Items = int | tuple[SegmentTable, _Index]
"""So many transitions, or those of some segments of a table."""
_Slices = tuple[_Index, _Mask, _Mask | None, _Index, list[np.ndarray]]
"""Rows, the last one of each slice, what is no padding, positions of trajectories, and the rows of the fields."""

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
        items: _Items,
        seed: int,
        epoch: int = 0,
        position: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        places: int = 0,
    ) -> Self: ...
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
    @property
    def places(self) -> int: ...
    def next(self, count: int) -> _Index: ...
    def next_within_epoch(self, count: int) -> _Index: ...
    def next_slices(
        self, count: int, cut: SliceCut, within_epoch: bool, store: Store | None, fields: Sequence[int]
    ) -> _Slices: ...
    def restore(self, seed: int, epoch: int, position: int, places: int | None = None) -> None: ...

@final
class UniformDraws(IndexStream):
    """Independent uniform draws, with replacement; the n-th draw depends on (seed, n) alone."""

    def __new__(cls, items: _Items, seed: int, position: int = 0, rank: int = 0, world_size: int = 1) -> Self: ...
    @property
    def total(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def position(self) -> int: ...
    def next(self, count: int) -> _Index: ...
    def next_slices(self, count: int, cut: SliceCut, store: Store | None, fields: Sequence[int]) -> _Slices: ...
    def restore(self, seed: int, position: int) -> None: ...

@final
class SliceCut:
    """How slices are cut from trajectories, or from all windows of them."""

    def __new__(
        cls,
        start: _Index,
        length: _Index,
        ring: int,
        slice_len: int,
        strict: bool,
        padded: bool,
        span: Sequence[int | None],
        stride: int | None,
        holders: bool,
    ) -> Self: ...
    @property
    def total(self) -> int: ...

def window_rows(
    table: SegmentTable, segment: _Index, step: _Index, length: int, boundary: _Boundary
) -> tuple[_Index, _Mask | None]: ...
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
    def open_foreign(
        path: str, traj_key: _Key | None, end_key: _Key | None, backend: Literal["mmap", "ram", "pread"]
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
    ) -> tuple[list[np.ndarray], _Mask | None]: ...
    def verify(
        self, progress: Callable[[int, int], None] | None = None
    ) -> list[tuple[str, _Key | None, int | None, str]]: ...

@final
class Motion:
    """Some keys of a store, looked up at any time of its clips."""

    def __new__(
        cls,
        store: Store,
        fps: _Floats,
        keys: Sequence[tuple[int, Sequence[tuple[int, int]], Sequence[tuple[str, int]], Sequence[int]]],
        anchor: tuple[tuple[int, int], tuple[int, int]] | None,
        stored_xyzw: bool,
        wanted_xyzw: bool,
    ) -> Self: ...
    @property
    def dtypes(self) -> list[np.dtype[Any]]: ...
    def lookup(
        self,
        keys: Sequence[int],
        clip: _Index,
        time: _Floats,
        offsets: _Floats,
        frame: str = "world",
        anchor_pos: NDArray[np.float32] | None = None,
        anchor_quat: NDArray[np.float32] | None = None,
        origins: NDArray[np.float32] | None = None,
        refuses_outside: bool = False,
        out: Sequence[np.ndarray] | None = None,
        threads: int | None = None,
    ) -> tuple[list[np.ndarray], _Mask]: ...

@final
class MotionBins:
    """Clips cut into bins of time."""

    def __new__(cls, last: _Index, fps: _Floats, control_dt: float, bin_s: float) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def clip(self) -> _Index: ...
    @property
    def begin(self) -> _Floats: ...
    @property
    def end(self) -> _Floats: ...
    def at(self, clip: _Index, time: _Floats) -> _Index: ...

@final
class Tracker:
    """Where many envs stand in their clips, what happened in each bin of these, and where the envs start next."""

    def __new__(
        cls,
        bins: MotionBins,
        masses: _Floats,
        num_envs: int,
        uniform: float,
        cap: float | None,
        prior: float,
        half_life: tuple[float, float] | None,
        look_back: tuple[int, float],
        counts_failures: bool,
        any_time: bool,
        seed: int,
        rank: int,
        world_size: int,
    ) -> Self: ...
    @property
    def clip(self) -> _Index: ...
    @property
    def time(self) -> _Floats: ...
    @property
    def base(self) -> _Floats: ...
    def next_base(self) -> _Floats: ...
    @property
    def adaptive(self) -> _Floats: ...
    def probabilities(self) -> _Floats: ...
    def report(self, ids: _Index, failed: _Mask, counting: bool) -> None: ...
    def reset(self, ids: _Index, failed: _Mask | None, counting: bool) -> None: ...
    def place(self, ids: _Index, clip: _Index, time: _Floats, failed: _Mask | None, counting: bool) -> None: ...
    def step(self, counting: bool) -> _Mask: ...
    def since(self) -> _Index: ...
    def totals(self) -> _Index: ...
    def clip_starts(self) -> _Index: ...
    def folded(self, counted: _Index | None) -> tuple[_Floats, _Floats]: ...
    def sync(self, counted: _Index | None, scores: _Floats | None) -> None: ...
    def set_masses(self, masses: _Floats) -> None: ...
    def save(self) -> dict[str, NDArray[Any]]: ...
    def restore(
        self,
        clip: _Index,
        start: _Floats,
        steps: _Index,
        drawn: tuple[int, int],
        syncs: int,
        passes: _Floats,
        failures: _Floats,
        since: _Index,
        totals: _Index,
        masses: _Floats,
        next_masses: _Floats,
        scores: _Floats | None,
    ) -> None: ...

@final
class Recorder:
    """The journal of a recording and the episodes in it; arrays are uint8, one-dimensional and contiguous."""

    def __new__(
        cls, directory: str, num_envs: int, row_bytes: Sequence[int], num_states: int, longest: int, resume: bool
    ) -> Self: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def num_episodes(self) -> int: ...
    @property
    def running(self) -> list[int]: ...
    def step(self, mask: np.ndarray, columns: Sequence[np.ndarray]) -> None: ...
    def end(self, envs: Sequence[int], how: Sequence[int], states: Sequence[bytes]) -> None: ...
    def sync(self) -> None: ...
    def episodes(self, from_: int) -> list[tuple[int, int, int, int, bool, bool, bool]]: ...
    def read_step(self, step: int, column: int, out: np.ndarray) -> None: ...
    def read_mask(self, step: int, out: np.ndarray) -> None: ...
    def read_episode(self, number: int, column: int, out: np.ndarray) -> bool: ...

@final
class StoreWriter:
    """Writes a new generation of a store; nothing is visible to readers before `publish`."""

    def __new__(cls, path: str, overwrite: bool, attributes: str) -> Self: ...
    def append(
        self,
        task_id: int,
        traj_id: int,
        name: str | None,
        states: Sequence[tuple[_Key, np.ndarray]],
        transitions: Sequence[tuple[_Key, np.ndarray]],
        views: Sequence[tuple[_Key, _Key, int, Sequence[int]]],
    ) -> tuple[int, int]: ...
    def set_attributes(self, attributes: str) -> None: ...
    def publish(self, task_names: dict[int, str]) -> str: ...
    def adopt(self, spool: str) -> str: ...
    def abort(self) -> None: ...
