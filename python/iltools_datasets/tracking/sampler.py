"""Thousands of envs, each following a clip at its own time."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

from iltools_datasets.errors import ArgumentError
from iltools_datasets.store.keys import Key
from iltools_datasets.tracking import checkpoint
from iltools_datasets.tracking.counts import Statistics
from iltools_datasets.tracking.host_sampler import HostSampler

if TYPE_CHECKING:
    from iltools_datasets.tracking.jax_data import MotionData

_OF_DEVICES = ("window_s", "wait", "budget")


class MotionSampler(HostSampler):
    """Where each env is in its clip, the reference there and at offsets from it, and where the env starts next.

    Of a loop each step is: `ended = step()`; `reset(ids, terminated[ids])` of the envs that terminated or ended; the
    simulator's own forward pass; `lookup()`. Once per iteration `sync()`.

    Arguments and methods are those of `HostSampler`. With `device=` and without `pin_memory=True` all of it, motion,
    envs and counts, lives on that device: what is made is a `ResidentSampler`, which takes `budget=`, too. With
    `window_s=`, `wait=` and `budget=` as well it is a `RollingSampler`, for motion that does not fit there. `to_jax`
    gives the same to the pure functions of `tracking.jax_motion`.

    Examples:
        >>> sampler = MotionSampler(TrajectoryStore.open("motion"), num_envs=64, control_dt=0.02, offsets=[0, 1, 2])
        >>> sampler.reset()
        >>> sampler.lookup()["joint_pos"].shape
        (64, 3, 3)
        >>> ended = sampler.step()
        >>> sampler.reset(ended)
        >>> sampler.sync()
    """

    __signature__ = signature(HostSampler)

    def __new__(cls, *arguments: Any, pin_memory: bool = False, device: Any = None, **options: Any) -> Any:
        if device is None or pin_memory:
            if odd := [name for name in _OF_DEVICES if name in options]:
                raise ArgumentError(f"{odd[0]}: is for motion on a device, with device= and without pin_memory=True")
            return super().__new__(cls)
        if options.get("window_s") is not None:
            from iltools_datasets.tracking.rolling_cache import RollingSampler

            return RollingSampler(*arguments, device=device, **options)
        from iltools_datasets.tracking.torch_resident import ResidentSampler

        return ResidentSampler(*arguments, device=device, **options)

    def to_jax(self, keys: Sequence[Key] | None = None) -> MotionData:
        """Return motion, bins and what they weigh as a pytree on JAX's default device, for `tracking.jax_motion`.

        Args:
            keys: some of `self.keys`; None = all. Float64 becomes float32 unless JAX is told to have it.

        Raises:
            ArgumentError, MissingKeyError: no such key; numbers or states that int32 does not hold; boundary "error".
            MissingExtraError: JAX is not installed.
        """
        from iltools_datasets.tracking.jax_data import motion_data

        return motion_data(
            self._mixture,
            self._bins,
            self._tracker.next_base(),
            keys,
            offsets=self.offsets,
            control_dt=self.control_dt,
            any_time=self._config["start"] == "time",
            adaptive=self.adaptive,
            origins=self._origins,
        )

    def statistics(self) -> Statistics:
        """Return what happened in each bin, for `jax_motion.new_state` or another sampler of the same clips."""
        saved = self._tracker.save()
        return Statistics(**{name: saved[name] for name in Statistics.__slots__})

    def load_statistics(self, statistics: Statistics) -> None:
        """Take over what happened in each bin elsewhere, and the table that follows from it; envs stay where they are.

        Raises:
            ArgumentError: of other bins, or what cannot be. Nothing has changed.
        """
        statistics.check(len(self._bin_clip))
        saved = self._tracker.save()
        drawn, syncs = saved.pop("drawn"), saved.pop("syncs")
        saved.pop("scores")
        saved |= {name: getattr(statistics, name) for name in Statistics.__slots__}
        tracker = checkpoint.new_tracker(self._config, self._bins, saved["masses"])
        base = self._tracker.base
        scores = self.adaptive.scores(statistics.failures.copy(), statistics.passes.copy(), base)
        first, second = drawn.tolist()
        tracker.restore(**saved, scores=scores, drawn=(first, second), syncs=int(syncs[0]))
        self._tracker = tracker
