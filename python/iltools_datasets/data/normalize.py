"""Statistics of a data set, and values in units of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets import _core
from iltools_datasets._base.files import read_json, write_json
from iltools_datasets._base.integers import checked_integer
from iltools_datasets.data.collate import fetch
from iltools_datasets.data.dataset import BatchDataset, Dataset, field_of
from iltools_datasets.errors import ArgumentError, SchemaError, SourceError, SourceNotFoundError

__all__ = [
    "NormStats",
    "compute_norm_stats",
    "load_norm_stats",
    "quantile_normalize",
    "quantile_unnormalize",
    "save_norm_stats",
    "z_score_normalize",
    "z_score_unnormalize",
]

EPS = 1e-8
Mode = Literal["z_score", "quantile"]

_FIELDS = ("mean", "std", "q01", "q99")
_CHUNK_ITEMS = 4096


@dataclass(frozen=True, eq=False)
class NormStats:
    """Statistics of one quantity, each float32 `[D]`: one for each element of the last axis, `[]` for a plain number.

    Args:
        mean: the mean.
        std: the population's standard deviation.
        q01: the quantile at 1 %.
        q99: the quantile at 99 %.

    Raises:
        ArgumentError: they differ in shape, or something is not finite or a deviation negative.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    q01: NDArray[np.float32]
    q99: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in _FIELDS:
            values = np.array(getattr(self, name), dtype=np.float32)
            if values.shape != np.shape(self.mean):
                raise ArgumentError(f"{name}: expected shape {list(np.shape(self.mean))}, found {list(values.shape)}")
            if not np.isfinite(values).all() or (name == "std" and (values < 0).any()):
                raise ArgumentError(f"{name}: expected finite values, found {values.tolist()!r:.80}")
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NormStats):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _FIELDS)

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists of numbers, which `from_dict` takes; float32 survives exactly."""
        return {name: getattr(self, name).tolist() for name in _FIELDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, ArrayLike]) -> NormStats:
        """Return the statistics in a dict of the four fields; `ArgumentError` if one is missing or no numbers."""
        missing = [name for name in _FIELDS if name not in values]
        if missing:
            raise ArgumentError(f"statistics: {missing} are missing; found {sorted(values)}")
        try:
            return cls(*(np.asarray(values[name], dtype=np.float32) for name in _FIELDS))
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"statistics: {error}") from error


def compute_norm_stats(dataset: Dataset, keys: Sequence[str], max_samples: int | None = None) -> dict[str, NormStats]:
    """Return the statistics of some quantities over a data set.

    Mean and deviation are computed in float64 in two passes, quantiles exactly (linear between the two nearest values).
    All values of a quantity, of the items that are looked at, are in memory at a time.

    Args:
        dataset: any data set. Of this package's own, a chunk counts as what it is cut from: each frame once.
        keys: fields of a transition, `obs/KEY` where the observation is a dict, or what the data set has as extras.
        max_samples: look at so many items, spread over the whole data set; always the same ones.

    Raises:
        MissingKeyError: there is no such quantity.
        SchemaError: it has no values, or one that is not finite.
    """
    count = len(dataset)
    if max_samples is not None:
        wanted = checked_integer("max_samples", max_samples, low=1)
        numbers = _core.EpochShuffle(count, 0).next_within_epoch(min(wanted, count)) if count else np.arange(0)
        numbers.sort()
    else:
        numbers = np.arange(count)
    names = [keys] if isinstance(keys, str) else list(keys)
    if not len(numbers):
        raise SchemaError(f"{type(dataset).__name__} has no items to take statistics of")
    chunks = [
        _values(dataset, names, part) for part in np.split(numbers, range(_CHUNK_ITEMS, len(numbers), _CHUNK_ITEMS))
    ]
    return {name: _stats(name, np.concatenate([chunk.pop(name) for chunk in chunks]), numbers) for name in names}


def _values(dataset: Any, names: list[str], numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    if isinstance(dataset, BatchDataset):
        return dict(dataset.frames(numbers, names))
    batch = fetch(dataset, numbers.tolist())
    return {name: field_of(batch, name) for name in names}


def _stats(name: str, values: NDArray[Any], numbers: NDArray[np.int64]) -> NormStats:
    if values.dtype.kind not in "biuf" and values.dtype.kind != "V":
        raise SchemaError(f"{name}: expected numbers, found dtype {values.dtype}")
    finite = np.isfinite(values)
    if not finite.all():
        item = int(np.argmin(finite.reshape(len(values), -1).all(axis=1)))
        found = values[item][~finite[item]].reshape(-1)[0]
        raise SchemaError(f"item {int(numbers[item])}: {name}: expected finite values, found {found}")
    flat = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
    shape = values.shape[-1:] if values.ndim > 1 else ()
    columns = [_column_stats(np.asarray(column, dtype=np.float64)) for column in flat.T]
    return NormStats(*(np.array(field, dtype=np.float32).reshape(shape) for field in zip(*columns, strict=True)))


def _column_stats(column: NDArray[np.float64]) -> tuple[float, float, float, float]:
    mean = column.mean()
    q01, q99 = np.quantile(column, [0.01, 0.99])
    return float(mean), float(np.sqrt(np.mean((column - mean) ** 2))), float(q01), float(q99)


def save_norm_stats(stats: Mapping[str, NormStats], path: str | Path) -> None:
    """Write statistics as JSON, the whole file or none."""
    write_json(Path(path), {"norm_stats": {key: value.to_dict() for key, value in stats.items()}})


def load_norm_stats(path: str | Path) -> dict[str, NormStats]:
    """Return what `save_norm_stats` wrote.

    Raises:
        SourceNotFoundError: there is no such file.
        SourceError: it is something else; the message names the key.
    """
    path = Path(path)
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: there are no statistics")
    try:
        stats = read_json(path)["norm_stats"]
        return {str(key): NormStats.from_dict(value) for key, value in stats.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SourceError(f"{path}: expected statistics as save_norm_stats writes them: {error}") from error


def z_score_normalize(values: Any, stats: NormStats, eps: float = EPS) -> Any:
    """Return `(values - mean) / max(std, eps)`, of numpy or JAX arrays `[..., D]`, in or outside of jit."""
    return (values - stats.mean) / np.maximum(stats.std, np.float32(eps))


def z_score_unnormalize(values: Any, stats: NormStats, eps: float = EPS) -> Any:
    """Return what `z_score_normalize` makes these values of."""
    return values * np.maximum(stats.std, np.float32(eps)) + stats.mean


def quantile_normalize(values: Any, stats: NormStats, eps: float = EPS) -> Any:
    """Return values `[..., D]` with [q01, q99] at [-1, 1]; what lies outside stays outside."""
    return (values - stats.q01) / np.maximum(stats.q99 - stats.q01, np.float32(eps)) * 2 - 1


def quantile_unnormalize(values: Any, stats: NormStats, eps: float = EPS) -> Any:
    """Return what `quantile_normalize` makes these values of."""
    return (values + 1) / 2 * np.maximum(stats.q99 - stats.q01, np.float32(eps)) + stats.q01
