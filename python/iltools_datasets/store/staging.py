"""A store on object storage, copied once to this machine: whole, verified, and there only then."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iltools_datasets import _core
from iltools_datasets._base.cache_directory import name_in_cache
from iltools_datasets._base.files import Maker, link_or_copy, make_directory, swap, sync_directory, sync_tree
from iltools_datasets._base.lock import locked
from iltools_datasets._base.object_storage import RemoteDirectory, is_disk_full
from iltools_datasets.errors import ArgumentError, StorageError, StoreCorruptError, StoreError, StoreNotFoundError

_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 1 << 30
_UUID = re.compile(r"[0-9a-f-]{1,64}")


def staged(url: str, cache: str | Path | None, options: Mapping[str, Any] | None) -> Path:
    """Return the directory of this machine's copy of a store, which is made, or brought up to date, if need be.

    Args:
        url: of the store's directory, such as `s3://bucket/store`.
        cache: directory for copies; that of this one is `stores/<name>-<number of the URL>` below it.
        options: as in `RemoteDirectory`.

    The copy is as the store is if their manifests are the same, to the byte. Otherwise files that the copy does not
    have are fetched beside it, all checksums compared, and the new copy takes the place of the old in one step: who has
    the old one open keeps it. One process fetches, others wait for it. What a killed one has fetched is kept for the
    next one, in a hidden directory.

    Raises:
        ArgumentError: no cache, or a URL of no known protocol.
        MissingExtraError: the protocol's client is not installed.
        StoreNotFoundError: there is no store at the URL.
        StoreCorruptError: a file is missing there, has the wrong length, or is not what its checksums say.
        StoreVersionError: written in another format version.
        StorageError: object storage refuses, or fails.
        OSError: the cache cannot be written to, or its disk is full; then what was fetched is removed.
    """
    if cache is None:
        scheme = url.partition(":")[0]
        raise ArgumentError(
            f"{url}: expected a directory of this machine, or cache=DIRECTORY to copy the store to, found a URL of "
            f"{scheme} without one: a store is mapped into memory, and so lies on this machine"
        )
    remote = RemoteDirectory(url, options)
    parent = Path(cache) / "stores"
    path = parent / name_in_cache(remote.url.rpartition("/")[2], remote.url, "store")
    if _is_as_described(path, _manifest(remote)):
        return path
    make_directory(parent)
    with locked(parent / f".{path.name}.lock"):
        while True:
            manifest = _manifest(remote)
            if _is_as_described(path, manifest):
                return path
            try:
                _stage(remote, manifest, path)
            except (StorageError, StoreError):
                # A build that takes the store's place removes the files of the one before.
                if _manifest(remote) == manifest:
                    raise
            else:
                return path


def _manifest(remote: RemoteDirectory) -> bytes:
    try:
        return remote.read(_MANIFEST, _LARGEST_MANIFEST)
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"{remote.url}: there is no store: expected {_MANIFEST}, found none") from error


def _is_as_described(path: Path, manifest: bytes) -> bool:
    try:
        return (path / _MANIFEST).read_bytes() == manifest
    except FileNotFoundError:
        return False


def _stage(remote: RemoteDirectory, manifest: bytes, path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.partial")
    wanted = {
        name: size
        for directory in _data_directories(remote, manifest)
        for name, size in remote.sizes(directory).items()
        if not name.startswith(f"{directory}/journal/")  # its collector's alone
    }
    maker = Maker()
    try:
        reused = _reuse(wanted, unfinished, path)
        damages = _complete(remote, manifest, wanted, unfinished)
        if damages and reused:  # the fault may be this machine's
            shutil.rmtree(unfinished)
            damages = _complete(remote, manifest, wanted, unfinished)
        if damages:
            raise StoreCorruptError(
                f"{remote.url}: {damages[0]}" + f" (and {len(damages) - 1} more)" * (len(damages) > 1)
            )
        sync_tree(unfinished)
        if path.exists():
            swap(unfinished, path)
        else:
            unfinished.rename(path)
        sync_directory(path.parent)
    except StoreError:
        maker.remove_tree(unfinished)
        raise
    except OSError as error:
        if is_disk_full(error):
            maker.remove_tree(unfinished)
        raise
    maker.remove_tree(unfinished)  # the copy before


def _data_directories(remote: RemoteDirectory, manifest: bytes) -> list[str]:
    """Return the names of a store's data directories; StoreError for what is no sound manifest, before any is read."""
    with tempfile.TemporaryDirectory(prefix="iltools-manifest-") as alone:
        (Path(alone) / _MANIFEST).write_bytes(manifest)
        try:
            _core.verify(alone, None)
        except StoreError as error:
            raise type(error)(str(error).replace(alone, remote.url)) from error
    described = json.loads(manifest)["manifest"]
    builds = [described["uuid"], *(generation["uuid"] for generation in described.get("generations", ()))]
    for build in builds:
        if not _UUID.fullmatch(build):
            raise StoreCorruptError(f"{remote.url}/{_MANIFEST}: {build!r} is no name of a build")
    return [f"data-{build}" for build in dict.fromkeys(builds)]


def _reuse(wanted: Mapping[str, int], unfinished: Path, path: Path) -> bool:
    """Keep of an earlier try what is wanted, link what the copy that is there has; tell whether there is anything.

    A published file never changes, but for getting longer while its store grows: one of the same length is the same.
    """
    unfinished.mkdir(exist_ok=True)
    reused, directories = False, {name.partition("/")[0] for name in wanted}
    for entry in unfinished.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry.name not in directories:
            shutil.rmtree(entry)
    for file in [entry for entry in unfinished.rglob("*") if not entry.is_dir()]:
        if _is_file_of(file, wanted.get(str(file.relative_to(unfinished)))):
            reused = True
        else:
            file.unlink()
    for name, size in wanted.items():
        if not (unfinished / name).exists() and _is_file_of(path / name, size):
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path / name, unfinished / name)
            reused = True
    return reused


def _is_file_of(file: Path, size: int | None) -> bool:
    return not file.is_symlink() and file.is_file() and file.stat().st_size == size


def _complete(remote: RemoteDirectory, manifest: bytes, wanted: Mapping[str, int], unfinished: Path) -> list[str]:
    """Fetch what is missing and return what is wrong with the whole."""
    remote.fetch({name: size for name, size in wanted.items() if not (unfinished / name).exists()}, unfinished)
    for name in wanted:
        (unfinished / name).chmod(0o444)
    (unfinished / _MANIFEST).write_bytes(manifest)
    damages = [f"{file}: {what}" for file, _, block, what in _core.verify(str(unfinished), None)]
    return [damage.replace(f"{unfinished}/", "") for damage in damages]
