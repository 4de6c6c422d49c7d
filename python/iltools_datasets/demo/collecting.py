"""An expert collected in one process while another trains on what there is; the collector is killed on the way.

`python -m iltools_datasets.demo.collecting STORE EPISODES SEED` is the collector: a process of its own, as it would be.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from iltools_datasets.collection import ExpertTrajectoryCollector, place
from iltools_datasets.demo.cartpole import CartPole
from iltools_datasets.demo.cloning import ACTION, cartpole_features, one_thread, train, untrained_policy
from iltools_datasets.demo.events import Begun, Collected, Event, Tracked, Trained, TrainingStep
from iltools_datasets.demo.expert import SwingUpExpert
from iltools_datasets.demo.recording import random_starts
from iltools_datasets.demo.tracking import track
from iltools_datasets.errors import StoreNotFoundError
from iltools_datasets.replay.manager import ExpertReplayManager
from iltools_datasets.store.maintenance import verify_store
from iltools_datasets.store.trajectory_store import TrajectoryStore

STORE_NAME = "collected"
_NUM_ENVS = 64
_SHORTEST, _LONGEST = 150, 350  # steps of an episode
_PUSH_STD, _PUSH_MEMORY = 1.0, 0.9
_FEW, _KILLED_AT, _MORE = 32, 128, 384  # episodes
_SECONDS_PER_STEP = 0.002  # a simulator takes its time, too
_UNTIL_KILLED = 2**40
_PUBLISH_SECONDS = 0.5
_TRAINING_STEPS, _TRAINING_BATCH = 2000, 1024
_NUM_STARTS, _TRACKED_SECONDS = 128, 6.0
_LIMIT_DEGREES, _LIMIT_UPRIGHT_SHARE = 5.0, 0.95
_PATIENCE_SECONDS = 120.0


class CollectorDiedError(RuntimeError):
    """The collector's process ended before it was to."""


def collect(path: Path, episodes: int, seed: int) -> None:
    """Record the expert in 64 cart-poles until so many episodes are over, and say of each step that it was recorded.

    The first line is the number of steps that were there already. Goes on with an unfinished recording.
    """
    place.PUBLISH_SECONDS = _PUBLISH_SECONDS
    plant = CartPole()
    expert = SwingUpExpert(plant)
    collector = ExpertTrajectoryCollector(
        4, 1, max_trajectories=episodes, directory=path, resume=(path / "manifest.json").exists(), num_envs=_NUM_ENVS
    )
    collector.stop_after(episodes)
    print(collector.num_steps, flush=True)
    rng = np.random.default_rng((seed, collector.num_steps))
    state, age = random_starts(rng, _NUM_ENVS, np.pi), np.zeros(_NUM_ENVS, dtype=int)
    lengths, push = rng.integers(_SHORTEST, _LONGEST, _NUM_ENVS), np.zeros(_NUM_ENVS)
    with collector:
        while not collector.is_full or collector.running:
            force = expert(state)
            collector.add_step(state.astype(np.float32), force[:, None].astype(np.float32))
            push = _PUSH_MEMORY * push + np.sqrt(1 - _PUSH_MEMORY**2) * rng.normal(0, _PUSH_STD, _NUM_ENVS)
            state, age = plant.step(state, force + push), age + 1
            ended = age >= lengths
            over = [env for env in collector.running if ended[env]]
            if over:
                last = state[over].astype(np.float32)
                collector.mark_trajectory_end(env_ids=over, truncated=True, final_observations=last)
            state[ended] = random_starts(rng, int(ended.sum()), np.pi)
            age[ended] = 0
            print(collector.num_steps, flush=True)
            time.sleep(_SECONDS_PER_STEP)


class _Collector:
    """The collector's process; it says in a file what was recorded."""

    def __init__(self, path: Path, episodes: int, seed: int, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "iltools_datasets.demo.collecting", str(path), str(episodes), str(seed)]
        with log.open("wb") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)

    def said(self) -> list[int]:
        """Return the rows that were there, and after each step. A line that a kill cut was not said."""
        lines = self.log.read_bytes().splitlines(keepends=True)
        return [int(line) for line in lines if line.endswith(b"\n") and line.strip().isdigit()]

    def kill(self) -> int:
        """Kill it, and return the rows of the last step that was recorded for it."""
        self.process.kill()
        self.process.wait()
        return self.said()[-1]

    def check(self) -> None:
        """Raise `CollectorDiedError` with its last words if it failed."""
        if self.process.poll():
            raise CollectorDiedError(f"the collector failed: {self.log.read_text(errors='replace')[-500:]}")

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Look again and again until something has come; `CollectorDiedError` if it fails first, or takes too long."""
        began = time.monotonic()
        while not what():
            self.check()
            if time.monotonic() - began > _PATIENCE_SECONDS:
                raise CollectorDiedError(f"nothing has come for {_PATIENCE_SECONDS:.0f} s")
            time.sleep(0.05)


def demo_collecting(workdir: Path, seed: int = 0, training_steps: int = _TRAINING_STEPS) -> Iterator[Event]:
    """Train on a store while it is collected, kill the collector on the way, and let another one go on.

    The store is `workdir`/collected. The last event is `Tracked`. Raises `CollectorDiedError` if it dies otherwise.
    """
    path, plant = workdir / STORE_NAME, CartPole()
    yield Begun("an expert begins to collect, in a process of its own")
    collectors = [_Collector(path, _UNTIL_KILLED, seed, workdir / "collector-0.log")]
    try:
        collectors[0].wait_for(lambda: _num_trajectories(path) >= _FEW)
        manager = ExpertReplayManager.load(path, sample_batch_size=_TRAINING_BATCH, seed=seed)
        policy = untrained_policy(manager.buffer.sample(), ACTION, cartpole_features, seed)
        growth, losses, rows_said = [len(manager.segments)], [], 0
        started = time.perf_counter()
        with one_thread():
            for step, loss in enumerate(train(policy, manager.buffer, ACTION, training_steps), start=1):
                losses.append(loss)
                if step % 25 and step < training_steps:
                    continue
                if step == training_steps and len(collectors) == 1:
                    collectors[0].wait_for(lambda: _num_trajectories(path) >= _KILLED_AT)
                if (count := manager.refresh()) > growth[-1]:
                    growth.append(count)
                if len(collectors) == 1 and count >= _KILLED_AT:
                    rows_said = collectors[0].kill()
                    collectors.append(_Collector(path, count + _MORE, seed, workdir / "collector-1.log"))
                collectors[-1].check()
                yield TrainingStep(step, training_steps, loss)
        seconds = time.perf_counter() - started
        yield Begun("waiting for the last episodes")
        again = collectors[-1]
        again.wait_for(lambda: again.process.poll() == 0)
        growth.append(manager.refresh())
    finally:
        for collector in collectors:
            if collector.process.poll() is None:
                collector.kill()
    yield Collected(
        rows_said=rows_said,
        rows_found=again.said()[0],
        growth=tuple(growth),
        num_transitions=len(manager.store),
        is_finished=not manager.store.is_growing,
        damages=len(verify_store(path)),
        row_bytes=manager.store.bytes_on_disk / len(manager.store),
    )
    curve = [float(stretch.mean()) for stretch in np.array_split(losses, min(60, len(losses)))]
    yield Trained(ACTION.name, training_steps * _TRAINING_BATCH, losses[0], curve[-1], tuple(curve), seconds)
    yield Begun("rolling the policy out against the expert")
    with one_thread():
        tracking = track(plant, policy.act, np.random.default_rng(seed), _NUM_STARTS, _TRACKED_SECONDS)
    yield Tracked(tracking, _LIMIT_DEGREES, _LIMIT_UPRIGHT_SHARE)


def _num_trajectories(path: Path) -> int:
    try:
        return TrajectoryStore.open(path).num_trajectories
    except StoreNotFoundError:
        return 0


def main() -> None:
    """Collect as the arguments say."""
    collect(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
