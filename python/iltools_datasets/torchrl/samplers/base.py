"""What all samplers here share: where their seed comes from, which data set they are on, and how they are saved."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from iltools_datasets._base.files import read_json, write_json
from iltools_datasets._base.saved_state import UINT64_MAX, SavedState
from iltools_datasets.errors import StateError
from iltools_datasets.ranks import Rank, checked_rank

STATE_VERSION = 1


class SeededSampler(Sampler):  # type: ignore[misc]
    """Base of the samplers: one 64-bit seed, and a state of a few numbers that continues the stream bit for bit.

    The seed is `seed` if one is given, and then nothing else matters. Otherwise it is drawn once, when it is first
    needed, from the generator that the buffer hands over (`ReplayBuffer(generator=...)`, `rb.set_rng`) or from torch's
    global one. Handing over another generator means a new seed, unless it is the generator a restored state belongs to.

    Ranks share one stream: each step draws one batch per rank, and each rank gets its own. The state is where all of
    them stand, so what one rank saved continues on any rank of any number. They need the same seed, the same data and
    the same batch sizes.
    """

    def __init__(self, seed: int | None = None, rank: int = 0, world_size: int = 1) -> None:
        if seed is not None and (isinstance(seed, bool) or not 0 <= seed <= UINT64_MAX):
            raise ValueError(f"seed is {seed!r}; an integer within 0..2^64-1 is needed")
        self._is_seed_fixed = seed is not None
        self._seed = seed
        self._share_with(rank, world_size)
        self._stream: Any = None
        self._generator: torch.Generator | None = None
        self._restored_generator: str | None = None
        self._store_uuid: str | None = None
        self._is_store_verified = True

    # The ranks.

    def _share_with(self, rank: int, world_size: int) -> None:
        self._rank: Rank = checked_rank(rank, world_size)
        if world_size > 1 and not self._is_seed_fixed:
            raise ValueError(
                f"{type(self).__name__}: seed is None with world_size {world_size}: all ranks need the same one; "
                "give it, or let rank 0 choose with iltools_datasets.ranks.shared_seed()"
            )

    @property
    def rank(self) -> int:
        """Which of the ranks that share the stream this one is."""
        return self._rank["rank"]

    @property
    def world_size(self) -> int:
        """How many ranks share the stream."""
        return self._rank["world_size"]

    # The seed.

    @property
    def _rng(self) -> torch.Generator | None:
        return self._generator

    @_rng.setter
    def _rng(self, generator: torch.Generator | None) -> None:
        if generator is self._generator:
            return
        self._generator = generator
        if generator is None or self._is_seed_fixed:
            return
        # A buffer that loads a checkpoint hands over the saved generator after the sampler was restored.
        continues = self._restored_generator == _digest(generator)
        self._restored_generator = None
        if not continues:
            self._reseed()

    def _draw_seed(self) -> int:
        generator = self._generator
        device = "cpu" if generator is None else generator.device
        return int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))

    def _needed_seed(self) -> int:
        if self._seed is None:
            self._seed = self._draw_seed()
        return self._seed

    @abstractmethod
    def _reseed(self) -> None:
        """Forget the seed: the next draw takes a new one."""

    @property
    def index_stream(self) -> Any:
        """The native generator of the next indices, or None before the first draw: a buffer may run ahead of it."""
        return self._stream

    # The data set.

    def _meet(self, storage: Storage | None) -> bool:
        """Note the store behind a storage and return whether it took another one's place.

        `StateError` if a restored state is of another store.
        """
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
    def _restore(self, saved: SavedState) -> None:
        """Take over a state: read and check all of it first, then change."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: numbers, strings and lists of numbers. Draws the seed if that has not happened yet."""
        content = self._state()
        generator = self._generator
        return {
            "kind": type(self).__name__,
            "version": STATE_VERSION,
            "store": self._store_uuid,
            "generator": None if generator is None else _digest(generator),
            **content,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            StateError: it is damaged, impossible, of another kind of sampler or of another data set. The sampler is
                as it was then.
        """
        saved = SavedState(state_dict, type(self).__name__, STATE_VERSION)
        uuid, generator = saved.optional_text("store"), saved.optional_text("generator")
        if uuid and self._store_uuid and self._is_store_verified and uuid != self._store_uuid:
            raise saved.refuse("store", f"store {self._store_uuid}")
        self._restore(saved)
        self._restored_generator = generator
        if uuid and uuid != self._store_uuid:
            self._store_uuid, self._is_store_verified = uuid, False

    def dumps(self, path: str | Path) -> None:
        """Write the state into the directory `path`, as JSON and in one step: a kill leaves the old or the new one."""
        write_json(Path(path) / "sampler.json", self.state_dict())

    def loads(self, path: str | Path) -> None:
        """Continue where `dumps(path)` was called; raises as `load_state_dict` does."""
        self.load_state_dict(read_json(Path(path) / "sampler.json"))

    def __getstate__(self) -> dict[str, Any]:
        # The stream is native; what it stands for is in the saved state.
        return {**self.__dict__, "_stream": None, "_generator": None, "_saved": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_saved")
        self.__dict__.update(state)
        self.load_state_dict(saved)


def _digest(generator: torch.Generator) -> str:
    return hashlib.blake2b(generator.get_state().numpy().tobytes(), digest_size=16).hexdigest()


def on_device(index: NDArray[Any], storage: Storage | None) -> torch.Tensor:
    """Return indices as a tensor where a storage keeps its data."""
    tensor = torch.from_numpy(index)
    device = getattr(storage, "device", None)
    if device is None or (isinstance(device, str) and device == "auto") or torch.device(device).type == "cpu":
        return tensor
    return tensor.to(device)
