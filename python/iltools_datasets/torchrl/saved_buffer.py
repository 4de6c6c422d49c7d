"""What a save of a buffer holds besides storage, sampler and writer, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iltools_datasets.errors import StateError


@dataclass(frozen=True)
class Settings:
    """What a buffer itself remembers."""

    batch_size: int | None
    consume_after_n_samples: int | None
    generator: torch.Generator | None


def checked_settings(batch_size: Any, consume_after_n_samples: Any, generator: tuple[Any, Any] | None) -> Settings:
    """Return settings that were saved; a generator is its state, uint8 [n], and its device. Raises `StateError`."""
    for name, value in (("batch_size", batch_size), ("consume_after_n_samples", consume_after_n_samples)):
        if value is not None and (type(value) is not int or value < 1):
            raise StateError(
                f"state of a buffer: {name}: expected an integer of at least 1 or None, found {value!r:.80}"
            )
    if generator is None:
        return Settings(batch_size, consume_after_n_samples, None)
    try:
        state, device = generator
        made = torch.Generator(device=device)
        made.set_state(state)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise StateError(f"state of a buffer: generator: {error}") from error
    return Settings(batch_size, consume_after_n_samples, made)


@dataclass(frozen=True)
class Save:
    """A save in a directory.

    Attributes:
        directory: where `storage`, `sampler` and `writer` lie.
        settings: what the buffer remembers.
        transforms: the state of its transforms.
        queue: batches that TorchRL's threads made ahead.
        of_torchrl: TorchRL's buffer wrote it, and maybe TorchRL's sampler.
    """

    directory: Path
    settings: Settings
    transforms: Any
    queue: Sequence[Any] = ()
    of_torchrl: bool = False
