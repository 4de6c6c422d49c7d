"""The motion of a sampler's stores on a device: look-ups without leaving it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class DeviceMotion:
    """Rows of states on a device, looked up there; a time is split into frame and fraction in float64, as in the core.

    Attributes:
        first: row of each clip's first state, where all of them are there, int64 [clips].
        layout: shape and dtype of each key's rows.
        row_bytes: of one state, with the anchor's pose where look-ups are seen from it.
    """

    def __init__(self, mixture: Mixture, device: torch.device) -> None:
        lookup = mixture.lookups[0]
        if lookup.boundary == "error":
            raise ArgumentError("boundary='error' asks each time what the device found; on a device it is 'hold'")
        self.device, self.frame, self.heading = device, lookup.frame, lookup.heading
        self.xyzw = lookup.quat_order == "xyzw"
        self.layout = {key: mixture.row(key) for key in mixture.keys}
        self.row_bytes = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in self.layout.values())
        self.row_bytes += 7 * 4 * (lookup.frame != "world")
        self.first = self._tensor(np.cumsum(mixture.last + 1) - (mixture.last + 1))
        self.last = self._tensor(mixture.last.astype(np.float64))
        self.fps = self._tensor(mixture.fps)
        self.columns: dict[Key, Column] = {}
        self.anchor: tuple[Tensor, ...] | None = None

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def at(
        self,
        clip: Tensor,
        time: Tensor,
        offsets: Tensor,
        keys: Sequence[Key] | None = None,
        anchor_pos: Tensor | None = None,
        anchor_quat: Tensor | None = None,
        env_origins: Tensor | None = None,
        first: Tensor | None = None,
    ) -> dict[Key, Tensor]:
        """Return the motion at times `[E]` of clips `[E]` and at offsets `[O]` seconds, `{key: [E, O, *row]}`.

        Nothing is checked here, and nothing waits for the device; see `MotionLookup.at`. `first` is the row, int64
        `[E]`, where frame 0 of each clip would lie; None = where it lies.
        """
        first = self.first[clip] if first is None else first
        frame, fraction, valid = rules.moments(
            LIBRARY, time[:, None] + offsets, self.fps[clip][:, None], self.last[clip][:, None]
        )
        row = first[:, None] + frame.to(torch.int64)
        after = row + (fraction > 0)
        turn = self._turn(clip, time, first, row, after, fraction, anchor_pos, anchor_quat)
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
        first: Tensor,
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
        here = first + frame.to(torch.int64)
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

    def checked_poses(self, poses: Mapping[str, Any], batch: tuple[int, ...]) -> dict[str, Tensor]:
        """Return poses that were given as float32 `[E, 3]` or `[E, 4]`; ArgumentError for what does not fit."""
        given = {name: pose for name, pose in poses.items() if pose is not None}
        if self.frame == "robot" and not {"anchor_pos", "anchor_quat"} <= given.keys():
            raise ArgumentError("frame='robot' needs anchor_pos and anchor_quat, where the robot's anchor is")
        if self.frame != "world" and "env_origins" in given:
            raise ArgumentError(f"env_origins: frame={self.frame!r} has its own place")
        found = {}
        for name, pose in given.items():
            tensor = torch.as_tensor(pose, device=self.device)
            width = 4 if name == "anchor_quat" else 3
            if tensor.shape != (*batch, width) or tensor.dtype == torch.bool or tensor.is_complex():
                raise ArgumentError(f"{name}: expected numbers {[*batch, width]}, found {list(tensor.shape)}")
            found[name] = tensor.to(torch.float32).reshape(-1, width)
        return found


class ResidentMotion(DeviceMotion):
    """All clips of a mixture on a device.

    Args:
        mixture: what to upload: its keys with the bodies and joints that were chosen, and the anchor.
        device: where to.
        budget: bytes that may be used; None = what a CUDA device has free, anything elsewhere.

    Raises:
        BudgetError: it does not fit; the message says by how much. Nothing was uploaded.
    """

    def __init__(self, mixture: Mixture, device: torch.device, budget: int | None) -> None:
        super().__init__(mixture, device)
        states = int((mixture.last + 1).sum())
        needed = states * self.row_bytes
        budget = free_memory(device) if budget is None else budget
        if budget is not None and needed > budget:
            raise BudgetError(
                f"motion of {needed:,} bytes does not fit {budget:,} on {device}: {needed - budget:,} too many; choose "
                "fewer keys, bodies or clips, have it there in windows (window_s=), or on the host (pin_memory=True)"
            )
        self.columns = {
            key: Column(self._upload(mixture, states, partial(rows_of, key)), mixture.lookups[0].pieces(key), shape)
            for key, (shape, _) in self.layout.items()
        }
        if self.frame != "world":
            self.anchor = tuple(self._upload(mixture, states, partial(pose_of, part)) for part in range(2))

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


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a CUDA device has free; None elsewhere."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
