"""Roll-outs of an expert in one `.npy`: each env's runs of valid rows become trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.schema import ROWS_ARE_TRANSITIONS, ROWS_ATTRIBUTE
from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.expert_file import (
    REQUIRED_KEYS,
    ROLLOUT_KEYS,
    Rollouts,
    holds_rollouts,
    read_rollouts,
)
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource
from iltools_datasets.sources.walk import below, without_ending

_ENDING = (".npy",)
"""No ending of the format's own: other arrays of numpy in a folder are none of its business."""


class ExpertRolloutSource(ToldSource):
    """A `.npy` of one dictionary with `observations` and `actions`, `[T, N, width]` or, of one env, `[T, width]`.

    Every run of valid rows of an env is a trajectory. Where episodes end within it the file does not say, so its rows
    are transitions of which the next state is not known: L rows stay L transitions, and a store of them has no next.
    Values keep their dtype. The attributes say which env it was, and at which of the file's steps the run begins.

    The format holds no rate (`fps`). Of `skip`, names are the file's; the two arrays that it must have are always read.
    Names of joints and bodies are kept; nothing here is called a quaternion.
    """

    format = "expert-npy"
    summary = "roll-outs of an expert in one npy: observations, actions, valid_mask (MOSAIC)"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return holds_rollouts(path)

    def _below(self) -> list[Path]:
        found = [path for path in below(self.path, note=self.note) if holds_rollouts(path)]
        if not found:
            raise SourceError(f"{self.path}: no roll-outs of an expert in a .npy below it")
        return found

    def _stem(self, path: Path) -> str:
        return without_ending(path, _ENDING)

    def read(self, file: SourceFile) -> Iterator[Recording]:
        rollouts = read_rollouts(file.path)
        for key in rollouts.unknown:
            if key not in self.skip:
                self.about(file.path, f"left out {key!r}, which is none of the format's arrays")
        attributes: dict[str, Any] = {ROWS_ATTRIBUTE: ROWS_ARE_TRANSITIONS}
        for what in ("joint_names", "body_names"):
            if (names := getattr(self, what)) is not None:
                attributes[what] = names
        steps, envs = rollouts.shape
        for env in range(envs):
            valid = np.ones(steps, dtype=np.bool_) if rollouts.valid is None else rollouts.valid[:, env]
            for first, end in _runs(valid):
                yield Recording(
                    self._rows(rollouts, env, first, end),
                    fps=self.fps,
                    attributes={**attributes, "env": env, "first_step": first},
                )

    def count(self, file: SourceFile) -> int:
        rollouts = read_rollouts(file.path)
        if rollouts.valid is None:
            return rollouts.shape[1]
        return sum(len(_runs(column)) for column in rollouts.valid.T)

    def _rows(self, rollouts: Rollouts, env: int, first: int, end: int) -> dict[str, NDArray[Any]]:
        rows = {}
        for key, name in ROLLOUT_KEYS.items():
            if key in rollouts.arrays and (key not in self.skip or key in REQUIRED_KEYS):
                values = rollouts.arrays[key][first:end, env]
                # A copy in native order: the file's bytes are mapped, and this env's rows lie apart.
                rows[name] = np.array(values, dtype=values.dtype.newbyteorder("="), order="C")
        return rows


def _runs(valid: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return where each run of true values begins and ends."""
    turns = np.flatnonzero(np.diff(valid.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(turns[::2], turns[1::2], strict=True))
