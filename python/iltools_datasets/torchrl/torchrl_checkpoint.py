"""A checkpoint that TorchRL's own buffer wrote: its directory, read without running the pickle in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from iltools_datasets._base.files import read_json
from iltools_datasets._base.pickled_data import read_pickled_data
from iltools_datasets.errors import SourceError, StateError
from iltools_datasets.torchrl.saved_buffer import Save, checked_settings
from iltools_datasets.torchrl.tensor_files import load_memmap, load_tensors

_METADATA = "buffer_metadata.json"


def is_torchrl_save(path: Path) -> bool:
    """Whether TorchRL's buffer saved itself in the directory `path`."""
    return (path / _METADATA).exists()


def torchrl_save(path: Path) -> Save:
    """Return what TorchRL's buffer saved in the directory `path`.

    Raises `StateError` if a file is damaged, or batches were made ahead: those are a pickle, which is not run.
    """
    metadata = read_json(path / _METADATA)
    if not isinstance(metadata, Mapping):
        raise StateError(f"{path / _METADATA}: expected a mapping, found {json.dumps(metadata)[:80]}")
    _check_empty(path / "prefetch.pkl")
    generator = None
    if (path / "rng_state").exists():
        saved = load_memmap(path / "rng_state")
        generator = (saved["rng_state"].clone(), str(saved.device or "cpu"))
    settings = checked_settings(metadata.get("batch_size"), metadata.get("consume_after_n_samples"), generator)
    file = path / "transform.t"
    transforms = load_tensors(file) if file.exists() else {}
    return Save(path, settings, transforms, of_torchrl=True)


def _check_empty(file: Path) -> None:
    if not file.exists():
        return
    try:
        found = read_pickled_data(memoryview(file.read_bytes()), str(file))
        is_empty = found["queue"] in ((), [])
    except (SourceError, TypeError, KeyError):
        is_empty = False
    if not is_empty:
        raise StateError(
            f"{file}: TorchRL's own buffer pickled batches that it had made ahead, and pickles are not run here: "
            "load the checkpoint with that buffer, take these batches, and save it again"
        )
