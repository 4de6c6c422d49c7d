"""The last frames of every env, lying as an observation has them: term by term, a term's frames side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

_ROOM = 2
"""Histories that fit into a term's block. What is kept is moved to the other end when the block is used up."""


class FrameRing:
    """Frames of N envs in one tensor; what is read is one run of memory per env and term.

    A term of width d has a block of slots of d values. The kept frames are neighbours in it, newest or oldest first,
    and the next frame goes beside the newest, so that nothing is shifted.

    Args:
        dims: width of a frame of each term.
        kept: frames that are kept, at least 1.
        newest_first: how they lie.
        like: a frame [N, sum(dims)], for the dtype and the device.
    """

    def __init__(self, dims: Sequence[int], kept: int, newest_first: bool, like: torch.Tensor) -> None:
        self._slots = _ROOM * (kept + 1)
        self._dims, self._kept, self._newest_first = list(dims), kept, newest_first
        ends = list(accumulate(dim * self._slots for dim in dims))
        self._blocks = [(end - dim * self._slots, dim) for dim, end in zip(dims, ends, strict=True)]
        self._values = like.new_zeros((len(like), ends[-1]))
        self._first = self._slots - kept if newest_first else 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the frames."""
        return self._values.dtype

    def last(self, pieces: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """Return the kept frames [N, kept * sum(dims)], term by term; with `pieces` that frame, too, as the newest."""
        count, first = self._kept, self._first
        if pieces is not None:
            # Into the slot that the next frame gets: until it is pushed nobody else looks there.
            slot = self._write(pieces)
            count, first = count + 1, slot if self._newest_first else self._first
        found = self._values.new_empty((len(self._values), count * sum(self._dims)))
        at = 0
        for block, dim in self._blocks:
            width = count * dim
            found[:, at : at + width].copy_(self._values[:, block + first * dim : block + first * dim + width])
            at += width
        return found

    def push(self, pieces: Sequence[torch.Tensor]) -> None:
        """Keep a frame, [N, dim] per term, and no longer the oldest."""
        self._write(pieces)
        self._first += -1 if self._newest_first else 1

    def fill(self, envs: torch.Tensor, pieces: Sequence[torch.Tensor]) -> None:
        """Let all kept frames of some envs, bool [N], be this one."""
        for (block, dim), piece in zip(self._blocks, pieces, strict=True):
            begin = block + self._first * dim
            self._values[envs, begin : begin + self._kept * dim] = piece[envs].repeat(1, self._kept)

    def clear(self, envs: torch.Tensor) -> None:
        """Let all kept frames of some envs be zero."""
        self._values[envs] = 0

    def _write(self, pieces: Sequence[torch.Tensor]) -> int:
        self._make_room()
        slot = self._first - 1 if self._newest_first else self._first + self._kept
        for (block, dim), piece in zip(self._blocks, pieces, strict=True):
            self._values[:, block + slot * dim : block + (slot + 1) * dim].copy_(piece)
        return slot

    def _make_room(self) -> None:
        used_up = 0 if self._newest_first else self._slots - self._kept
        if self._first != used_up:
            return
        first = self._slots - self._kept if self._newest_first else 0
        for block, dim in self._blocks:
            width, source, target = self._kept * dim, block + self._first * dim, block + first * dim
            self._values[:, target : target + width].copy_(self._values[:, source : source + width])
        self._first = first
