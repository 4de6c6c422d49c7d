"""What all samplers here share: where random numbers come from, which data set they are on, and how they are saved."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from iltools_datasets._base.files import read_json, write_json
from iltools_datasets._base.integers import checked_integer
from iltools_datasets._base.saved_state import UINT64_MAX, SavedState, TakeOver
from iltools_datasets.errors import StateError
from iltools_datasets.ranks import Rank, checked_rank

STATE_VERSION = 1
STATE_FILE = "sampler.json"
LAST_EPOCH = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Worker:
    """Which worker of a `torch.utils.data.DataLoader` this process is, and the seed that all of its workers know."""

    id: int
    num_workers: int
    seed: int


class DrawnRows(NamedTuple):
    """A draw that came with its rows of a `TrajectoryStorage`."""

    rows: torch.Tensor
    """Which they are, as the batch has them: int64 [B], or [B, 1] where `sample` returns a tuple of one vector."""
    info: dict[Any, Any]
    leaves: list[torch.Tensor]
    """The rows, `[B, ...]` per field of the storage; where they may tell what the info does, with that."""
    were_ready: bool
    """Whether they had been made ahead."""


class SeededSampler(Sampler):  # type: ignore[misc]
    """Base of the samplers: where random numbers come from, and a state of a few numbers that continues the stream.

    A sampler has a stream of its own or follows a generator.

    *Its own* is decided by a 64-bit seed: `seed`, or that of `reseed`, or of a state that was loaded; nothing else
    matters then. Samplers that never follow draw one without `seed`, once, when it is first needed, from the generator
    that the buffer hands over (`ReplayBuffer(generator=...)`, `rb.set_rng`) or from torch's global one; handing over
    another generator means a new seed, unless it is the generator a restored state belongs to.

    *Following*, as the classes named like TorchRL's do without `seed`, is to take a number from the generator whenever
    TorchRL's class draws an order: one per batch with replacement, one per epoch without. The same state of the
    generator gives the same batch again, and what comes next after a resume is what the generator says.

    Ranks share one stream: each step draws one batch per rank, and each rank gets its own. The state is where all of
    them stand, so what one rank saved continues on any rank of any number. They need the same seed, the same data and
    the same batch sizes.

    In a worker of a `torch.utils.data.DataLoader` a stream is the share of one of `num_workers` ranks within the rank.
    A stream of its own goes on from where it stood outside; one without `seed` begins anew there, from the seed that
    the loader gives its workers.
    """

    _takes_number_per: ClassVar[Literal["batch", "epoch"] | None] = None
    """How often a number is taken from a generator without `seed`; None never follows one."""

    draws_rows: ClassVar[bool] = False
    """Whether `sample_rows` draws what `sample` does, and in the same call the rows of a `TrajectoryStorage`.

    A subclass with a `sample` of its own has the last word on what a batch is, and draws no rows of another's.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        owner = next(kind for kind in cls.__mro__ if "sample" in vars(kind))
        cls.draws_rows = "sample_rows" in vars(owner)

    def sample_rows(self, storage: Any, batch_size: int, tells: bool = True) -> DrawnRows:
        """Return the next batch of a `TrajectoryStorage` and its rows, as stored unless `tells`; where `draws_rows`."""
        raise NotImplementedError(f"{type(self).__name__} draws no rows")

    def __init__(self, seed: int | None = None, rank: int = 0, world_size: int = 1) -> None:
        self._seed = None if seed is None else _checked_seed(seed)
        self._is_seed_fixed = seed is not None
        self._is_restored = False
        self._follows = self._takes_number_per is not None and seed is None
        self._worker: _Worker | None = None
        self._numbers_taken = 0
        self._share_with(rank, world_size)
        self._stream: Any = None
        self._generator: torch.Generator | None = None
        self._restored_generator: str | None = None
        self._store_uuid: str | None = None
        self._is_store_verified = True

    # The ranks, and the workers of a DataLoader.

    def _share_with(self, rank: int, world_size: int) -> None:
        self._own_rank = checked_rank(rank, world_size)
        if self._own_rank["world_size"] > 1 and not self._is_seed_fixed:
            raise ValueError(
                f"{type(self).__name__}: seed is None with world_size {world_size}: all ranks need the same one; "
                "give it, or let rank 0 choose with iltools_datasets.ranks.shared_seed()"
            )

    @property
    def _rank(self) -> Rank:
        """Which part of the stream this is: the rank's or, in a worker of a DataLoader, the worker's part of it."""
        rank, worker = self._own_rank, self._worker
        if worker is None:
            return rank
        return Rank(
            rank=rank["rank"] * worker.num_workers + worker.id, world_size=rank["world_size"] * worker.num_workers
        )

    @property
    def rank(self) -> int:
        """Which of the ranks that share the stream this one is; workers of a DataLoader are ranks, too."""
        return self._rank["rank"]

    @property
    def world_size(self) -> int:
        """How many ranks share the stream."""
        return self._rank["world_size"]

    def _join_workers(self) -> None:
        """Become one of a DataLoader's workers, if this process has become one since the last draw."""
        info = get_worker_info()
        if info is None:
            return
        worker = _Worker(info.id, info.num_workers, info.seed - info.id)
        if worker == self._worker:
            return
        self._worker, self._numbers_taken = worker, 0
        if self._is_seed_fixed or self._is_restored:
            self._share_anew()
        else:
            self._begin_anew()

    def _share_anew(self) -> None:
        """Go on from here with the part of another rank."""
        self._prepare(self._own_state())()

    # The numbers.

    @property
    def _rng(self) -> torch.Generator | None:
        return self._generator

    @_rng.setter
    def _rng(self, generator: torch.Generator | None) -> None:
        if generator is self._generator:
            return
        self._generator = generator
        if generator is None or self._is_seed_fixed or self._follows:
            return
        # A buffer that loads a checkpoint hands over the saved generator after the sampler was restored.
        continues = self._restored_generator == _digest(generator)
        self._restored_generator = None
        if not continues:
            self._is_restored = False
            self._follows = self._takes_number_per is not None
            self._reseed()

    @property
    def follows_generator(self) -> bool:
        """Whether numbers come from a generator, and not from a seed of the sampler's own."""
        return self._follows

    def reseed(self, seed: int) -> None:
        """Begin another stream, which is the sampler's own: with the next draw it is that of a new sampler with `seed`.

        Raises `ArgumentError` (a ValueError) unless it is an integer within 0..2^64-1.
        """
        checked = _checked_seed(seed)
        self._follows, self._is_restored, self._restored_generator = False, False, None
        self._begin_anew()
        self._seed, self._is_seed_fixed = checked, True

    def _take_number(self, shared: bool) -> int:
        """Take a number from the generator, 0..2^63-1.

        Args:
            shared: all workers of a DataLoader need the same one.
        """
        worker, generator = self._worker, self._generator
        if worker is not None and shared:
            # Torch's global generators differ between workers, and are meant to.
            self._numbers_taken += 1
            return _mixed(worker.seed, self._numbers_taken, "" if generator is None else _digest(generator))
        device = "cpu" if generator is None else generator.device
        number = int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator).item())
        # A buffer's generator comes to the workers of each pass over a loader as it was before the first.
        return number if worker is None or generator is None else _mixed(worker.seed, number)

    def _needed_seed(self) -> int:
        if self._seed is None:
            self._seed = self._take_number(shared=True)
        return self._seed

    @abstractmethod
    def _reseed(self) -> None:
        """Forget the seed, because another generator was handed over: the next draw, or epoch, takes a new one."""

    def _begin_anew(self) -> None:
        """Forget the seed and where the stream stands."""
        self._reseed()

    @property
    def index_stream(self) -> Any:
        """The native generator of the next indices, which a buffer may run ahead of.

        None before the first draw, and where each batch takes a number from a generator, known only then.
        """
        return None if self._follows and self._takes_number_per == "batch" else self._stream

    @property
    def epoch(self) -> int | None:
        """Which epoch the last batch is of, from 0; 0 before the first batch, None where there are no epochs.

        A batch that reaches into the next epoch is of the one that it ends.
        """
        return None

    # The data set.

    def _meet(self, storage: Storage | None) -> bool:
        """Note the store behind a storage, and the process, and return whether the store took another one's place.

        Comes first in each draw. `StateError` if a restored state is of another store.
        """
        self._join_workers()
        uuid = getattr(storage, "uuid", None) or None
        if uuid == self._store_uuid:
            self._is_store_verified = True
            return False
        if storage is None:
            return False
        if not self._is_store_verified:
            raise StateError(
                f"state of {type(self).__name__}: expected store {self._store_uuid}, "
                f"found {'store ' + uuid if uuid else type(storage).__name__} in the buffer"
            )
        moved = self._store_uuid is not None
        self._store_uuid = uuid
        return moved

    # The state.

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """Return what a subclass saves: plain Python values that JSON can hold."""

    @abstractmethod
    def _prepare(self, saved: SavedState) -> TakeOver:
        """Read and check all of a state, and return what takes it over."""

    def _saved_follows(self, saved: SavedState) -> bool:
        # States of before have a seed that was drawn once, and go on with it.
        follows = saved.flag("follows_generator", default=False)
        if follows and not (self._takes_number_per and self._own_rank["world_size"] == 1):
            raise saved.refuse("follows_generator", "false")
        return follows

    def state_dict(self) -> dict[str, Any]:
        """Return the state: numbers, strings and lists of numbers.

        A stream of its own is begun by that, if it was not. A sampler that follows a generator leaves the generator to
        its owner: a buffer saves the one it was given, and torch's global one is `torch.get_rng_state()`.
        """
        content = self._state()
        generator = self._generator
        return {
            "kind": type(self).__name__,
            "version": STATE_VERSION,
            "store": self._store_uuid,
            "generator": None if generator is None else _digest(generator),
            "follows_generator": self._follows,
            **content,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; raises as `prepare_load` does, and the sampler is as it was then."""
        self.prepare_load(state_dict)()

    def prepare_load(self, state_dict: Any) -> TakeOver:
        """Check a state and return what takes it over; nothing is changed before that is called, and it does not fail.

        Raises:
            StateError: it is damaged, impossible, of another kind of sampler or of another data set.
        """
        saved = SavedState(state_dict, type(self).__name__, STATE_VERSION)
        uuid, generator = saved.optional_text("store"), saved.optional_text("generator")
        if uuid and self._store_uuid and self._is_store_verified and uuid != self._store_uuid:
            raise saved.refuse("store", f"store {self._store_uuid}")
        follows = self._saved_follows(saved)
        restore = self._prepare(saved)

        def take_over() -> None:
            restore()
            self._follows, self._is_restored = follows, not follows
            self._restored_generator = generator
            if uuid and uuid != self._store_uuid:
                self._store_uuid, self._is_store_verified = uuid, False

        return take_over

    def is_torchrl_state(self, state: Any) -> bool:
        """Whether this is a state of TorchRL's sampler of the same name; independent draws have an empty one."""
        return isinstance(state, Mapping) and not state and self._takes_number_per == "batch"

    def prepare_torchrl(self, state: Mapping[str, Any]) -> TakeOver:
        """Return what takes over the state of a sampler of TorchRL's, as far as it means something here.

        An order that no seed gives means nothing: the sampler begins anew then, with a warning.
        """
        if self.is_torchrl_state(state):
            return lambda: None
        return self._begin_anew_after(state)

    def _begin_anew_after(self, state: Mapping[str, Any]) -> TakeOver:
        def begin_anew() -> None:
            self._empty()
            warnings.warn(
                f"{type(self).__name__}: TorchRL's sampler saved what this one cannot go on from "
                f"({', '.join(sorted(state)) or 'nothing'}): it begins anew",
                RuntimeWarning,
                stacklevel=2,
            )

        return begin_anew

    def _own_state(self) -> SavedState:
        kind = type(self).__name__
        own = {"kind": kind, "version": STATE_VERSION, "follows_generator": self._follows, **self._state()}
        return SavedState(own, kind, STATE_VERSION)

    def dumps(self, path: str | Path) -> None:
        """Write the state into the directory `path`, as JSON and in one step: a kill leaves the old or the new one."""
        write_json(Path(path) / STATE_FILE, self.state_dict())

    def loads(self, path: str | Path) -> None:
        """Continue where `dumps(path)` was called; raises as `load_state_dict` does."""
        self.load_state_dict(self.saved_at(path))

    def saved_at(self, path: str | Path) -> Any:
        """Return the state that lies in the directory `path`; `StateError` if there is none, or it is damaged."""
        return read_json(Path(path) / STATE_FILE)

    def __getstate__(self) -> dict[str, Any]:
        # The stream is native; what it stands for is in the saved state. One that has no seed yet has not begun.
        begun = self._follows or self._seed is not None
        generator = self._generator
        return {
            **self.__dict__,
            "_stream": None,
            "_generator": None,
            "_worker": None,
            "_restored_generator": self._restored_generator if generator is None else _digest(generator),
            "_saved": self._own_state() if begun else None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_saved")
        self.__dict__.update(state)
        if saved is not None:
            self._prepare(saved)()


def _checked_seed(seed: Any) -> int:
    return checked_integer("seed", seed, low=0, high=UINT64_MAX)


def _mixed(*parts: int | str) -> int:
    """Return a number, 0..2^63-1, that depends on all of some others."""
    known = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(known, digest_size=8).digest()) >> 1


def _digest(generator: torch.Generator) -> str:
    return hashlib.blake2b(generator.get_state().numpy().tobytes(), digest_size=16).hexdigest()


def on_device(index: NDArray[Any], storage: Storage | None) -> torch.Tensor:
    """Return indices as a tensor where a storage keeps its data."""
    tensor = torch.from_numpy(index)
    device = getattr(storage, "device", None)
    if device is None or (isinstance(device, str) and device == "auto") or torch.device(device).type == "cpu":
        return tensor
    return tensor.to(device)
