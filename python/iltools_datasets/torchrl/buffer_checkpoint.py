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
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from iltools_datasets._base.files import Maker, make_directory, read_json, sync_directory, sync_tree, write_json
from iltools_datasets._base.saved_state import SavedState
from iltools_datasets.errors import StateError
from iltools_datasets.torchrl.saved_buffer import Save, Settings, checked_settings
from iltools_datasets.torchrl.tensor_files import load_tensors
from iltools_datasets.torchrl.torchrl_checkpoint import is_torchrl_save, torchrl_save

_KIND, _VERSION = "TensorDictReplayBuffer", 1
_NAME, _LOCK, _PREFIX = "checkpoint.json", ".checkpoint.lock", "save-"
TRANSFORMS, QUEUE = "transforms.pt", "prefetch.pt"


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


@contextmanager
def current_save(path: Path) -> Iterator[Save]:
    """Hand out the save that counts, after checking every file; nobody replaces it before the block ends.

    Raises `StateError` if there is none, or a file is damaged. A save that TorchRL's own buffer wrote is one, too.
    """
    with _kept(path):
        is_torchrls = not (path / _NAME).exists() and is_torchrl_save(path)
        yield torchrl_save(path) if is_torchrls else _checked_save(path)


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Keep whoever saves, in this process or another one, from replacing the save; others may read it, too."""
    lock = path / _LOCK
    try:
        if not lock.exists() and (path / _NAME).exists():  # a copy that left it out
            lock.touch()
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield  # nobody has saved here, or nobody can
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _checked_save(path: Path) -> Save:
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
        raise StateError(f"{save}: there is no such save")
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
    settings = checked_settings(found.get("batch_size"), found.get("consume_after_n_samples"), generator)
    transforms = load_tensors(save / TRANSFORMS) if (save / TRANSFORMS).exists() else {}
    queue = load_tensors(save / QUEUE) if (save / QUEUE).exists() else []
    return Save(save, settings, transforms, queue)


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
