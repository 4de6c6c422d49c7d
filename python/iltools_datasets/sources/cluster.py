"""Raw files to one archive by the tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.integers import checked_integer
from iltools_datasets._base.local_path import is_url, local_path
from iltools_datasets.archive.reader import description_at
from iltools_datasets.errors import ArchiveExistsError, IltoolsError, SourceError
from iltools_datasets.sources.export import ExportReport, export
from iltools_datasets.sources.fetched import files_at
from iltools_datasets.sources.shards import joined, plan_shards, write_shard

_RETRIES = 5
"""How often a task is run again whose process or node is gone."""


def ingest(
    place: str,
    out: str,
    *,
    address: str = "auto",
    format: str = "auto",
    options: Mapping[str, Any] | None = None,
    dataset_source: str | None = None,
    fps: float | None = None,
    layout: Literal["nested", "packed"] = "nested",
    overwrite: bool = False,
    keep_going: bool = False,
    files_per_task: int = 200,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write all raw files below a place to one archive, read by the tasks of a Ray cluster.

    Each task fetches some files, and writes what is in them to an archive of its own, `<out>.parts/<digest>.zarr`; this
    process then writes the archive, bit for bit that of `export`. A part that is there is not made again, so what was
    killed goes on; a task whose process or node is gone is run again. The parts stay until somebody removes them.

    Args:
        place: directory of raw files: a URL such as `s3://bucket/raw`, or a path that all nodes have.
        out: the archive: a URL, or a path that all nodes have.
        address: of the cluster, as `ray.init` takes it: "auto" for the one that this machine is a node of, "local" for
            one on this machine alone.
        format: as in `open_sources`.
        options: of the sources, as there.
        dataset_source, fps, layout, overwrite, keep_going: as in `export`.
        files_per_task: files, or directories that are one thing, of a part.
        progress: called as `progress(parts_done, parts_in_all)`.

    Raises:
        MissingExtraError: Ray, or the client of a URL's protocol, is not installed.
        SourceNotFoundError: there is nothing at the place.
        ArchiveExistsError: there is an archive and `overwrite` is False.
        SourceError: as in `export`; or a task's process is gone again and again.
        StorageError: object storage refuses, or fails.
    """
    files_per_task = checked_integer("files_per_task", files_per_task, 1)
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError as error:
        raise missing_extra("ray", "reading files by the tasks of a Ray cluster") from error
    root = place if is_url(place) else str(local_path(place).resolve())
    target = out if is_url(out) else str(local_path(out).resolve())
    _refuse_existing(target, overwrite)
    remote, files, _ = files_at(root)
    parts = f"{target.rstrip('/')}.parts"
    shards = plan_shards(
        remote.url, files, parts, files_per_task, format=format, options=options, fps=fps, keep_going=keep_going
    )
    was_running = ray.is_initialized()
    if not was_running:
        ray.init(address, log_to_driver=False)
    waiting: list[Any] = []
    try:
        task = ray.remote(max_retries=_RETRIES)(write_shard)
        waiting = [task.remote(shard) for shard in shards]
        while waiting:
            if progress is not None:
                progress(len(shards) - len(waiting), len(shards))
            done, waiting = ray.wait(waiting)
            ray.get(done)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, IltoolsError | OSError):
            raise cause from error
        raise
    except RayError as error:
        raise SourceError(f"{root}: a task of the cluster ended: {type(error).__name__}: {error}") from error
    finally:
        for each in waiting:
            ray.cancel(each, force=True)
        if not was_running:
            ray.shutdown()
    return export(
        joined(remote.url, shards),
        target,
        dataset_source=dataset_source,
        layout=layout,
        overwrite=overwrite,
        keep_going=keep_going,
    )


def _refuse_existing(target: str, overwrite: bool) -> None:
    """Say before hours of work what the writer would say after them."""
    is_there = description_at(target) is not None if is_url(target) else Path(target).exists()
    if is_there and not overwrite:
        raise ArchiveExistsError(f"{target}: is there already; pass overwrite=True to replace it")
