"""TorchRL's `TensorDictReplayBuffer` without the work that does nothing, and with batches made ahead natively."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn.utils import _set_dispatch_td_nn_modules
from torchrl.data import ReplayBuffer
from torchrl.data import TensorDictReplayBuffer as TorchRLTensorDictReplayBuffer
from torchrl.data.replay_buffers.storages import TensorStorage
from torchrl.data.replay_buffers.storages.utils import _collate_id

from iltools_datasets._base.integers import checked_integer
from iltools_datasets._base.saved_state import Changes
from iltools_datasets.errors import IltoolsError, StateError
from iltools_datasets.torchrl.batch_info import put_info
from iltools_datasets.torchrl.buffer_checkpoint import QUEUE, TRANSFORMS, current_save, new_save
from iltools_datasets.torchrl.parts import prepare_directory, prepare_module, prepare_state
from iltools_datasets.torchrl.samplers.base import SeededSampler
from iltools_datasets.torchrl.saved_buffer import Settings, checked_settings
from iltools_datasets.torchrl.storage import CPU, TrajectoryStorage
from iltools_datasets.torchrl.tensor_files import save_tensors
from iltools_datasets.torchrl.tensordict_layout import NOTHING

_COMPONENTS = ("storage", "sampler", "writer")


class TensorDictReplayBuffer(TorchRLTensorDictReplayBuffer):  # type: ignore[misc]
    """TorchRL's buffer: same arguments, same results; change the import, nothing else.

    It reads TorchRL's checkpoints; its own are laid out otherwise.

    `sample()` goes straight from the sampler to the storage and the TensorDict where TorchRL's way there only checks
    and converts what needs neither; whatever is out of the ordinary (a sample unit, a collate function, a storage of
    several dimensions or on another device, a shared buffer) takes TorchRL's way.

    With `prefetch=k` over a `TrajectoryStorage` and a sampler of this package, a native thread draws and gathers the
    next k batches while the interpreter runs the step; transforms run in `sample()`. The sampler, and so a checkpoint,
    always stands at what was returned. Whatever changes the order of things (an assignment, a restored state, another
    batch size, a sampler's settings, another sampler) drops what was made ahead, and takes effect with the next
    `sample()`. Other combinations prefetch TorchRL's way, but in one thread, so that batches come in the sampler's
    order.

    With `pin_memory=True` over a `TrajectoryStorage` batches are gathered into pinned memory, without a copy.

    Raises:
        RuntimeError: `pin_memory=True` without a CUDA device.

    Examples:
        >>> from iltools_datasets.torchrl import SamplerWithoutReplacement, TrajectoryStorage
        >>> from torchrl.data import ImmutableDatasetWriter
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=TrajectoryStorage(TrajectoryStore.open("walks")),
        ...     sampler=SamplerWithoutReplacement(),
        ...     writer=ImmutableDatasetWriter(),
        ...     batch_size=32,
        ...     prefetch=2,
        ... )
        >>> [len(batch) for batch in buffer], buffer.epoch
        ([32, 32, 32, 1], 0)
    """

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.get("pin_memory") and not torch.cuda.is_available():
            raise RuntimeError(
                "pin_memory=True needs a CUDA device, and torch finds none: leave it out on this machine"
            )
        super().__init__(**kwargs)
        self._prefetch_in_order()

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_rng_bytes": None}
        if (generator := self._rng) is not None:
            # Not as a tensor: a spawned process would be handed shared memory that is gone when it looks.
            state |= {"_rng": None, "_rng_bytes": (generator.get_state().numpy().tobytes(), str(generator.device))}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        of_generator = state.pop("_rng_bytes", None)
        super().__setstate__(state)
        self._prefetch_in_order()
        if of_generator is not None:
            content, device = of_generator
            generator = torch.Generator(device)
            generator.set_state(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            self.set_rng(generator)

    def _prefetch_in_order(self) -> None:
        # TorchRL's way has as many threads as batches, which draw in any order; they wait for one lock anyway.
        if self._prefetch:
            self._prefetch_executor = ThreadPoolExecutor(max_workers=1)

    def sample(self, batch_size: int | None = None, return_info: bool = False, include_info: bool | None = None) -> Any:
        """Return a batch as a TensorDict, with `return_info` a tuple (batch, info); see TorchRL's method.

        `batch["index"]` says which rows of the storage they are. A store's own column of that name stays in its place.
        """
        size = self._batch_size if batch_size is None else checked_integer("batch_size", batch_size, low=0)
        if include_info is not None:
            return super().sample(batch_size, return_info=return_info, include_info=include_info)
        if size is None or not self._goes_straight():
            data, info = ReplayBuffer.sample(self, batch_size, return_info=True)
            put_info(data, info, self._kept)
        else:
            if self._batch_size not in (None, size):
                self._warn_of_another(size)
            data, info = self._sample_straight(size, return_info)
        return (data, info) if return_info else data

    @property
    def epoch(self) -> int | None:
        """Which epoch the last batch is of, from 0; None where the sampler has none, or is one of TorchRL's own.

        `for batch in buffer` ends with an epoch, and where there are none goes on for ever: draws with replacement, a
        march. It begins where the sampler stands, so a loop that was left, or resumed, has the rest of its epoch.
        """
        epoch: int | None = getattr(self._sampler, "epoch", None)
        return epoch

    @property
    def _kept(self) -> str | None:
        """An entry of samplers that is a column of the store, and not the number of the row."""
        storage = self._storage
        return "index" if isinstance(storage, TrajectoryStorage) and storage.has_index else None

    def _warn_of_another(self, size: int) -> None:
        if not getattr(self, "_warned_batch_size_conflict", False):
            self._warned_batch_size_conflict = True
            warnings.warn(
                f"conflicting batch_sizes: the buffer was made with {self._batch_size}, sample() is asked for {size}, "
                "which prevails",
                stacklevel=2,
            )

    def __getitem__(self, index: Any) -> Any:
        """Return what is stored at an index or key; `buffer["_data", key]`, in older examples, is `buffer[key]`."""
        if isinstance(index, tuple) and len(index) > 1 and isinstance(index[0], str) and index[0] == "_data":
            index = index[1:]
        return super().__getitem__(index)

    def set_sampler(self, sampler: Any) -> Any:
        """Replace the sampler, return the previous one, and end what was made ahead for it."""
        previous = super().set_sampler(sampler)
        stream = previous.index_stream if isinstance(previous, SeededSampler) else None
        if stream is not None and isinstance(self._storage, TrajectoryStorage):
            stream.look_ahead(self._storage.store.core, [], 0)
        return previous

    # State.

    def dumps(self, path: str | Path) -> None:
        """Save the buffer in the directory `path`, in one step: a kill leaves the old save or the new one.

        The files are not laid out as TorchRL's buffer does it; other files in `path` stay. Raises `TypeError` where
        batches were made ahead TorchRL's way and hold something that only a pickle could save.
        """
        self._init_if_delayed()
        with self._capture_prefetch_state(clone_queue=False) as prefetch:
            settings = Settings(self._batch_size, self._consume_after_n_samples, self._rng)
            with new_save(Path(path), settings) as save:
                for name in _COMPONENTS:
                    (save / name).mkdir()
                    getattr(self, f"_{name}").dumps(save / name)
                if transforms := self._transform.state_dict():
                    save_tensors(transforms, save / TRANSFORMS)
                if prefetch["queue"]:
                    save_tensors(list(prefetch["queue"]), save / QUEUE)

    def loads(self, path: str | Path) -> None:
        """Continue where `dumps(path)` was called, here or by TorchRL's own buffer.

        Warns `RuntimeWarning` where TorchRL's sampler had an order that no seed gives: the epoch begins anew then.

        Raises:
            StateError: there is no save, or it is damaged, or of another kind of sampler or data set, or TorchRL's
                buffer pickled batches into it. The buffer is then as it was.
            StoreChangedError: it is of another store; likewise.
        """
        self._init_if_delayed()
        with self._taking_over() as changes, current_save(Path(path)) as saved:
            for name in _COMPONENTS:
                prepare_directory(changes, getattr(self, f"_{name}"), saved.directory / name, saved.of_torchrl)
            self._take_over(changes, saved.transforms, saved.settings, saved.queue)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict()` was called; raises as `loads` does."""
        self._init_if_delayed()
        if not isinstance(state_dict, Mapping):
            raise StateError(f"state of a buffer: expected a mapping, found {type(state_dict).__name__}")
        wanted = {f"_{name}" for name in _COMPONENTS} | {"_transforms", "_batch_size"}
        if missing := wanted - state_dict.keys():
            raise StateError(f"state of a buffer: expected {sorted(missing)}, found nothing")
        settings = checked_settings(
            state_dict["_batch_size"], state_dict.get("_consume_after_n_samples"), state_dict.get("_rng")
        )
        prefetch = state_dict.get("_prefetch_state")
        if prefetch is not None and not (isinstance(prefetch, Mapping) and "queue" in prefetch):
            raise StateError(f"state of a buffer: _prefetch_state: expected a queue, found {prefetch!r:.80}")
        queue = () if prefetch is None else self._clone_prefetch_result(prefetch["queue"])

        with self._taking_over() as changes:
            for name in _COMPONENTS:
                prepare_state(changes, getattr(self, f"_{name}"), state_dict[f"_{name}"])
            self._take_over(changes, state_dict["_transforms"], settings, queue)

    def _init_if_delayed(self) -> None:
        if self._delayed_init and not self.initialized:
            self._init()

    @contextmanager
    def _taking_over(self) -> Iterator[Changes]:
        """Keep everybody else out; what TorchRL's parts stumble over in a state is a `StateError`."""
        with self._futures_lock:
            self._synchronize_futures_locked()
            with self._replay_lock:
                try:
                    yield Changes()
                except (IltoolsError, Warning):
                    raise
                except Exception as error:
                    raise StateError(f"state of a buffer: {type(error).__name__}: {error}") from error

    def _take_over(self, changes: Changes, transforms: Any, settings: Settings, queue: Sequence[Any]) -> None:
        # An empty queue fits any number of batches made ahead.
        prefetch = {"version": 1, "capacity": self._prefetch_cap, "queue": queue} if len(queue) else None
        self._validate_prefetch_state(prefetch)
        prepare_module(changes, self._transform, transforms)

        def settle() -> None:
            self._batch_size: Any = settings.batch_size
            self._consume_after_n_samples = settings.consume_after_n_samples
            if settings.generator is not None:
                self.set_rng(settings.generator)
            self._clear_prefetch_queue_locked()
            self._restore_prefetch_queue_locked(prefetch, clone_queue=False)

        changes.add(settle)
        changes.make()

    def _goes_straight(self) -> bool:
        """Whether nothing is set up that TorchRL's own way is needed for."""
        storage = self._storage
        return (
            self._initialized
            and not self._service_shutdown
            and not self.shared
            and self._sample_unit is None
            and self._sample_dependency is None
            and self._collate_fn is _collate_id
            and (
                (not self._prefetch or isinstance(self._sampler, SeededSampler))
                if isinstance(storage, TrajectoryStorage)
                else (
                    not self._prefetch
                    and not self._pin_memory
                    and isinstance(storage, TensorStorage)
                    and isinstance(storage._storage, TensorDictBase)
                    and storage.ndim == 1
                    and storage.device == CPU
                )
            )
        )

    def _sample_straight(self, size: int, is_info_wanted: bool) -> tuple[TensorDict, dict[str, Any]]:
        transforms = len(self._transform._modules["transforms"])
        with self._replay_lock:
            data, info, is_told = self._draw(size, not transforms, is_info_wanted)
        if transforms:
            with data.unlock_(), _set_dispatch_td_nn_modules(True):
                data = self._transform(data)
        if not is_told:
            put_info(data, info, self._kept)
        return data, info

    def _draw(self, size: int, tells: bool, is_info_wanted: bool) -> tuple[TensorDict, dict[str, Any], bool]:
        """Return a batch, what is known of it, and whether it says that already, which it may where it `tells`.

        Where it does, the index is left out of what is known unless that is wanted.
        """
        storage, sampler, prefetch, pins = self._storage, self._sampler, self._prefetch, self._pin_memory
        draws_rows = isinstance(storage, TrajectoryStorage) and getattr(sampler, "draws_rows", False)
        if not draws_rows or (pins and not prefetch):
            return self._draw_by_index(size, tells)
        rows, info, leaves, were_ready = sampler.sample_rows(storage, size, tells)
        if prefetch and not were_ready:
            self._keep_ahead(storage)
        beside = {**info, "index": rows}
        is_told = tells and storage.fits(beside) and not self._writer.tracks_generations
        if is_info_wanted or not is_told:
            self._note_index(info, rows if rows.ndim == 1 else (rows.squeeze(-1),))
        data = storage.assemble(leaves, rows.shape[:1], beside if is_told else NOTHING)
        return data.pin_memory() if pins else data, info, is_told

    def _draw_by_index(self, size: int, tells: bool) -> tuple[TensorDict, dict[str, Any], bool]:
        """Return the same where the storage is asked for the rows of an index, whatever that is."""
        storage, sampler, pins = self._storage, self._sampler, self._pin_memory
        index, info = sampler.sample(storage, size)
        self._note_index(info, index)
        rows = index[0] if isinstance(index, tuple) else index
        leaves = self._rows_ahead(storage, rows) if self._prefetch else None
        if leaves is None:
            return storage.get_pinned(rows) if pins else storage.get(rows), info, False
        beside = {**info, "index": rows if rows is index else rows.unsqueeze(-1)}
        is_told = tells and storage.fits(beside)
        data = storage.assemble(leaves, rows.shape, beside if is_told else NOTHING)
        return data.pin_memory() if pins else data, info, is_told

    def _note_index(self, info: dict[str, Any], index: Any) -> None:
        info["index"] = index
        if self._writer.tracks_generations:
            info["index_generation"] = self._writer.generations_of(index)

    def _rows_ahead(self, storage: TrajectoryStorage, rows: torch.Tensor) -> list[torch.Tensor] | None:
        """Return the leaves that were made ahead at these rows; None, and see to it that more are made, without."""
        stream = self._sampler.index_stream
        if stream is None:
            return None
        arrays = stream.rows_of(storage.store.core, rows.contiguous().numpy())
        if arrays is None:
            self._keep_ahead(storage)
            return None
        return storage.tensors(storage.fields, arrays)

    def _keep_ahead(self, storage: TrajectoryStorage) -> None:
        """See to it that batches are made ahead."""
        stream, core = self._sampler.index_stream, storage.store.core
        if stream is not None and stream.depth_ahead(core) != self._prefetch_cap:
            stream.look_ahead(core, storage.fields, self._prefetch_cap)
