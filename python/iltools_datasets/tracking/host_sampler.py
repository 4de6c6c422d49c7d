"""A sampler whose envs and counts are in the core, and whose look-ups are the native ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets import _core
from iltools_datasets._base.integers import checked_integer, checked_integers
from iltools_datasets._base.saved_state import UINT64_MAX
from iltools_datasets.errors import ArgumentError, OutOfRangeError
from iltools_datasets.motion.description import QuaternionOrder
from iltools_datasets.motion.layout import Name
from iltools_datasets.motion.lookup import Frame, Heading, as_floats
from iltools_datasets.ranks import checked_rank
from iltools_datasets.store.keys import Key
from iltools_datasets.tracking import checkpoint
from iltools_datasets.tracking.adaptive import UNIFORM, Adaptive
from iltools_datasets.tracking.counts import AllReduce, summed
from iltools_datasets.tracking.coverage import Coverage, CoverageWarning, warning_of
from iltools_datasets.tracking.inputs import (
    checked_offsets,
    checked_places,
    checked_rows,
    checked_seconds,
    refuse_unplaced,
    which_envs,
)
from iltools_datasets.tracking.mixture import Mixture, Stores
from iltools_datasets.tracking.outputs import As, Outputs, as_numpy, as_output
from iltools_datasets.tracking.resume import resumed

_DEFAULT = Adaptive()


class HostSampler:
    """What a `MotionSampler` takes and does.

    Args:
        store: an open store, or several by name: `{"amass": store_a, "lafan": store_b}`; these must agree in keys,
            kinds and names of bodies and joints.
        num_envs: E.
        control_dt: seconds of a control step.
        offsets: what `lookup` looks at, in control steps from now: ints or floats, negative = past.
        keys, bodies, joints, anchor, frame, heading, quat_order, boundary, fps, kinds: see `MotionLookup`; `fps` may be
            `{store: fps}`.
        env_origins: `[E, 3]` metres, added to positions in the world.
        start: envs start at a "frame" of the drawn bin, or at any "time" in it; at least a control step before the end.
        adaptive: how failures become starts; None = all bins take turns.
        weights: share of each store of several; None = by what its clips weigh.
        clip_weights: `[clips]` or `{clip name: weight}` (others 1), times the base measure; 0 leaves a clip out.
        seed, rank, world_size: start number n of a rank depends on these, n and the table alone.
        as_: "numpy", "torch" or "tensordict". pin_memory, device: for the latter two, see `Outputs`.

    Attributes:
        clip_names: `<task>/<name>` of each clip, behind `<store>/` where there are several stores.

    Raises:
        ArgumentError, MissingKeyError, SchemaError: an argument that does not fit; each names itself.
    """

    def __init__(
        self,
        store: Stores,
        num_envs: int,
        control_dt: float,
        offsets: ArrayLike = (0,),
        *,
        keys: Sequence[Key] | None = None,
        bodies: Sequence[Name] | None = None,
        joints: Sequence[Name] | None = None,
        anchor: Name | None = None,
        frame: Frame = "world",
        heading: Heading = "relative",
        quat_order: QuaternionOrder = "wxyz",
        boundary: Literal["hold", "error"] = "hold",
        fps: Any = None,
        kinds: Mapping[Key, Any] | None = None,
        env_origins: ArrayLike | None = None,
        start: Literal["frame", "time"] = "frame",
        adaptive: Adaptive | None = _DEFAULT,
        weights: Mapping[str, float] | None = None,
        clip_weights: ArrayLike | Mapping[str, float] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        as_: As = "numpy",
        pin_memory: bool = False,
        device: Any = None,
    ) -> None:
        self.num_envs = checked_integer("num_envs", num_envs, 1)
        self.control_dt = checked_seconds("control_dt", control_dt)
        self.offsets = checked_offsets(offsets)
        if start not in ("frame", "time"):
            raise ArgumentError(f"start: expected 'frame' or 'time', found {start!r}")
        if not isinstance(adaptive, Adaptive | None):
            raise ArgumentError(f"adaptive: expected an Adaptive or None, found {adaptive!r:.80}")
        self.adaptive = UNIFORM if adaptive is None else adaptive
        self._outputs = Outputs(as_, pin_memory, device)
        options: dict[str, Any] = {"keys": keys, "bodies": bodies, "joints": joints, "anchor": anchor, "frame": frame}
        options |= {"heading": heading, "quat_order": quat_order, "boundary": boundary, "kinds": kinds}
        self._mixture = Mixture(store, fps, options)
        self.clip_names = self._mixture.names
        self._origins = None if env_origins is None else checked_rows("env_origins", env_origins, (self.num_envs, 3))
        bin_s = float(self.adaptive.bin_s)
        self._bins = _core.MotionBins(self._mixture.last, self._mixture.fps, self.control_dt, bin_s)
        self._bin_clip = self._bins.clip
        self._startable = np.isin(np.arange(len(self.clip_names)), self._bin_clip)
        self._weights = None if weights is None else self._mixture.checked_weights(weights)
        self._clip_weights = np.ones(len(self.clip_names))
        if clip_weights is not None:
            self._clip_weights = self._mixture.checked_clip_weights(as_numpy(clip_weights), self._clip_weights)
        self._config = checkpoint.plain(
            {
                "num_envs": self.num_envs,
                "control_dt": self.control_dt,
                "start": start,
                "seed": checked_integer("seed", seed, 0, UINT64_MAX),
                **checked_rank(rank, world_size),
                "adaptive": self.adaptive.config(),
                "stores": [[name, each.uuid, each.num_trajectories] for name, each in self._mixture.stores.items()],
            }
        )
        self._tracker = checkpoint.new_tracker(
            self._config, self._bins, self._masses(self._weights, self._clip_weights)
        )
        self._counting = True
        self._warned = False

    @property
    def keys(self) -> list[Key]:
        """What is looked up."""
        return self._mixture.keys

    @property
    def clip(self) -> Any:
        """Clip of each env, int64 `[E]`; -1 before its first reset."""
        return self._outputs.array(self._tracker.clip)

    @property
    def time(self) -> Any:
        """Seconds from the first frame of its clip, float64 `[E]`: start + n · control_dt, so nothing accumulates."""
        return self._outputs.array(self._tracker.time)

    def probabilities(self) -> NDArray[np.float64]:
        """Return how likely the next start is in each bin, float64 `[bins]`."""
        return self._tracker.probabilities()

    def report_failures(self, env_ids: Any = None, terminated: Any = None) -> None:
        """Book a failure where each env stands that has terminated, as `reset` does first.

        Args:
            env_ids: ids int `[n]` or a mask bool `[E]`; None = all.
            terminated: bool `[n]`, or `[E]` with a mask; None = all of them.
        """
        ids, failed = self._which(env_ids, terminated)
        self._tracker.report(ids, np.ones(len(ids), dtype=bool) if failed is None else failed, self._counting)

    def reset(
        self,
        env_ids: Any = None,
        terminated: Any = None,
        *,
        clip: ArrayLike | None = None,
        time: ArrayLike | None = None,
    ) -> None:
        """Book failures where these envs stand, then draw them new starts.

        Args:
            env_ids: ids int `[n]` or a mask bool `[E]`; None = all.
            terminated: bool `[n]`, or `[E]` with a mask: which of them failed; None = none. Time-outs and ends of clips
                are no failures.
            clip: int or int `[n]`: put them into these clips instead.
            time: seconds, `[n]` or one for all, where in the clip; 0 by default.

        Raises:
            OutOfRangeError, ArgumentError: an env, clip or time that is not there, or an env twice; nothing was booked
                or moved.
        """
        ids, failed = self._which(env_ids, terminated)
        if clip is None and time is None:
            self._tracker.reset(ids, failed, self._counting)
            return
        places, seconds = checked_places(ids, clip, time, self._mixture.last, self._mixture.fps)
        self._tracker.place(ids, places, seconds, failed, self._counting)

    def step(self) -> Any:
        """Count a visit where each env stands and move it by a control step.

        Returns:
            bool `[E]`: the clip is over. Until it is reset such an env stands on its last frame, not "valid".

        Raises:
            ArgumentError: an env was never reset; nothing has moved.
        """
        return self._outputs.array(self._tracker.step(self._counting))

    def lookup(
        self,
        offsets: ArrayLike | None = None,
        keys: Sequence[Key] | None = None,
        anchor_pos: Any = None,
        anchor_quat: Any = None,
        out: Mapping[Key, Any] | None = None,
        *,
        env_ids: Any = None,
    ) -> Any:
        """Return the motion where envs stand and at offsets from there.

        Args:
            offsets: `[O]` control steps; None = those of the sampler.
            keys: some of `self.keys`; None = all.
            anchor_pos: `[E, 3]`, the robot's anchor now, after any reset; frame "robot" needs it.
            anchor_quat: `[E, 4]`.
            out: `{key: C-contiguous array or tensor on the CPU [E, O, *row]}` to fill.
            env_ids: some envs, as in `reset`, in that order; rows, poses and outputs are theirs then.

        Returns:
            `{key: [E, O, *row]}` and under "valid" bool `[E, O]`, as `as_` says.

        Raises:
            MissingKeyError, ArgumentError, OutOfRangeError: nothing was written.
        """
        clip, time, origins = self._standing(env_ids)
        poses = {"anchor_pos": anchor_pos, "anchor_quat": anchor_quat, "env_origins": origins}
        return self._looked_up(clip, time, offsets, keys, poses, out)

    def lookup_at(
        self,
        clip: ArrayLike,
        time: ArrayLike,
        offsets: ArrayLike | None = None,
        keys: Sequence[Key] | None = None,
        anchor_pos: Any = None,
        anchor_quat: Any = None,
        out: Mapping[Key, Any] | None = None,
    ) -> Any:
        """Return the motion at any times; no env is looked at and nothing is counted.

        Args:
            clip: int `[...]`, numbers of clips as in `clip_names`.
            time: seconds, `[...]`; broadcasts with `clip`.
            offsets: `[O]` control steps; None = those of the sampler. Pairs of states are `[0, 1]`.
            keys, anchor_pos, anchor_quat, out: as in `lookup`, rows `[...]`.

        Returns:
            `{key: [..., O, *row]}` and "valid" `[..., O]`.
        """
        last = len(self.clip_names) - 1
        clips = checked_integers("clip", np.asarray(as_numpy(clip)), 0, last, outside=OutOfRangeError)
        seconds = as_floats("time", as_numpy(time))
        if not np.isfinite(seconds).all():
            raise ArgumentError("time: expected finite numbers")
        try:
            clips, seconds = np.broadcast_arrays(clips, seconds)
        except ValueError:
            shapes = f"{list(clips.shape)} and {list(seconds.shape)}"
            raise ArgumentError(f"clip and time: shapes {shapes} do not fit together") from None
        poses = {"anchor_pos": anchor_pos, "anchor_quat": anchor_quat}
        return self._looked_up(clips, seconds, offsets, keys, poses, out)

    def sync(self, all_reduce: AllReduce | None = None) -> None:
        """Turn what was counted since the last time into the table that starts are drawn from: once per iteration.

        Args:
            all_reduce: sums int64 `[n]` over all ranks, in place or by what it returns: `ranks.torch_sum()`,
                `ranks.jax_sum()`, or anything else that does. Needed where `world_size` is above 1; all ranks call.

        Raises:
            ArgumentError: it is missing, its sums cannot be, or a `score` says something impossible. Nothing changed.

        Warns:
            CoverageWarning: once, where after three starts per clip some clip was never started.
        """
        if all_reduce is None and self._config["world_size"] > 1:
            raise ArgumentError(f"all_reduce: is needed to sum the counts of {self._config['world_size']} ranks")
        counted = self._counted(all_reduce)
        scores = None
        if self.adaptive.score is not None:
            passes, failures = self._tracker.folded(counted)
            scores = self.adaptive.scores(failures, passes, self._tracker.next_base())
        self._tracker.sync(counted, scores)
        self._settled()
        if not self._warned:
            weighs = self._masses(self._weights, self._clip_weights) > 0
            if (text := warning_of(self.clip_names, weighs, self._tracker.clip_starts())) is not None:
                self._warned = True
                warnings.warn(text, CoverageWarning, stacklevel=2)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing within: no visit, failure or start; starts are drawn from a stream of their own."""
        before, self._counting = self._counting, False
        try:
            yield
        finally:
            self._counting = before

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Give each of several stores its share of the base measure, from the next `sync` on; 0 leaves one out."""
        checked = self._mixture.checked_weights(weights)
        self._tracker.set_masses(self._masses(checked, self._clip_weights))
        self._weights = checked

    def set_clip_weights(self, weights: ArrayLike | Mapping[str, float]) -> None:
        """Give clips their weights, `[clips]` or `{clip name: weight}`, from the next `sync` on; 0 leaves one out."""
        checked = self._mixture.checked_clip_weights(as_numpy(weights), self._clip_weights)
        self._tracker.set_masses(self._masses(self._weights, checked))
        self._clip_weights = checked

    def coverage(self) -> Coverage:
        """Return what was seen of clips and bins, by all ranks up to the last sync and by this one since."""
        return Coverage.of(self.clip_names, self._bins, self._tracker, self._since(), self.control_dt)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that what follows depends on: arrays, and a text; no pickle is needed."""
        arrays, numbers = self._saved()
        arrays |= {"last": self._mixture.last, "fps": self._mixture.fps, "clip_weights": self._clip_weights}
        about = {"config": self._config, "weights": self._weights, "warned": self._warned, **numbers}
        return checkpoint.sealed(arrays, about)

    def load_state_dict(self, state: Mapping[str, Any], *, envs: bool = True) -> None:
        """Go to where a state was taken: what follows is what would have followed, bit for bit.

        Args:
            state: of a sampler over the same stores, with the same configuration. That of another `world_size` gives
                what all ranks share, and must have been taken right after `sync`; envs have to be reset then.
            envs: False takes only what ranks share, whatever `num_envs` and `rank` were.

        Raises:
            StateError: another store, other bins, another configuration, anything damaged or impossible. Nothing
                changed.
        """
        found = resumed(state, self._config, self._bins, self._mixture, envs)
        self._tracker, self._weights = found.tracker, found.weights
        self._clip_weights, self._warned = found.clip_weights, found.warned
        self._take_over()

    def dumps(self, path: str | Path) -> None:
        """Write the state into a file (`.npz`); a kill leaves the old file or the new one."""
        checkpoint.write_state(path, self.state_dict())

    def loads(self, path: str | Path, *, envs: bool = True) -> None:
        """Read what `dumps` wrote; see `load_state_dict`."""
        self.load_state_dict(checkpoint.read_state(path), envs=envs)

    def _which(self, env_ids: Any, terminated: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        return which_envs(env_ids, terminated, self.num_envs)

    def _standing(self, env_ids: Any) -> tuple[Any, Any, Any]:
        """Return clip, time and origin of all envs, or of some; ArgumentError where one was never reset."""
        clip, time, origins = self._tracker.clip, self._tracker.time, self._origins
        ids = None if env_ids is None else self._which(env_ids, None)[0]
        if ids is not None:
            clip, time, origins = clip[ids], time[ids], None if origins is None else origins[ids]
        refuse_unplaced(clip, ids)
        return clip, time, origins

    def _since(self) -> NDArray[np.int64]:
        return self._tracker.since()

    def _counted(self, all_reduce: AllReduce | None) -> NDArray[np.int64] | None:
        return None if all_reduce is None else summed(all_reduce, self._since())

    def _settled(self) -> None: ...
    def _saved(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return checkpoint.save(self._tracker)

    def _take_over(self) -> None: ...

    def _masses(self, weights: Mapping[str, float] | None, clip_weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._mixture.masses(self._startable, self.adaptive.base, clip_weights, weights)

    def _looked_up(
        self,
        clip: NDArray[np.int64],
        time: NDArray[np.float64],
        offsets: ArrayLike | None,
        keys: Sequence[Key] | None,
        poses: Mapping[str, Any],
        out: Mapping[Key, Any] | None,
    ) -> Any:
        steps = self.offsets if offsets is None else checked_offsets(offsets)
        names = self.keys if keys is None else [keys] if isinstance(keys, str) else list(keys)
        batch = (*clip.shape, len(steps))
        written = None
        if out is not None:
            written = {key: as_output(key, array) for key, array in out.items()}
        elif self._outputs.pin_memory:
            rows = {key: self._mixture.row(key) for key in names}
            written = self._outputs.pinned({key: ((*batch, *shape), dtype) for key, (shape, dtype) in rows.items()})
        given = {name: as_numpy(pose) for name, pose in poses.items()}
        found = self._mixture.at(clip, time, steps * self.control_dt, names, given, written)
        return self._outputs.rows(found, out, batch)
