"""What is counted of a recording: for whoever asks, and for a file's own description."""

from __future__ import annotations

from typing import Any

from iltools_datasets.collection.recording import Recording
from iltools_datasets.collection.settings import Settings


def statistics_of(
    settings: Settings, recording: Recording | None, bytes_on_disk: int, stalled_seconds: float
) -> dict[str, Any]:
    """Return counts, widths, and what is held: of a recording, or of none yet; `stalled_seconds` are further ones."""
    core = None if recording is None else recording.core
    trajectories, steps = (0, 0) if recording is None else (recording.num_trajectories, recording.core.num_rows)
    dropped, invalid = (0, 0) if core is None else core.num_missing
    # Where the journal's steps lie, and the table of the store.
    held = 0 if core is None else 16 * core.num_steps + 128 * core.num_episodes
    return {
        "num_trajectories": trajectories,
        "num_steps": steps,
        "avg_steps_per_trajectory": steps / trajectories if trajectories else 0.0,
        "obs_dim": settings.obs_dim,
        "student_obs_dim": settings.student_obs_dim,
        "action_dim": settings.action_dim,
        "memory_usage_mb": held / 2**20,
        "bytes_on_disk": bytes_on_disk,
        "num_running": 0 if core is None else len(core.running),
        "num_dropped": dropped,
        "num_invalid": invalid,
        "stalled_seconds": stalled_seconds + (0.0 if core is None else core.stalled_seconds),
    }


def metadata_of(settings: Settings, recording: Recording) -> dict[str, Any]:
    """Return what a file says of itself."""
    dims = {"teacher": settings.obs_dim, "student": settings.student_obs_dim}
    known = {name: dim for name, dim in dims.items() if dim is not None}
    counts = {"num_trajectories": recording.num_trajectories, "num_steps": recording.core.num_rows}
    return {**counts, "obs_dim_dict": known, "action_dim": settings.action_dim}
