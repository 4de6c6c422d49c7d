"""Where a set of a given name lies: in a directory, in lerobot's or the hub's cache, or, only then, on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from iltools_datasets.errors import IltoolsError, SourceError, SourceNotFoundError
from iltools_datasets.lerobot.episodes import EpisodeTable, read_episodes
from iltools_datasets.lerobot.info import INFO, LeRobotInfo, read_info

REVISIONS = ("v3.0", "v2.1", "v2.0", "main")
"""Tags and branches that are looked for where none is named, the first one that is there."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


def find(
    repo_id: str,
    root: str | Path | None = None,
    revision: str | None = None,
    *,
    episodes: Iterable[int] | None = None,
    cameras: Iterable[str] | None = None,
    download: bool = True,
) -> Path:
    """Return the directory of a set.

    It is looked for at `root`, `root/repo_id`, `$HF_LEROBOT_HOME/repo_id`, among the snapshots of the hub's and of
    lerobot's own hub cache, and at `repo_id` itself. A set that is there whole is never looked up on the network. Only
    what is not there, or lacks files in a snapshot, is downloaded, if huggingface_hub is installed: what `meta` and
    `data` hold, and of the videos those that are needed.

    Args:
        repo_id: `owner/name`, or a directory.
        root: a directory to look in first, and to download to.
        revision: tag, branch or commit on the hub; None: the first of v3.0, v2.1, v2.0, main. A plain directory has
            none, so it is taken as it is.
        episodes: whose videos are needed; None: those of all.
        cameras: whose videos are needed; None: those of all.
        download: whether the network may be asked at all.

    Raises SourceNotFoundError, naming where it was looked for, if it is nowhere.
    """
    looked: list[str] = []
    for place in _directories(repo_id, root):
        if (place / INFO).is_file():
            return place
        looked.append(str(place))
    for place in _snapshots(repo_id, revision):
        if not (place / INFO).is_file():
            looked.append(str(place))
            continue
        if download and _is_incomplete(place, episodes, cameras):
            return _completed(place, repo_id, episodes, cameras)
        return place
    if not download:
        raise SourceNotFoundError(f"no LeRobot data set {repo_id!r}; looked for {INFO} in {', '.join(looked)}")
    return _download(repo_id, root, revision, episodes, cameras, looked)


def _directories(repo_id: str, root: str | Path | None) -> Iterator[Path]:
    if root is not None:
        yield Path(root)
        yield Path(root) / repo_id
    yield _lerobot_home() / repo_id
    if repo_id:
        yield Path(repo_id)


def _hf_home() -> Path:
    named = os.environ.get("HF_HOME")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"


def _lerobot_home() -> Path:
    return Path(os.environ.get("HF_LEROBOT_HOME") or _hf_home() / "lerobot").expanduser()


def _snapshots(repo_id: str, revision: str | None) -> Iterator[Path]:
    """Yield the snapshots of a set in either hub cache, those of the wanted revision first, or alone if it is named."""
    if not _NAME.fullmatch(repo_id):
        return
    caches = (Path(os.environ.get("HF_HUB_CACHE") or _hf_home() / "hub").expanduser(), _lerobot_home() / "hub")
    for cache in caches:
        repository = cache / f"datasets--{repo_id.replace('/', '--')}"
        for name in REVISIONS if revision is None else (revision,):
            reference = repository / "refs" / name
            commit = reference.read_text().strip() if reference.is_file() else name
            if re.fullmatch(r"[0-9A-Za-z._-]+", commit) and (repository / "snapshots" / commit).is_dir():
                yield repository / "snapshots" / commit
        if revision is None and (repository / "snapshots").is_dir():
            yield from sorted(
                (path for path in (repository / "snapshots").iterdir() if path.is_dir()),
                key=lambda path: path.stat().st_mtime,
                reverse=True,
            )


def _is_incomplete(root: Path, episodes: Iterable[int] | None, cameras: Iterable[str] | None) -> bool:
    try:
        info = read_info(root)
        table = read_episodes(root, info)
    except SourceNotFoundError:
        return True
    return any(not (root / path).is_file() for path in needed_files(info, table, episodes, cameras))


def needed_files(
    info: LeRobotInfo, table: EpisodeTable, episodes: Iterable[int] | None, cameras: Iterable[str] | None
) -> list[str]:
    """Return the relative paths of the data files of all episodes and of the videos of some, as the tables say."""
    chosen = np.arange(len(table)) if episodes is None else np.flatnonzero(np.isin(table.index, list(episodes)))
    asked = set(info.camera_keys if cameras is None else cameras)
    keys = [key for key in info.camera_keys if key in asked and info.features[key].kind == "video"]
    files: dict[str, None] = {}
    if not info.many_episodes_per_file:
        numbers = [
            {"episode_chunk": number // info.chunks_size, "episode_index": number} for number in table.index.tolist()
        ]
        files.update(dict.fromkeys(info.data_path.format(**entry) for entry in numbers))
        if info.video_path is not None:
            paths = [info.video_path.format(**numbers[at], video_key=key) for key in keys for at in chosen.tolist()]
            files.update(dict.fromkeys(paths))
        return list(files)
    declared = [table.declared.get(f"data/{name}_index") for name in ("chunk", "file")]
    if declared[0] is not None and declared[1] is not None:
        pairs = zip(declared[0].tolist(), declared[1].tolist(), strict=True)
        files.update(dict.fromkeys(info.data_path.format(chunk_index=chunk, file_index=file) for chunk, file in pairs))
    for key in keys if info.video_path is not None else ():
        assert info.video_path is not None
        places = table.videos[key]
        pairs = zip(places.chunk[chosen].tolist(), places.file[chosen].tolist(), strict=True)
        paths = [info.video_path.format(chunk_index=chunk, file_index=file, video_key=key) for chunk, file in pairs]
        files.update(dict.fromkeys(paths))
    return list(files)


def _hub(repo_id: str, looked: list[str]) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        where = f"; looked for {INFO} in {', '.join(looked)}" if looked else ""
        raise SourceNotFoundError(
            f"no LeRobot data set {repo_id!r} on this machine{where}; to download it: pip install huggingface_hub"
        ) from error
    return huggingface_hub


def _completed(snapshot: Path, repo_id: str, episodes: Iterable[int] | None, cameras: Iterable[str] | None) -> Path:
    """Fetch what a snapshot of the hub's cache lacks; if that cannot be done, its reader says what is missing."""
    try:
        return _fetch(_hub(repo_id, []), repo_id, None, snapshot.name, episodes, cameras, snapshot.parents[2])
    except (IltoolsError, OSError):
        return snapshot


def _download(
    repo_id: str,
    root: str | Path | None,
    revision: str | None,
    episodes: Iterable[int] | None,
    cameras: Iterable[str] | None,
    looked: list[str],
) -> Path:
    hub = _hub(repo_id, looked)
    if not _NAME.fullmatch(repo_id):
        raise SourceNotFoundError(
            f"no LeRobot data set {repo_id!r}: no directory, and no owner/name of the hub; looked for {INFO} in "
            f"{', '.join(looked)}"
        )
    errors = []
    for name in REVISIONS if revision is None else (revision,):
        try:
            return _fetch(hub, repo_id, root, name, episodes, cameras, None)
        except SourceError as error:
            if not isinstance(error, SourceNotFoundError):
                raise
            errors.append(str(error))
    raise SourceNotFoundError(
        f"no LeRobot data set {repo_id!r}; looked for {INFO} in {', '.join(looked)}, and on the hub: "
        f"{'; '.join(errors)}"
    )


def _fetch(
    hub: Any,
    repo_id: str,
    root: str | Path | None,
    revision: str,
    episodes: Iterable[int] | None,
    cameras: Iterable[str] | None,
    cache: Path | None,
) -> Path:
    options: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
    if root is not None:
        options["local_dir"] = str(root)
    if cache is not None:
        options["cache_dir"] = str(cache)
    place = _pull(hub, repo_id, options, ["meta/**"])
    info = read_info(place)
    files = needed_files(info, read_episodes(place, info), episodes, cameras)
    return _pull(
        hub, repo_id, options, ["meta/**", "data/**", *(path for path in files if (place / path).suffix == ".mp4")]
    )


def _pull(hub: Any, repo_id: str, options: dict[str, Any], patterns: list[str]) -> Path:
    try:
        return Path(hub.snapshot_download(repo_id, allow_patterns=patterns, **options))
    except Exception as error:  # the hub's client raises errors of several HTTP libraries
        raise SourceNotFoundError(
            f"{repo_id} at {options['revision']}: {' '.join(str(error).split())[:300]}"
        ) from error
