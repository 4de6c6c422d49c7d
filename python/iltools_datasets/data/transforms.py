"""What is done to samples on their way: steps from a dict to a dict.

None of them changes what it is given, and each passes over keys that are not there, so that one chain serves training,
where there are actions, and acting, where there are none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets._base.integers import checked_integer
from iltools_datasets.data.normalize import EPS, Mode, NormStats, quantile_normalize, z_score_normalize
from iltools_datasets.errors import ArgumentError, SchemaError

__all__ = ["LambdaTransform", "Normalize", "Pad", "Resize", "Tokenize", "Transform", "TransformGroup"]

Sample = Mapping[str, Any]


class Transform(ABC):
    """A step from a sample or a batch, a dict of arrays, to another one."""

    @abstractmethod
    def __call__(self, data: Sample) -> dict[str, Any]:
        """Return a new dict; `data` and its arrays stay as they are."""


class _Each(Transform):
    """A step that does the same to each of some keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = _names(keys)

    def __call__(self, data: Sample) -> dict[str, Any]:
        return {key: self._changed(key, value) if key in self.keys else value for key, value in data.items()}

    @abstractmethod
    def _changed(self, key: str, value: Any) -> Any: ...


def _names(keys: Sequence[str]) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else tuple(keys)


class TransformGroup(Transform):
    """Several steps, one after the other."""

    def __init__(self, transforms: Sequence[Transform | Callable[[dict[str, Any]], dict[str, Any]]] = ()) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, data: Sample) -> dict[str, Any]:
        result = dict(data)
        for transform in self.transforms:
            result = transform(result)
        return result


class LambdaTransform(Transform):
    """A step that a function does.

    Args:
        function: from dict to dict; with `keys`, from the value of one of them to its new value.
        keys: see there.
    """

    def __init__(self, function: Callable[[Any], Any], keys: Sequence[str] | None = None) -> None:
        self.function = function
        self.keys = None if keys is None else _names(keys)

    def __call__(self, data: Sample) -> dict[str, Any]:
        if self.keys is None:
            return dict(self.function(dict(data)))
        return {key: self.function(value) if key in self.keys else value for key, value in data.items()}


class Resize(_Each):
    """Pictures `[..., H, W, C]` to another size; each pixel is the nearest one, so dtype and values stay.

    Args:
        height, width: in pixels.
        keys: which pictures.

    Raises:
        ArgumentError: no such size.
        SchemaError: when called, a value has fewer than three axes.
    """

    def __init__(self, height: int, width: int, keys: Sequence[str] = ("obs", "next_obs")) -> None:
        super().__init__(keys)
        self.height = checked_integer("height", height, low=1)
        self.width = checked_integer("width", width, low=1)

    def _changed(self, key: str, value: Any) -> Any:
        if np.ndim(value) < 3:
            raise SchemaError(f"Resize: {key}: expected pictures [..., H, W, C], found shape {list(np.shape(value))}")
        rows, columns = _nearest(value.shape[-3], self.height), _nearest(value.shape[-2], self.width)
        return value[..., rows[:, None], columns, :]


def _nearest(size: int, wanted: int) -> NDArray[np.int64]:
    """The pixel whose centre is nearest to that of each new one."""
    return (2 * np.arange(wanted) + 1) * size // (2 * wanted)


class Normalize(Transform):
    """Values in units of their statistics.

    Args:
        stats: `{key: NormStats}`.
        mode: `"z_score"` for mean 0 and deviation 1, `"quantile"` for [q01, q99] to [-1, 1]; nothing is clipped.
        eps: least width that is divided by.

    Raises:
        ArgumentError: no such mode, or statistics without quantiles for `"quantile"`.
    """

    def __init__(self, stats: Mapping[str, NormStats], mode: Mode = "z_score", eps: float = EPS) -> None:
        if mode not in ("z_score", "quantile"):
            raise ArgumentError(f"mode is {mode!r}; one of 'z_score', 'quantile' is needed")
        self.stats = dict(stats)
        self.mode = mode
        self.eps = eps

    def __call__(self, data: Sample) -> dict[str, Any]:
        normalize = z_score_normalize if self.mode == "z_score" else quantile_normalize
        return {
            key: normalize(value, self.stats[key], self.eps) if key in self.stats else value
            for key, value in data.items()
        }


class Tokenize(Transform):
    """Text to numbers: `{key}_tokens` int32 `[length]` and `{key}_mask` bool `[length]`, true where there is a token.

    Args:
        tokenizer: text to a sequence of integers, such as a Hugging Face tokenizer's `encode`.
        length: longer texts are cut, shorter ones filled up.
        key: which text; it is taken out, as text is no array. A list or array of texts gives `[B, length]`.
        fill: what comes behind the tokens.

    Raises:
        SchemaError: when called, the value is no text.
    """

    def __init__(
        self, tokenizer: Callable[[str], Sequence[int]], length: int, key: str = "task", fill: int = 0
    ) -> None:
        self.tokenizer = tokenizer
        self.length = checked_integer("length", length, low=1)
        self.key = key
        self.fill = fill

    def __call__(self, data: Sample) -> dict[str, Any]:
        result = dict(data)
        if self.key not in result:
            return result
        tokens, mask = self._tokens(result.pop(self.key))
        return {**result, f"{self.key}_tokens": tokens, f"{self.key}_mask": mask}

    def _tokens(self, text: Any) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        if not isinstance(text, str):
            if not isinstance(text, list | tuple | np.ndarray) or np.ndim(text) == 0:
                raise SchemaError(f"Tokenize: {self.key}: expected text, found {type(text).__name__}")
            rows = [self._tokens(one) for one in text]
            return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
        found = np.asarray(self.tokenizer(str(text)), dtype=np.int32)[: self.length]
        tokens = np.full(self.length, self.fill, np.int32)
        tokens[: len(found)] = found
        return tokens, np.arange(self.length) < len(found)


class Pad(_Each):
    """The last axis to a length, filled up behind: for robots with fewer joints than a model takes.

    Args:
        length: of the last axis.
        keys: of what.
        value: what it is filled up with.

    Raises:
        ArgumentError: no such length.
        SchemaError: when called, a value is longer, or has no axis.
    """

    def __init__(self, length: int, keys: Sequence[str] = ("obs", "action", "next_obs"), value: float = 0) -> None:
        super().__init__(keys)
        self.length = checked_integer("length", length, low=1)
        self.value = value

    def _changed(self, key: str, value: ArrayLike) -> Any:
        array = np.asarray(value)
        if not array.ndim or array.shape[-1] > self.length:
            raise SchemaError(
                f"Pad: {key}: expected up to {self.length} values in the last axis, found {list(array.shape)}"
            )
        room = [(0, 0)] * (array.ndim - 1) + [(0, self.length - array.shape[-1])]
        return np.pad(array, room, constant_values=self.value)
