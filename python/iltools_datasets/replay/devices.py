"""Where batches go, and what a manager may be asked for."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase

from iltools_datasets._base.integers import checked_integer


class ToDevice:
    """A buffer's transform that moves a batch; its target can be changed in place."""

    device = torch.device("cpu")
    non_blocking = True

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        return batch.to(self.device, non_blocking=self.non_blocking)


def checked_device(device: torch.device | str) -> torch.device:
    """Return the device; `RuntimeError` if it is a CUDA device and there is none."""
    target = torch.device(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {device!r}: torch finds no CUDA device on this machine")
    return target


def check_sampling(device: torch.device | str, batch_size: int, prefetch: int | None, pin_memory: bool) -> torch.device:
    """Return the device, after checking what a manager is asked for; `RuntimeError` or `ValueError` if it cannot be."""
    checked_integer("batch_size", batch_size, low=1)
    if prefetch is not None:
        checked_integer("prefetch", prefetch, low=0)
    if pin_memory and not torch.cuda.is_available():
        raise RuntimeError("pin_memory=True: torch finds no CUDA device on this machine")
    return checked_device(device)
