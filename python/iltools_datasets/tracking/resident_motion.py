"""The motion of a sampler's stores on a device: look-ups without leaving it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.errors import ArgumentError, BudgetError
from iltools_datasets.motion.kinds import Pieces
from iltools_datasets.motion.lookup import VALID, MotionLookup
from iltools_datasets.store.keys import Key
from iltools_datasets.tracking import array_motion as rules
from iltools_datasets.tracking.mixture import Mixture, pose_of, rows_of

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise missing_extra("torch", "motion on a device") from error

LIBRARY = rules.Library(torch, lambda array, of: array.to(of.dtype))
Frames = NDArray[np.int64]
Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Column:
    """A key on the device: rows `[S, W]` of all clips' states, what they are, and the shape that each is given."""

    rows: Tensor
    pieces: Pieces
    shape: tuple[int, ...]


class ResidentMotion:
    """All clips of a mixture on a device; a time is split into frame and fraction in float64, as in the core.

    Args:
        mixture: what to upload: its keys with the bodies and joints that were chosen, and the anchor.
        device: where to.
        budget: bytes that may be used; None = what a CUDA device has free, anything elsewhere.

    Raises:
        BudgetError: it does not fit; the message says by how much. Nothing was uploaded.
    """

    def __init__(self, mixture: Mixture, device: torch.device, budget: int | None) -> None:
        lookup = mixture.lookups[0]
        if lookup.boundary == "error":
            raise ArgumentError("boundary='error' asks each time what the device found; on a device it is 'hold'")
        self.device, self.frame, self.heading = device, lookup.frame, lookup.heading
        self.xyzw = lookup.quat_order == "xyzw"
        layout = {key: mixture.row(key) for key in mixture.keys}
        states = int((mixture.last + 1).sum())
        needed = states * sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout.values())
        needed += states * 7 * 4 * (lookup.frame != "world")
        if budget is None and device.type == "cuda":
            budget = torch.cuda.mem_get_info(device)[0]
        if budget is not None and needed > budget:
            raise BudgetError(
                f"motion of {needed:,} bytes does not fit {budget:,} on {device}: {needed - budget:,} too many; choose "
                "fewer keys, bodies or clips, or keep it on the host with pin_memory=True"
            )
        self.first = self._tensor(np.cumsum(mixture.last + 1) - (mixture.last + 1))
        self.last = self._tensor(mixture.last.astype(np.float64))
        self.fps = self._tensor(mixture.fps)
        self.columns = {
            key: Column(self._upload(mixture, states, partial(rows_of, key)), lookup.pieces(key), shape)
            for key, (shape, _) in layout.items()
        }
        self.anchor = None
        if lookup.frame != "world":
            self.anchor = tuple(self._upload(mixture, states, partial(pose_of, part)) for part in range(2))

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _upload(
        self, mixture: Mixture, states: int, rows_at: Callable[[MotionLookup, Frames, Times], NDArray[Any]]
    ) -> Tensor:
        """Return the rows of all states: what a look-up at each frame copies bit for bit."""
        rows, begin = None, 0
        for lookup, clip, time in mixture.every_state():
            found = rows_at(lookup, clip, time)
            part = self._tensor(found.reshape(len(found), -1))
            # One piece of memory from the beginning: what was found to fit has no room twice.
            rows = part.new_empty(states, part.shape[1]) if rows is None else rows
            rows[begin : begin + len(part)] = part
            begin += len(part)
        assert rows is not None
        return rows

    def at(
        self,
        clip: Tensor,
        time: Tensor,
        offsets: Tensor,
        keys: Sequence[Key] | None = None,
        anchor_pos: Tensor | None = None,
        anchor_quat: Tensor | None = None,
        env_origins: Tensor | None = None,
    ) -> dict[Key, Tensor]:
        """Return the motion at times `[E]` of clips `[E]` and at offsets `[O]` seconds, `{key: [E, O, *row]}`.

        Nothing is checked here, and nothing waits for the device; see `MotionLookup.at`.
        """
        frame, fraction, valid = rules.moments(
            LIBRARY, time[:, None] + offsets, self.fps[clip][:, None], self.last[clip][:, None]
        )
        row = self.first[clip][:, None] + frame.to(torch.int64)
        after = row + (fraction > 0)
        turn = self._turn(clip, time, row, after, fraction, anchor_pos, anchor_quat)
        found: dict[Key, Tensor] = {}
        for key in self.columns if keys is None else keys:
            column = self.columns[key]
            rows = rules.between(LIBRARY, column.pieces, column.rows[row], column.rows[after], fraction)
            if turn is not None:
                rows = rules.turned(LIBRARY, column.pieces, rows, turn, self.xyzw)
            elif env_origins is not None:
                rows = rules.moved(column.pieces, rows, env_origins[:, None], LIBRARY)
            found[key] = rows.reshape(*row.shape, *column.shape)
        found[VALID] = valid
        return found

    def _turn(
        self,
        clip: Tensor,
        time: Tensor,
        row: Tensor,
        after: Tensor,
        fraction: Tensor,
        anchor_pos: Tensor | None,
        anchor_quat: Tensor | None,
    ) -> rules.Turn | None:
        if self.frame == "world":
            return None
        if self.frame == "anchor":
            return rules.seen_from(LIBRARY, *self._poses(row, after, fraction))
        frame, now, _ = rules.moments(LIBRARY, time, self.fps[clip], self.last[clip])
        here = self.first[clip] + frame.to(torch.int64)
        robot = None
        if self.frame == "robot":
            assert anchor_pos is not None
            assert anchor_quat is not None
            facing = rules.ordered(LIBRARY, anchor_quat.to(torch.float64), self.xyzw, False)
            robot = anchor_pos.to(torch.float64), facing
        return rules.heading_turn(LIBRARY, *self._poses(here, here + (now > 0), now), robot, self.heading)

    def _poses(self, row: Tensor, after: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
        """Return the anchor's positions and rotations wxyz, float64."""
        assert self.anchor is not None
        position, rotation = rules.poses(LIBRARY, self.anchor, row, after, fraction)
        return position.to(torch.float64), rotation.to(torch.float64)
