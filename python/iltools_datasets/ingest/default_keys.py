"""What to observe in an archive when nobody says."""

from __future__ import annotations

from iltools_datasets.archive.reader import ArchiveReader
from iltools_datasets.archive.schema import TRANSITION_KEYS
from iltools_datasets.errors import MissingKeyError
from iltools_datasets.ingest.archives import Archives

_MOST_AXES = 3  # rows of numbers or of points; images are no default observation


def default_obs_keys(reader: ArchiveReader | Archives) -> list[str]:
    """Return qpos and qvel if the first clip has both, else all its floating-point rows per state.

    Of an expert's transitions the observation is the one that is called so.

    Raises MissingKeyError if it has none.
    """
    first = reader.trajectories[0] if reader.trajectories else None
    keys = first.keys if first is not None else {}
    if first is not None and first.lacks_next and "observation" in keys:
        return ["observation"]
    if {"qpos", "qvel"} <= set(keys):
        return ["qpos", "qvel"]
    rows = [
        key
        for key, spec in keys.items()
        if key not in TRANSITION_KEYS and spec.dtype.kind == "f" and len(spec.shape) <= _MOST_AXES
    ]
    observed = keys.get("observations")
    if not rows and first is not None and observed is not None and observed.shape[0] == first.num_states:
        rows = ["observations"]  # roll-outs that call it so have nothing else to look at
    if not rows:
        raise MissingKeyError(
            f"{reader.path}: nothing to observe: no floating-point row per state among {sorted(keys)}"
        )
    return rows
