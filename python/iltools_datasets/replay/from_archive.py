"""From a Zarr archive to a replay manager in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from iltools_datasets._base.extras import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "iltools_datasets.replay_export") from error

from iltools_datasets.ingest.archives import Place, Select
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.replay.devices import check_sampling
from iltools_datasets.replay.manager import ExpertReplayManager

__all__ = ["build_replay_from_zarr"]


def build_replay_from_zarr(
    zarr_path: Place | Sequence[Place],
    scratch_dir: str | os.PathLike[str],
    obs_keys: Sequence[str],
    act_key: str | None = None,
    concat_obs_to_key: str | None = "observation",
    include_terminated: bool = True,
    include_truncated: bool | None = None,
    original_obs_td_key: str = "lmj_observation",
    strict: bool = True,
    infer_terminated_if_missing: bool = True,
    float_dtype: str | None = "float32",
    on_nan: Literal["error", "keep"] = "error",
    device: torch.device | str = "cpu",
    sample_batch_size: int = 256,
    overwrite: bool = False,
    progress: bool | None = None,
    *,
    exclude_keys: Sequence[str] = (),
    select: Select = (),
    prefetch: int | None = None,
    pin_memory: bool = False,
) -> ExpertReplayManager:
    """Build a store from an archive in `scratch_dir` and return a manager that samples from it.

    Trajectories are read one after the other, so memory does not grow with the archive. `manager.report` says what was
    exported and what was skipped. Run again, it uses the store that is there, if neither the archive nor the options
    have changed (`manager.report.reused`); if they have, `overwrite=True` builds it anew.

    Args:
        device, sample_batch_size, prefetch, pin_memory: as in `ExpertReplayManager.load`.

    All other arguments, and the errors raised, are those of `iltools_datasets.ingest.from_archive.build_store`.

    Examples:
        >>> mgr = build_replay_from_zarr(
        ...     "walks.zarr", "replay", obs_keys=["qpos", "qvel"], act_key="action", progress=False
        ... )
        >>> mgr.set_uniform_sampler(batch_size=16, seed=0)
        >>> mgr.buffer.sample()["next", "observation"].shape
        torch.Size([16, 13])
    """
    check_sampling(device, sample_batch_size, prefetch, pin_memory)
    store_path, report = build_store(
        zarr_path,
        scratch_dir,
        obs_keys,
        act_key=act_key,
        concat_obs_to_key=concat_obs_to_key,
        include_terminated=include_terminated,
        include_truncated=include_truncated,
        original_obs_td_key=original_obs_td_key,
        strict=strict,
        infer_terminated_if_missing=infer_terminated_if_missing,
        float_dtype=float_dtype,
        on_nan=on_nan,
        exclude_keys=exclude_keys,
        overwrite=overwrite,
        progress=progress,
        select=select,
        reuse=True,
    )
    manager = ExpertReplayManager.load(store_path, device, sample_batch_size, prefetch, pin_memory=pin_memory)
    manager.report = report
    return manager
