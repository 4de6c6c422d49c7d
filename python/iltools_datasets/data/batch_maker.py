"""From the numbers of items to a batch on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from iltools_datasets.data.collate import fetch
from iltools_datasets.data.dataset import BatchDataset, Dataset
from iltools_datasets.data.order import Batch
from iltools_datasets.data.store_dataset import StoreDataset
from iltools_datasets.data.to_device import ToDevice
from iltools_datasets.data.transforms import Transform
from iltools_datasets.data.transition import Transition
from iltools_datasets.errors import ArgumentError, SchemaError
from iltools_datasets.jax.threads import thread_settings
from iltools_datasets.store.trajectory_store import TrajectoryStore


class BatchMaker:
    """Makes the batches of a loader, in whichever thread.

    Args:
        dataset, transform, extra: as in `JaxDataLoader`.
        to_device: where batches go.

    Raises:
        TypeError: this is no data set.
        ArgumentError: this data set has no extras.
        MissingKeyError: there is no such extra.
    """

    def __init__(
        self,
        dataset: Dataset | TrajectoryStore,
        to_device: ToDevice,
        transform: Callable[[Any], Any] | None,
        extra: Sequence[Any],
    ) -> None:
        whole: Any = StoreDataset(dataset) if isinstance(dataset, TrajectoryStore) else dataset
        if not (hasattr(whole, "__len__") and hasattr(whole, "__getitem__")):
            raise TypeError(f"{type(whole).__name__} is no data set: it needs __len__ and __getitem__")
        if transform is not None and not callable(transform):
            raise TypeError(f"transform: expected something to call, found {type(transform).__name__}")
        self.dataset = whole
        self.to_device = to_device
        self._transform = transform
        self._extra = [extra] if isinstance(extra, str) else list(extra)
        self.in_threads = isinstance(whole, BatchDataset)
        """Whether several threads may make batches at the same time."""
        if self.in_threads:
            whole.check_extra(self._extra)
        elif self._extra:
            raise ArgumentError(f"extra: {type(whole).__name__} gives transitions and nothing besides, not {extra!r}")
        if isinstance(transform, Transform) and (both := sorted({*map(str, self._extra)} & {*Transition._fields})):
            raise ArgumentError(f"extra: {both} are fields of a transition, which a Transform sees in the same dict")
        self.settle()

    @property
    def identity(self) -> str:
        """Tells whether a saved place means the same; only the length is known of somebody else's data set."""
        found = getattr(self.dataset, "identity", None)
        return found if isinstance(found, str) else f"{len(self.dataset)} items"

    def settle(self) -> None:
        """Make batches from now on as the calling thread would: with its settings of JAX."""
        self._settings = thread_settings()

    def __call__(self, batch: Batch) -> Any:
        """Return a batch on the device. What is raised gets a note that says which batch it was."""
        return self.finished(self._read, batch)

    def _read(self, batch: Batch) -> Any:
        numbers = batch.items()
        if not self.in_threads:
            return fetch(self.dataset, numbers.tolist())
        return self.dataset.batch(numbers, extra=self._extra) if self._extra else self.dataset.batch(numbers)

    def finished(self, read: Callable[[Batch], Any], batch: Batch) -> Any:
        """Return what `read` returns, a batch of numpy arrays, transformed and on the device."""
        try:
            arrays = read(batch)
            # What a transform returns may be its own, and be written to in its next call.
            leased = self._transform is None
            if self._transform is not None:
                arrays = _transformed(self._transform, arrays)
            settings = self._settings
            if thread_settings() == settings:
                return self.to_device(arrays, leased)
            with settings.hold():
                return self.to_device(arrays, leased)
        except Exception as error:
            error.add_note(f"in {batch}")
            raise


def _transformed(transform: Callable[[Any], Any], batch: Any) -> Any:
    if not isinstance(transform, Transform):
        return transform(batch)
    transition, extras = batch if type(batch) is tuple else (batch, {})
    data = dict(extras)
    for name, value in transition._asdict().items():
        data.update(
            {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        )
    data = dict(transform(data))
    transition = Transition(*(_taken(data, name, transform) for name in Transition._fields))
    return (transition, data) if data else transition


def _taken(data: dict[str, Any], name: str, transform: Transform) -> Any:
    """Take a field, or the parts of one, out of a dict."""
    if name in data:
        return data.pop(name)
    parts = {key: data.pop(key) for key in list(data) if key.startswith(f"{name}/")}
    if not parts:
        raise SchemaError(f"transform: {type(transform).__name__} returned a dict without {name!r}")
    return {key.removeprefix(f"{name}/"): value for key, value in parts.items()}
