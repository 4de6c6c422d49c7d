"""A buffer on disk: one directory per save, and a small file, replaced in one step, that says which of them counts.

    PATH/checkpoint.json        which save, its files with sizes and digests, batch size, generator
    PATH/save-<uuid>/           storage/, sampler/ and writer/ as their own `dumps` writes them, transforms and prefetch

A kill at any moment leaves the old save or the new one; whatever else lies in PATH is left alone. Nothing in here is a
pickle that could run code: transforms and batches made ahead are tensors that torch loads with `weights_only=True`.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, is_tensor_collection

from iltools_datasets._base.files import Maker, make_directory, read_json, sync_directory, sync_tree, write_json
from iltools_datasets._base.saved_state import SavedState
from iltools_datasets.errors import StateError

_KIND, _VERSION = "TensorDictReplayBuffer", 1
_NAME, _LOCK, _PREFIX = "checkpoint.json", ".checkpoint.lock", "save-"


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
                f"state of {_KIND}: {name}: expected an integer of at least 1 or None, found {value!r:.80}"
            )
    if generator is None:
        return Settings(batch_size, consume_after_n_samples, None)
    try:
        state, device = generator
        made = torch.Generator(device=device)
        made.set_state(state)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise StateError(f"state of {_KIND}: generator: {error}") from error
    return Settings(batch_size, consume_after_n_samples, made)


@contextmanager
def new_save(path: Path, settings: Settings) -> Iterator[Path]:
    """Hand out a directory to write a save into; at the end it takes the last one's place, on an error it vanishes."""
    maker = Maker()
    make_directory(path)
    with (path / _LOCK).open("w") as lock:
        # One at a time, so what lies there besides the current save was left behind by a kill.
        fcntl.flock(lock, fcntl.LOCK_EX)
        save = path / f"{_PREFIX}{uuid.uuid4().hex}"
        save.mkdir()
        try:
            yield save
            maker.require(path)
            files = {str(file.relative_to(save)): _digest(file) for file in _files_of(save)}
            sync_tree(save)
            sync_directory(path)
            content = {
                "kind": _KIND,
                "version": _VERSION,
                "save": save.name,
                "files": files,
                "batch_size": settings.batch_size,
                "consume_after_n_samples": settings.consume_after_n_samples,
                "generator": _encoded(settings.generator),
            }
            write_json(path / _NAME, {**content, "digest": _digest_of(content)})
        except BaseException:
            maker.remove_tree(save)
            raise
        for left in path.glob(f"{_PREFIX}*"):
            if left != save:
                maker.remove_tree(left)
        for left in path.glob(f".{_NAME}.*.tmp"):
            left.unlink(missing_ok=True)


def current_save(path: Path) -> tuple[Path, Settings]:
    """Return the directory that counts and the settings, after checking every file; `StateError` if one is damaged."""
    try:
        return _checked_save(path)
    except FileNotFoundError:
        # Another save took its place meanwhile.
        return _checked_save(path, StateError)


def _checked_save(path: Path, missing: type[Exception] = FileNotFoundError) -> tuple[Path, Settings]:
    if not (path / _NAME).exists() and (path / "buffer_metadata.json").exists():
        raise StateError(
            f"{path}: written by TorchRL's own buffer, whose batches made ahead are a pickle, which is not read here; "
            "load it with that buffer and save the sampler's state"
        )
    found = read_json(path / _NAME)
    saved = SavedState(found, _KIND, _VERSION)
    content = {key: value for key, value in found.items() if key != "digest"}
    if found.get("digest") != _digest_of(content):
        raise StateError(f"{path / _NAME}: damaged: its digest does not match")
    name, files = saved.text("save"), found.get("files")
    if not name.startswith(_PREFIX) or Path(name).name != name or not isinstance(files, dict):
        raise saved.refuse("save", "a directory and its files")
    save = path / name
    if not save.is_dir():
        raise missing(f"{save}: there is no such save")
    for relative in {str(file.relative_to(save)) for file in _files_of(save)} | files.keys():
        file = save / relative
        if relative not in files or not file.is_file():
            raise StateError(f"{file}: {'missing' if relative in files else 'not part of the checkpoint'}")
        if (digest := _digest(file)) != files[relative]:
            raise StateError(f"{file}: damaged: expected size and digest {files[relative]}, found {digest}")
    generator = found.get("generator")
    if generator is not None:
        try:
            state = torch.frombuffer(bytearray(base64.b64decode(generator["state"])), dtype=torch.uint8)
            generator = (state, generator["device"])
        except (TypeError, KeyError, ValueError) as error:
            raise saved.refuse("generator", "a state and a device") from error
    return save, checked_settings(found.get("batch_size"), found.get("consume_after_n_samples"), generator)


def _encoded(generator: torch.Generator | None) -> dict[str, str] | None:
    if generator is None:
        return None
    state = base64.b64encode(generator.get_state().numpy().tobytes()).decode()
    return {"state": state, "device": str(generator.device)}


def _files_of(save: Path) -> list[Path]:
    return [found for found in save.rglob("*") if not found.is_dir() or found.is_symlink()]


def _digest(file: Path) -> list[Any]:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "blake2b").hexdigest()[:32]
        return [file.stat().st_size, digest]


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


# Tensors without pickles.


def save_tensors(value: Any, file: Path) -> None:
    """Write nested dicts, lists, tuples and TensorDicts of tensors and numbers; `TypeError` for anything else."""
    torch.save(_plain(value), file)


def load_tensors(file: Path) -> Any:
    """Return what `save_tensors` wrote; `StateError` if it is something else."""
    try:
        return _rebuilt(torch.load(file, weights_only=True))
    except Exception as error:  # torch.load raises whatever it stumbles over
        raise StateError(f"{file}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone().as_subclass(torch.Tensor)
    if isinstance(value, TensorDict):
        entries = {key: _plain(entry) for key, entry in value.items()}
        device = None if value.device is None else str(value.device)
        return {"tensordict": entries, "batch_size": list(value.batch_size), "device": device}
    if isinstance(value, Mapping) and not is_tensor_collection(value):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(entry) for entry in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} would have to be saved as a pickle; only tensors and numbers can be")


def _rebuilt(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tensordict", "batch_size", "device"}:
            entries = {key: _rebuilt(entry) for key, entry in value["tensordict"].items()}
            return TensorDict(entries, batch_size=value["batch_size"], device=value["device"])
        return {key: _rebuilt(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_rebuilt(entry) for entry in value)
    return value
