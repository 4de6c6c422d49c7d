"""Thousands of envs, each following a clip at its own time."""

from __future__ import annotations

from inspect import signature
from typing import Any

from iltools_datasets.tracking.host_sampler import HostSampler


class MotionSampler(HostSampler):
    """Where each env is in its clip, the reference there and at offsets from it, and where the env starts next.

    Of a loop each step is: `ended = step()`; `reset(ids, terminated[ids])` of the envs that terminated or ended; the
    simulator's own forward pass; `lookup()`. Once per iteration `sync()`.

    Arguments and methods are those of `HostSampler`. With `device=` and without `pin_memory=True` all of it, motion,
    envs and counts, lives on that device: what is made is a `ResidentSampler`, which takes `budget=`, too.
    """

    __signature__ = signature(HostSampler)

    def __new__(cls, *arguments: Any, pin_memory: bool = False, device: Any = None, **options: Any) -> Any:
        if device is None or pin_memory:
            return super().__new__(cls)
        from iltools_datasets.tracking.torch_resident import ResidentSampler

        return ResidentSampler(*arguments, device=device, **options)
