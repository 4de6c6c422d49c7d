"""Kill a process that collects, again and again, and look at what is left: `make kill-collecting`.

A child records 64 envs into a store that grows, and is killed at a call that changes the disk (before it, after it, in
the middle of a write) or at a moment of its own. What it left is checked, and the next child goes on with it.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from fault_tools import Mode, arm, compile_failing_calls
from iltools_datasets import TrajectoryStore, verify_store
from iltools_datasets.collection import ExpertTrajectoryCollector, place
from numpy.typing import NDArray

N, OBS, ACT = 64, 6, 2
_NUMBERS = re.compile(r"data-[0-9a-f-]{36}|\d{10}|(?<=spare-)\d+")
"""What differs from child to child in the names of files."""
_MODES = (Mode.KILL_BEFORE, Mode.KILL_AFTER, Mode.KILL_TORN)
_STEPS = 40
"""Steps of a child that nobody kills."""


def rows_at(step: NDArray[np.int64], env: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """Return what env `env` has at step `step`, float32 [B, width]; says both."""
    return (np.stack([step % 4096, step // 4096, env, *[step * 31 + env] * width], axis=1)[:, :width]).astype(
        np.float32
    )


def record(collector: ExpertTrajectoryCollector, at: int) -> None:
    """Record a step, and ends that only the step decides."""
    envs = np.arange(N)
    step = np.full(N, at)
    collector.add_step(rows_at(step, envs, OBS), rows_at(step, envs, ACT + 3)[:, 1 : ACT + 1])
    ended = [env for env in collector.running if (env * 7 + at) % 19 == 0]
    if ended:
        last = rows_at(np.full(len(ended), at + 2_000_000), np.array(ended), OBS)
        collector.mark_trajectory_end(env_ids=ended, truncated=at % 2 == 0, final_observations=last)


def begin(path: Path) -> ExpertTrajectoryCollector:
    """Begin a recording, or go on with the one that is there."""
    resume = (path / "manifest.json").exists()
    return ExpertTrajectoryCollector(OBS, ACT, max_trajectories=2**40, directory=path, resume=resume, overwrite=False)


def collect(path: Path, told: int, publish_seconds: float) -> None:
    """Say how many steps there are, then each step that was returned for."""
    place.PUBLISH_SECONDS = publish_seconds
    collector = begin(path)
    recording = collector._recording
    at = 0 if recording is None else recording.core.num_steps
    if at:
        collector.flush()
    os.write(told, b"%d\n" % at)
    for step in range(at, at + _STEPS):
        record(collector, step)
        if step % 7 == 3:  # as if the journal's file were full: a later one is written where this one's records lie
            collector._recording.core.next_file()
        os.write(told, b"%d\n" % (step + 1))
    collector.flush()


class Checked:
    """What is known of a store: how many of its trajectories were looked at, and the steps that were returned for."""

    def __init__(self, path: Path) -> None:
        self.path, self.trajectories, self.returned = path, 0, 0
        self.count = np.zeros((0, N), dtype=np.int64)

    def look(self) -> None:
        """Check bytes against checksums, and all rows that are new."""
        assert verify_store(self.path) == []
        store = TrajectoryStore.open(self.path)
        new = range(self.trajectories, store.num_trajectories)
        if not len(new):
            return
        first = int(store.segments.start[new[0]])
        rows = store.gather(np.arange(first, len(store)))
        names = [str(store.trajectory_name(k)).removeprefix("env").split("/") for k in new]
        env, begins = np.array(names, dtype=np.int64).T
        lengths = store.segments.length[new[0] :]
        step = np.concatenate([np.arange(b, b + n) for b, n in zip(begins, lengths, strict=True)])
        envs = np.repeat(env, lengths)
        np.testing.assert_array_equal(rows["observation"], rows_at(step, envs, OBS))
        np.testing.assert_array_equal(rows["action"], rows_at(step, envs, ACT + 3)[:, 1 : ACT + 1])
        is_last = np.zeros(len(step), dtype=bool)
        is_last[np.cumsum(lengths) - 1] = True
        known = rows["next_known"][:, 0]
        np.testing.assert_array_equal(rows["next", "observation"][~is_last], rows["observation"][1:][~is_last[:-1]])
        ended = is_last & known
        final = rows_at(step[ended] + 2_000_000, envs[ended], OBS)
        np.testing.assert_array_equal(rows["next", "observation"][ended], final)
        np.testing.assert_array_equal(
            rows["next", "observation"][is_last & ~known], rows["observation"][is_last & ~known]
        )
        if step.max() >= len(self.count):
            self.count = np.concatenate([self.count, np.zeros((int(step.max()) + 1 - len(self.count), N), np.int64)])
        np.add.at(self.count, (step, envs), 1)
        assert self.count.max() == 1
        self.trajectories = store.num_trajectories


def child_of(
    path: Path, seconds: float | None, at: int, mode: Mode, publish_seconds: float
) -> tuple[str | None, list[int]]:
    """Collect in a child and kill it; return where, or None if it went through, and the numbers it told."""
    report, report_to = os.pipe()
    told, told_to = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(report)
        os.close(told)
        if seconds is None:
            arm(path, at, mode, report_fd=report_to)
        collect(path, told_to, publish_seconds)
        os._exit(0)
    os.close(report_to)
    os.close(told_to)
    if seconds is not None:
        handle = os.pidfd_open(child)
        select.select([handle], [], [], seconds)
        os.close(handle)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(told) as lines, os.fdopen(report) as where:
        numbers = [int(line) for line in lines.read().splitlines()]
        name = where.read().strip() or None
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"child ended with {status} at {name}"
    if seconds is not None:
        name = "random: while it collects" if status else "random: after the last step"
    return (None if name is None else _NUMBERS.sub("*", name)), numbers


def run(kills: int, seed: int, directory: Path, kills_per_store: int = 50) -> Counter[str]:
    """Kill so many children; return how often each point was hit."""
    chooser = random.Random(seed)
    found: Counter[str] = Counter()
    at = 1
    while found.total() < kills:
        path = directory / "store"
        checked = Checked(path)
        for _ in range(kills_per_store):
            if found.total() >= kills:
                break
            is_random = chooser.random() < 0.3
            seconds = chooser.random() * 0.15 if is_random else None
            publish_seconds = chooser.choice([0.0, 0.005, 3600.0])
            name, numbers = child_of(path, seconds, at, chooser.choice(_MODES), publish_seconds)
            if not is_random:
                at = 1 if name is None else at + chooser.randint(1, 9)
            if name is not None:
                found[name] += 1
            if numbers:
                # What was returned for is there when the next one goes on, and at most the step that was under way.
                assert checked.returned <= numbers[0] <= checked.returned + 1, (name, numbers[0], checked.returned)
                checked.returned = numbers[-1]
            elif not (path / "manifest.json").exists():
                assert checked.returned == 0
                continue
            if (path / "manifest.json").exists():
                checked.look()
        if not (path / "manifest.json").exists():
            continue
        # Collecting goes on, and is finished.
        collector = begin(path)
        recording = collector._recording
        assert recording is not None
        steps = recording.core.num_steps
        assert checked.returned <= steps <= checked.returned + 1
        record(collector, steps)
        collector.close()
        checked.look()
        assert not TrajectoryStore.open(path).is_growing
        np.testing.assert_array_equal(checked.count, np.ones((steps + 1, N)))
        shutil.rmtree(path)
    return found


def fail_each(path: Path, error: int, wanted: tuple[str, ...]) -> set[str]:
    """Collect again and again, each time with another call failing, and return which calls failed.

    Which call is the n-th depends on two threads: one pass over all, and more until each kind that is wanted failed.
    """
    points: set[str] = set()
    for first in range(1, 62, 6):
        points |= {name for at in range(first, 700, 61) if (name := fail_one(path, at, error))}
        if all(any(point.startswith(kind) for point in points) for kind in wanted):
            break
    return points


def fail_one(path: Path, at: int, error: int) -> str | None:
    """Collect in a child in which the `at`-th call fails; return which, or None if there were not so many.

    The child checks that the error is raised, and raised again; here it is checked what it left.
    """
    report, report_to = os.pipe()
    told, told_to = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(report)
        code, said = 1, ""
        place.PUBLISH_SECONDS = 0.0
        collector = None
        try:
            arm(path, at, Mode.FAIL, error=error, report_fd=report_to)
            collector = begin(path)
            for step in range(_STEPS):
                record(collector, step)
                os.write(told_to, b"%d\n" % (step + 1))
                collector.flush()
            collector.close()
            code = 0
        except OSError as raised:
            said, code = f"{raised!r}", 2 if raised.errno == error else 3
            for call in () if collector is None or collector._recording is None else (collector.flush, collector.close):
                try:
                    call()
                    if call == collector.flush:
                        break  # the call failed for itself, not for the thread
                except OSError as again:
                    code = code if again.errno == error else 4
        except BaseException as raised:
            said = f"{raised!r}"
        finally:
            os.write(2, said.encode() if code not in (0, 2) else b"")
            os._exit(code)
    os.close(report_to)
    os.close(told_to)
    with os.fdopen(told) as lines, os.fdopen(report) as where:
        numbers = [int(line) for line in lines.read().splitlines()]
        name = where.read().strip() or None
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # Some calls may fail without harm: what is removed then goes with the next build.
    assert code in (0, 2), (name, code)
    assert (code == 0) >= (name is None), (name, code)
    if (path / "manifest.json").exists():
        checked = Checked(path)
        checked.look()
        if TrajectoryStore.open(path).is_growing:
            collector = begin(path)
            recording = collector._recording
            assert recording is not None
            assert (numbers or [0])[-1] <= recording.core.num_steps <= (numbers or [0])[-1] + 1
            record(collector, recording.core.num_steps)
            collector.close()
            checked.look()
    else:
        assert len(numbers) == 0
    shutil.rmtree(path, ignore_errors=True)
    return None if name is None else _NUMBERS.sub("*", name)


def main() -> None:
    """Kill collectors and print where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if "failing_calls" not in os.environ.get("LD_PRELOAD", ""):
        with tempfile.TemporaryDirectory() as directory:
            os.environ["LD_PRELOAD"] = str(compile_failing_calls(Path(directory)))
            child = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, *sys.argv])
        sys.exit(child)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        found = run(arguments.kills, arguments.seed, Path(directory))
    for name, count in sorted(found.items()):
        print(f"{name:90} {count:5}")
    seconds = time.monotonic() - began
    print(f"{found.total()} kills, {len(found)} points, {seconds:.0f} s: every step that was returned for, bit for bit")


if __name__ == "__main__":
    main()
