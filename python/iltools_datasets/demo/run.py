"""The demo from end to end, as a stream of events; what they look like on a terminal is the command line's business."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from iltools_datasets._base.files import bytes_below
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.demo.cartpole import CartPole
from iltools_datasets.demo.cloning import (
    ACTION,
    MOTION,
    ClonedPolicy,
    Features,
    cartpole_features,
    one_thread,
    train,
    untrained_policy,
)
from iltools_datasets.demo.events import Begun, Built, Event, Recorded, Sampled, Tracked, Trained, TrainingStep
from iltools_datasets.demo.recording import archive_clips, record_clips
from iltools_datasets.demo.sampling import measure_modes
from iltools_datasets.demo.tracking import track
from iltools_datasets.ingest.default_keys import default_obs_keys
from iltools_datasets.ingest.report import BuildReport
from iltools_datasets.replay.from_archive import build_replay_from_zarr

ARCHIVE_NAME = "expert.zarr"
STORE_NAME = "store"
_NUM_SWING_UP, _NUM_BALANCE = 360, 40
_NUM_STARTS, _TRACKED_SECONDS = 128, 6.0
_LIMIT_DEGREES, _LIMIT_UPRIGHT_SHARE = 3.0, 0.95
_SECONDS_PER_MODE = 0.3
_TRAINING_STEPS, _TRAINING_BATCH = 2000, 1024
_CURVE_POINTS = 60


def demo_on_cartpole(workdir: Path, seed: int = 0, training_steps: int = _TRAINING_STEPS) -> Iterator[Event]:
    """Simulate an expert, archive its clips, then build, sample and clone, and roll the clone out against the expert.

    The archive is `workdir`/expert.zarr and the store `workdir`/store. The last event is `Tracked`.
    """
    plant = CartPole()
    rng = np.random.default_rng(seed)
    archive = workdir / ARCHIVE_NAME
    yield Begun("simulating the expert")
    started = time.perf_counter()
    clips = record_clips(plant, rng, _NUM_SWING_UP, _NUM_BALANCE)
    archive_clips(archive, plant, clips)
    lengths = [clip.num_states for clip in clips]
    yield Recorded(
        num_clips=len(clips),
        shortest=min(lengths),
        longest=max(lengths),
        motion_seconds=sum(lengths) * plant.dt,
        array_bytes=sum(array.nbytes for clip in clips for array in (clip.qpos, clip.qvel, clip.action)),
        archive=str(archive),
        archive_bytes=bytes_below(archive),
        seconds=time.perf_counter() - started,
    )
    policy = yield from _build_sample_clone(
        archive, workdir / STORE_NAME, ["qpos", "qvel"], cartpole_features, seed, training_steps
    )
    yield Begun("rolling the policy out against the expert")
    with one_thread():
        tracking = track(plant, policy.act, rng, _NUM_STARTS, _TRACKED_SECONDS)
    yield Tracked(tracking, _LIMIT_DEGREES, _LIMIT_UPRIGHT_SHARE)


def demo_on_archive(
    archive: Path,
    workdir: Path,
    obs_keys: Sequence[str] | None = None,
    seed: int = 0,
    training_steps: int = _TRAINING_STEPS,
) -> Iterator[Event]:
    """Build a store from somebody's archive, sample it in every mode, and clone what it holds.

    The store is `workdir`/store. Without actions in the archive the network learns to predict the next observation.
    `obs_keys=None` takes `default_obs_keys`. Raises what `build_replay_from_zarr` raises.
    """
    keys = list(obs_keys) if obs_keys else default_obs_keys(ArchiveReader(archive))
    yield from _build_sample_clone(archive, workdir / STORE_NAME, keys, lambda values: values, seed, training_steps)


def _build_sample_clone(
    archive: Path, store: Path, obs_keys: Sequence[str], features: Features, seed: int, num_steps: int
) -> Generator[Event, None, ClonedPolicy]:
    yield Begun("building the store")
    manager = build_replay_from_zarr(archive, store, obs_keys=obs_keys, progress=False)
    report = manager.report
    assert report is not None  # a manager fresh from an archive has one
    yield Built(report, _array_bytes(archive, report))
    yield Begun("sampling in every mode")
    yield Sampled(tuple(measure_modes(manager, _SECONDS_PER_MODE)))
    yield Begun("cloning")
    manager.set_uniform_sampler(batch_size=_TRAINING_BATCH, without_replacement=True)
    manager.buffer.set_rng(torch.Generator().manual_seed(seed))
    target = MOTION if report.zero_action else ACTION
    policy = untrained_policy(manager.buffer.sample(), target, features, seed)
    started, losses = time.perf_counter(), []
    with one_thread():
        for step, loss in enumerate(train(policy, manager.buffer, target, num_steps), start=1):
            losses.append(loss)
            if step % 50 == 0:
                yield TrainingStep(step, num_steps, loss)
    curve = [float(stretch.mean()) for stretch in np.array_split(losses, min(_CURVE_POINTS, num_steps))]
    yield Trained(
        target=target.name,
        num_transitions=num_steps * _TRAINING_BATCH,
        first_loss=losses[0],
        last_loss=curve[-1],
        curve=tuple(curve),
        seconds=time.perf_counter() - started,
    )
    return policy


def _array_bytes(archive: Path, dropped: BuildReport) -> int:
    """Bytes in memory of the arrays of an archive that the store holds, in their own dtypes."""
    skipped = {entry.name for entry in dropped.skipped}
    return sum(
        int(np.prod(spec.shape)) * spec.dtype.itemsize
        for trajectory in ArchiveReader(archive).trajectories
        if trajectory.path not in skipped
        for key, spec in trajectory.keys.items()
        if key not in dropped.dropped_keys
    )
