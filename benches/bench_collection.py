"""Recording an expert: a step, what it takes on disk, the file, a student's history; against floors and the usual way.

The usual way is MOSAIC's, said anew: steps in lists until the end, stacked and pickled then; a history that shifts all
frames. Floors are what the machine needs for the bytes alone: a copy, a write, a checksum. Times of a step are CPU
seconds of the thread that steps, for it is the simulator's.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
from iltools_datasets import TrajectoryStore
from iltools_datasets.collection import ExpertTrajectoryCollector, StudentObsBuilder
from iltools_datasets.collection.expert_file import StreamedArray, load_rollouts, write_npy
from race import Row, figure

NUM_ENVS, OBS, STUDENT, ACTIONS = 1000, 154, 770, 29
TERMS = {"command": 58, "anchor": 6, "ang_vel": 3, "joint_pos": 29, "joint_vel": 29, "actions": 29}


def cpu_ms(call: Callable[[], Any], count: int, rounds: int) -> list[float]:
    """Milliseconds of this thread per call, of each round."""
    found = []
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(count):
            call()
        found.append((time.thread_time() - start) / count * 1e3)
    return found


def middle(values: list[float]) -> float:
    return statistics.median(values)


def step_of(student: int = OBS, *, mean: bool = True) -> dict[str, Any]:
    """A step of 1,000 envs: 1,580 bytes a row with the student's frame, 154 wide, stored once."""
    generator = torch.Generator().manual_seed(0)
    step = {"observations": OBS, "actions": ACTIONS, "student_observations": student}
    step |= {"action_mean": ACTIONS, "action_sigma": ACTIONS} if mean else {}
    return {key: torch.rand((NUM_ENVS, width), generator=generator) + 0.1 for key, width in step.items()}


def test_add_step(record: Any, tmp_path: Path, quick: bool) -> None:
    step, rounds, count = step_of(), 5 if quick else 9, 40 if quick else 100
    packed = np.concatenate([value.numpy() for value in step.values()], axis=1)
    target, content, kept = np.empty_like(packed), packed.tobytes(), []
    plain = os.open(tmp_path / "floor", os.O_WRONLY | os.O_CREAT)

    def write() -> None:
        os.write(plain, packed.data)  # at the end of the file, whose pages are new each time

    def usual() -> None:
        kept.append([value.clone() for value in step.values()])

    def measured() -> Row:
        with ExpertTrajectoryCollector(OBS, ACTIONS, OBS, num_envs=NUM_ENVS) as collector:
            ours = cpu_ms(lambda: collector.add_step(**step), count, rounds)
        kept.clear()
        peers = {
            "copy": cpu_ms(lambda: np.copyto(target, packed), count, rounds),
            "write": cpu_ms(write, count // 4, rounds),
            "checksum": cpu_ms(lambda: google_crc32c.value(content), count, rounds),
            "a copy in a list": cpu_ms(usual, 20, rounds),
        }
        told = ", ".join(f"{name} {middle(values):.2f}" for name, values in peers.items())
        return figure("add_step, 1,000 envs of 1,580 B", "CPU of the thread", ours, 0.6, "ms", told)

    # The system's part of a write, which is most of it, depends on what else the disk does.
    record(measured, gated=False)
    os.close(plain)


@pytest.mark.parametrize(("mean", "target"), [(True, 1600.0), (False, 1480.0)], ids=["all", "mean is the action"])
def test_bytes_per_row(record: Any, tmp_path: Path, mean: bool, target: float) -> None:
    step = step_of(mean=mean)
    with ExpertTrajectoryCollector(OBS, ACTIONS, OBS) as collector:
        for _ in range(200):
            collector.add_step(**step)
        collector.mark_trajectory_end(count=NUM_ENVS)
        size = collector.get_statistics()["bytes_on_disk"] / collector.num_steps
    given = sum(value.numpy().nbytes for value in step.values()) / NUM_ENVS
    what = "disk per row" + ("" if mean else ", the mean is the action")
    record(figure(what, "journal", [size], target, "B", f"given {given:.0f} B"), gated=False)


@contextmanager
def peak_of_memory() -> Iterator[list[float]]:
    """How many MB of anonymous memory were taken at most since the block began, by looking every few milliseconds."""
    peak, over, before = [0.0], threading.Event(), _anonymous_mb()

    def watch() -> None:
        while not over.wait(0.003):
            peak[0] = max(peak[0], _anonymous_mb() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _anonymous_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
    return 0.0


@pytest.fixture(scope="module")
def num_steps(quick: bool) -> int:
    """Steps of 1,000 envs whose rows are 4,044 bytes in the file: 81 or 809 MB."""
    return 20 if quick else 200


@pytest.fixture(scope="module")
def expert_file(tmp_path_factory: Any, num_steps: int) -> Path:
    """The file with a student's whole history in it."""
    path = tmp_path_factory.mktemp("collected") / "expert.npy"
    step = {key: value.numpy() for key, value in step_of(STUDENT).items()}
    arrays = {
        key: StreamedArray((num_steps, *value.shape), value.dtype, repeat(value, num_steps))
        for key, value in step.items()
    }
    write_npy(path, arrays, {"num_steps": num_steps * NUM_ENVS})
    return path


def test_export(record: Any, tmp_path: Path, num_steps: int, quick: bool) -> None:
    """Export of what was recorded, against a write of as many bytes; and the memory it takes meanwhile."""
    step = step_of(STUDENT)
    collector = ExpertTrajectoryCollector(OBS, ACTIONS, STUDENT)
    for _ in range(num_steps):
        collector.add_step(**step)
    block, path, floor_path = bytes(1 << 22), tmp_path / "expert.npy", tmp_path / "floor"
    peak: list[float] = [0.0]

    def floor() -> None:
        floor_path.unlink(missing_ok=True)
        with floor_path.open("wb") as file:
            for _ in range(path.stat().st_size // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    def ours() -> None:
        nonlocal peak
        path.unlink(missing_ok=True)
        with peak_of_memory() as peak:
            collector.save(path)

    def wall(call: Callable[[], None]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def measured() -> Row:
        ours()
        pairs = [(wall(ours), wall(floor)) for _ in range(3 if quick else 5)]
        size = path.stat().st_size / 1e6
        told = f"write and sync of {size:.0f} MB {middle([b for _, b in pairs]):.2f} s"
        return figure("export to .npy", "times the floor", [a / b for a, b in pairs], 1.5, "", told)

    record(measured, gated=False)
    record(figure("export to .npy", "memory", [peak[0]], 64.0, "MB", "the usual way: 3.1 times the data"))
    collector.close()


def test_open(record: Any, expert_file: Path, quick: bool) -> None:
    """Open the file, with every check, and nothing read; the usual way unpickles it whole."""
    memory: list[float] = [0.0]

    def ours() -> None:
        load_rollouts(expert_file)

    def usual() -> None:
        np.load(expert_file, allow_pickle=True).item()

    def measured() -> Row:
        nonlocal memory
        ours()
        with peak_of_memory() as memory:
            found = cpu_ms(ours, 5, 5 if quick else 9)
        size = expert_file.stat().st_size / 1e6
        told = f"{size:.0f} MB; numpy's load {middle(cpu_ms(usual, 1, 2)):.0f} ms"
        return figure("open an expert's .npy", "CPU of the thread", found, 10.0, "ms", told)

    record(measured)
    record(figure("open an expert's .npy", "memory", [memory[0]], 1.0, "MB", "numpy: the file"), gated=False)


def env_of_terms() -> Any:
    """An env with the terms of a G1 that tracks motion."""
    manager = SimpleNamespace(
        active_terms={"policy": list(TERMS)}, group_obs_term_dim={"policy": [(width,) for width in TERMS.values()]}
    )
    return SimpleNamespace(observation_manager=manager, num_envs=NUM_ENVS, device="cpu")


class UsualHistory:
    """A buffer [N, H, width] per term, shifted by a frame each step."""

    def __init__(self, length: int) -> None:
        self.buffers = {name: torch.zeros(NUM_ENVS, length, width) for name, width in TERMS.items()}

    def step(self, frames: dict[str, Any]) -> Any:
        for name, frame in frames.items():
            buffer = self.buffers[name]
            buffer[:, 1:] = buffer[:, :-1].clone()
            buffer[:, 0] = frame
        return torch.cat([buffer.flatten(1) for buffer in self.buffers.values()], dim=1)


def test_builder(record: Any, quick: bool) -> None:
    builder, usual = StudentObsBuilder(env_of_terms(), list(TERMS), 5), UsualHistory(5)
    frames = {name: torch.rand(NUM_ENVS, width) for name, width in TERMS.items()}
    some = torch.arange(0, NUM_ENVS, 50)

    def ours() -> None:
        builder.get_observation(frames)
        builder.update_history(frames)

    def with_resets() -> None:
        ours()
        builder.reset_history(some)

    def frame() -> None:
        torch.cat(list(frames.values()), dim=1)

    count, rounds = 50 if quick else 200, 5 if quick else 9
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for situation, call in (("no ends", ours), ("twenty ends a step", with_resets)):

            def measured(call: Callable[[], None] = call, situation: str = situation) -> Row:
                found = cpu_ms(call, count, rounds)
                told = {"frame": frame, "shifting": lambda: usual.step(frames)}
                peer = ", ".join(f"{name} {middle(cpu_ms(peer, count, rounds)):.2f}" for name, peer in told.items())
                return figure("student's history, 1,000 envs of 770", situation, found, 0.3, "ms", peer)

            # Missed, as yet: torch copies runs of some hundred bytes at a third of memory's speed.
            record(measured, gated=False)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def student_store(tmp_path_factory: Any, quick: bool) -> Path:
    """Episodes of 50 steps, 1,580 bytes a row, a student's frames among them, to be read as 5 side by side."""
    path: Path = tmp_path_factory.mktemp("collected") / "store"
    builder, generator = StudentObsBuilder(env_of_terms(), list(TERMS), 5), torch.Generator().manual_seed(0)
    step = step_of()
    with ExpertTrajectoryCollector(
        OBS, ACTIONS, student_builder=builder, directory=path, max_trajectories=10**9
    ) as collector:
        for at in range(100 if quick else 600):
            frames = {name: torch.rand((NUM_ENVS, width), generator=generator) for name, width in TERMS.items()}
            collector.add_step(**{**step, "student_observations": builder.get_observation(frames)})
            builder.update_history(frames)
            if at % 50 == 49:
                collector.mark_trajectory_end(count=NUM_ENVS)
                builder.reset_history(torch.arange(NUM_ENVS))
    return path


@pytest.mark.parametrize(("size", "target"), [(256, 0.35), (4096, 4.0)])
def test_batch_with_history(record: Any, student_store: Path, size: int, target: float, quick: bool) -> None:
    """A batch as MOSAIC's trainer draws it: a student's five frames are put together while it is gathered."""
    store = TrajectoryStore.open(student_store, num_threads=1)
    keys = ["observation", "student_observation", "action", "action_mean", "action_sigma"]
    frame_alone = [key if key != "student_observation" else "student_frame" for key in keys]
    rng, rounds = np.random.default_rng(0), 5 if quick else 9
    batches = [rng.integers(0, len(store), size) for _ in range(2**17 // size)]

    def per_batch(names: list[str]) -> list[float]:
        turn = iter(batches * (rounds + 1))

        def call() -> None:
            store.gather(next(turn), names)

        cpu_ms(call, len(batches), 1)
        return cpu_ms(call, len(batches), rounds)

    def measured() -> Row:
        found, floor = per_batch(keys), per_batch(frame_alone)
        told = f"no history {middle(floor):.2f} ms, {middle(found) / middle(floor):.1f} times"
        return figure(f"batch of {size}, five frames", "CPU of the thread", found, target, "ms", told)

    record(measured, gated=False)


def test_memory_of_a_long_recording(record: Any, tmp_path: Path, quick: bool) -> None:
    """Anonymous memory above what there was after the first rows, over 10^6 rows (quick: 10^5)."""
    step, rows = step_of(), 10**5 if quick else 10**6
    with ExpertTrajectoryCollector(
        OBS, ACTIONS, OBS, max_trajectories=10**9, directory=tmp_path / "store"
    ) as collector:

        def steps(count: int) -> None:
            for at in range(count):
                collector.add_step(**step)
                if at % 50 == 49:
                    collector.mark_trajectory_end(count=NUM_ENVS)

        steps(100)
        collector.flush()
        with peak_of_memory() as peak:
            steps(rows // NUM_ENVS)
    # Where each step of the journal lies, and the tables of trajectories: 16 bytes a step, some 100 an episode.
    record(
        figure("RAM over 10^6 rows", "peak above the first 10^5", [peak[0]], 64.0, "MB", "the usual way: 4 GB"),
        gated=False,
    )


def test_seal(record: Any, tmp_path: Path, quick: bool) -> None:
    """From the last step to the sealed store, and every episode that ended then."""
    step, steps = step_of(), 20 if quick else 200
    collector = ExpertTrajectoryCollector(OBS, ACTIONS, OBS, 10**9, directory=tmp_path / "store")
    for at in range(steps):
        collector.add_step(**step)
        if at % 10 == 9:
            collector.mark_trajectory_end(env_ids=torch.arange(NUM_ENVS))
    start = time.perf_counter()
    collector.close()
    spent = time.perf_counter() - start
    rate = steps * NUM_ENVS / spent / 1e6
    told = f"{steps * NUM_ENVS / 1e3:.0f} k rows, {rate:.1f} M rows/s"
    record(figure("seal a store", "wall", [spent], 1.0, "s", told), gated=False)
